"""The stages of a backbone: where features of several scales are read, and where task streams leave the shared one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from mtpeft.backbones.probe import Probed, block_grid, stem_map
from mtpeft.backbones.site import Site, Stage
from mtpeft.errors import ConfigError

#: a plain ViT has one scale; its features are read at the ends of its quarters (as DPT and SETR do)
QUARTERS = 4


@dataclass(frozen=True)
class Scales:
    """What a head that reads several maps is sized by: their stages, finest first, and the images (height, width)."""

    stages: Sequence[Stage]
    image_size: tuple[int, int]


def find_stages(anatomy: Probed) -> tuple[Stage, ...]:
    """Stages of a pyramid (a stage ends where width or length changes), or four taps of a plain model, finest first."""
    shapes = [_shape(anatomy, path) for path in anatomy.blocks]
    total = len(shapes)
    ends = [i for i in range(total) if i == total - 1 or shapes[i + 1] != shapes[i]]
    if len(ends) == 1:
        ends = sorted({max(0, round((i + 1) * total / QUARTERS) - 1) for i in range(QUARTERS)})
        return tuple(Stage(shapes[i][-1], anatomy.patch_size, i) for i in ends)
    stages: list[Stage] = []
    before = stem_map(anatomy.projection, anatomy.calls[anatomy.projection].output_shape)[1:]
    stride = anatomy.patch_size
    for end in ends:
        grid = rolled_grid(anatomy, end) if anatomy.rolled else block_grid(anatomy, anatomy.blocks[end])
        # 3 cells become 2, or 1: halved, as the longer side tells. Where no block holds a map, nothing reads the stages'
        # either (`Anatomy.stage_maps`)
        stride *= max(1, round(max(before) / max(grid))) if all(grid) else 1
        stages.append(Stage(shapes[end][-1], stride, end))
        before = grid
    return tuple(stages)


def find_mergings(anatomy: Probed) -> tuple[str, ...]:
    """Paths of the patch mergings between the stages, (B, H, W, C) -> (B, H / 2, W / 2, C'), in order; () without."""
    calls = {p: m for p, m in anatomy.backbone.named_modules() if m in anatomy.calls and hasattr(m, "reduction")}
    return tuple(sorted(calls, key=lambda path: anatomy.calls[calls[path]].order))


def set_stages(sites: Iterable[Site], stages: Sequence[Stage], mergings: Sequence[str]) -> None:
    """Tell every site of a block, or of the patch merging behind a stage, which stage it is of."""
    ends = [stage.block for stage in stages]
    for site in sites:
        if site.block is not None:
            site.stage, site.stage_end = bisect_left(ends, site.block), site.block in ends
        elif (merging := site.path.rpartition(".")[0]) in mergings:
            site.stage = mergings.index(merging)


def merged_stages(anatomy: Probed) -> tuple[Stage, ...]:
    """The stages after the patch merging that follows each, as some decoders read them; the last has none."""
    paths = anatomy.mergings
    if len(paths) != len(anatomy.stages) - 1:
        name = type(anatomy.backbone).__name__
        raise ConfigError(
            f"{name} has no patch merging after each of its stages; take a head that reads the stages themselves"
        )
    shapes = [anatomy.calls[anatomy.backbone.get_submodule(path)].output_shape for path in paths]
    merged = [
        Stage(shape[-1], 2 * stage.stride, stage.block)
        for shape, stage in zip(shapes, anatomy.stages[:-1], strict=True)
    ]
    return (*merged, anatomy.stages[-1])


def _shape(anatomy: Probed, path: str) -> tuple[int, int]:
    """Positions and width of a block's output."""
    shape = anatomy.calls[anatomy.backbone.get_submodule(path)].output_shape
    if anatomy.channels_first:
        return shape[2] * shape[3], shape[1]
    return shape[1] if len(shape) == 3 else shape[1] * shape[2], shape[-1]


def rolled_grid(anatomy: Probed, block: int) -> tuple[int, int]:
    """Height and width of the map that a block's output is, once its tokens are in their places."""
    shape = anatomy.calls[anatomy.backbone.get_submodule(anatomy.blocks[block])].output_shape
    rows, columns = anatomy.backbone.reroll(torch.empty(shape), block).shape[1:3]
    return rows, columns


def to_map(anatomy: Probed, features: torch.Tensor, grid: tuple[int, int], block: int) -> torch.Tensor:
    """What leaves `block`, as a map (B, C, H, W) without prefix tokens.

    `features`: tokens (B, P + HW, C) on `grid` (H, W), or in the order the model keeps them in, or a map.
    """
    if anatomy.rolled:
        features = anatomy.backbone.reroll(features, block)
    if features.ndim == 4:
        return features if anatomy.channels_first else features.permute(0, 3, 1, 2)
    return features[:, anatomy.prefixes[block] :].transpose(1, 2).unflatten(2, grid)
