"""The stages of a backbone: where features of several scales are read, and where task streams leave the shared one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mtpeft.backbones.probe import Probed, block_grid
from mtpeft.errors import ConfigError

#: a plain ViT has one scale; its features are read at the ends of its quarters (as DPT and SETR do)
QUARTERS = 4


@dataclass(frozen=True)
class Stage:
    """The end of one stage: `dim` channels of a map `stride` times smaller than the image, after block `block`."""

    dim: int
    stride: int
    block: int


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
    before, stride = anatomy.calls[anatomy.backbone.patch_embed.proj].output_shape[-2:], anatomy.patch_size
    for end in ends:
        grid = block_grid(anatomy, anatomy.blocks[end])
        # 3 cells become 2: halved. Where no block holds a map, nothing reads the stages' either (`Anatomy.stage_maps`)
        stride *= max([1, *(round(b / g) for b, g in zip(before, grid, strict=True) if g)])
        stages.append(Stage(shapes[end][-1], stride, end))
        before = grid
    return tuple(stages)


def find_mergings(anatomy: Probed) -> tuple[str, ...]:
    """Paths of the patch mergings between the stages, (B, H, W, C) -> (B, H / 2, W / 2, C'), in order; () without."""
    calls = {p: m for p, m in anatomy.backbone.named_modules() if m in anatomy.calls and hasattr(m, "reduction")}
    return tuple(sorted(calls, key=lambda path: anatomy.calls[calls[path]].order))


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
    return shape[1] if len(shape) == 3 else shape[1] * shape[2], shape[-1]


def to_map(anatomy: Probed, features: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Tokens (B, P + HW, C) on `grid` (H, W), or a map (B, H, W, C) -> (B, C, H, W) without prefix tokens."""
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2)
    return features[:, anatomy.prefix_tokens :].transpose(1, 2).unflatten(2, grid)
