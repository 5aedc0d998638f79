"""The anatomy of a timm model: its blocks, its sites, its token layout, found by structure.

One probing forward on zeros records which modules run, in which order and on which shapes; blocks are told by what they
hold (`mtpeft.backbones.blocks`). Nothing depends on the model's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.attention_families import WORDS, attention_family, learns_positions
from mtpeft.backbones.block_sites import block_sites
from mtpeft.backbones.blocks import PLAIN, parts_of
from mtpeft.backbones.model_sites import end_sites, model_sites
from mtpeft.backbones.probe import probe, stem_map, tokens_before
from mtpeft.backbones.site import NEEDS, Running, Site, Stage, acquaint
from mtpeft.backbones.stages import find_mergings, find_stages, rolled_grid, set_stages, to_map
from mtpeft.errors import ConfigError, UnknownNameError

#: said of a model that has no usable structure
SUPPORTED = (
    "supported are timm's ViT (DeiT, CLIP, DINO, MAE, SAM, relative positions, hybrids, parallel blocks), EVA, BEiT, Swin, "
    "SwinV2, PVT, PVTv2, T2T-ViT, NesT, Hiera, HieraDet, ConvNeXt and others of their structure: patch_embed.proj and blocks of "
    "norm, attention, norm, MLP, or a stem and blocks of depth-wise convolution, norm, MLP"
)
#: names a method may give besides the kinds of single sites: groups of sites by tag
GROUPS = {
    "norms": "every normalisation layer",
    "biases": "every bias vector",
    "operations": "every operation",
    "branch_ends": "the last layer of every residual branch",
}


class Anatomy:
    """Where a timm backbone keeps its sites.

    Attributes: `blocks` (paths in the order they run), `stages`, `mergings` (paths), `sites`, `feature_dim` (width of
    pooled features), `layout` of `forward_features` ("NLC", "NHWC" or "NCHW"), `grid` (final height and width),
    `prefix_tokens`, `image_size`, `input_size` (channels, height, width). `stem` and `projection`: what takes the images,
    and the convolution in it that makes tokens. `channels_first`: blocks pass maps (B, C, H, W) on. `rolled`: tokens are
    kept in an order of the model's own, for images of one size; its `reroll` puts a block's output in its places. Raises
    `ConfigError` when the model has no usable structure.
    """

    def __init__(self, backbone: nn.Module) -> None:
        """Probe `backbone` (a timm model on any device); its weights, modes and random state are left as they were."""
        self.backbone: Any = backbone
        if not all(callable(getattr(backbone, f, None)) for f in ("forward_features", "forward_head")):
            raise self._unsupported("it has no forward_features and forward_head (not a timm model?)")
        kinds = {path: parts for path, m in backbone.named_modules() if (parts := parts_of(m)) is not None}
        block_paths = list(kinds)
        self.channels_first = bool(kinds) and all(parts.convolutional for parts in kinds.values())
        stem: Any = getattr(backbone, "stem" if self.channels_first else "patch_embed", None)
        projection = _projection(stem, self.channels_first)
        if projection is None:
            raise self._unsupported("it has no patch_embed.proj convolution, nor a linear layer there")
        if not block_paths:
            raise self._unsupported(f"no transformer blocks found (modules with {', '.join(PLAIN)})")
        if self.channels_first and any(hasattr(module, "num_heads") for module in backbone.modules()):
            raise self._unsupported("it has attention outside of its blocks")
        self.stem, self.projection = stem, projection
        self.rolled = isinstance(getattr(backbone, "reroll", None), nn.Module)
        self.prefix_tokens = int(getattr(backbone, "num_prefix_tokens", 0))
        self.input_size = (_channels(stem), *_image_size(backbone, stem))
        self.image_size = self.input_size[1:]
        try:
            self.calls, self.shapes = probe(backbone, self.input_size)
        except Exception as error:  # whatever a model says to images it does not take
            size = " x ".join(map(str, self.input_size))
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            raise self._unsupported(f"it does not run on images of {size} ({said})") from error
        self.patch_size = self._patch_size()
        self.blocks = [p for p in block_paths if backbone.get_submodule(p) in self.calls]
        if not self.blocks:
            raise self._unsupported(f"its blocks ({block_paths[0]}, ...) do not map one tensor to one tensor")
        self.blocks.sort(key=lambda p: self.calls[backbone.get_submodule(p)].order)
        widths = vars(backbone)
        told = (self.calls[backbone.get_submodule(path)] for path in self.blocks)
        self.prefixes = [tokens_before(call, self.prefix_tokens) for call in told]
        self.feature_dim = int(widths.get("head_hidden_size", widths["num_features"]))
        self.layout, self.grid = self._layout(self.shapes.features)
        self.running = Running()
        self.families = self._families()
        self.block_maps = self._block_maps()
        self.stages: tuple[Stage, ...] = find_stages(self)
        self.mergings = find_mergings(self)
        self.sites: list[Site] = [*model_sites(self), *block_sites(self), *end_sites(self)]
        set_stages(self.sites, self.stages, self.mergings)
        acquaint(self.sites)

    def _unsupported(self, reason: str) -> ConfigError:
        return ConfigError(f"{type(self.backbone).__name__} is not supported: {reason}; {SUPPORTED}")

    def _patch_size(self) -> int:
        """Pixels on a side of a patch, which a hybrid cuts from the map of a convnet, coarser than the image already."""
        call, projection = self.calls.get(self.projection), self.projection
        if call is None or len(call.output_shape) != 4:
            raise self._unsupported("its patch_embed.proj gives no map")
        if isinstance(projection, nn.Conv2d):
            return int(projection.stride[0]) * max(1, round(self.image_size[0] / call.input_shape[2]))
        return round(self.image_size[0] / call.output_shape[1])

    def _families(self) -> dict[nn.Module, str]:
        """The family of every attention in a block; one that sees anything but rows of tokens is `other`."""
        families: dict[nn.Module, str] = {}
        for path in self.blocks:
            parts = parts_of(self.backbone.get_submodule(path))
            for attn in [] if parts is None else [branch.sub for branch in parts.attentions]:
                family = attention_family(attn)
                if family is None or attn not in self.calls:
                    what = f"the attention of {path} ({type(attn).__name__}) has no known projections"
                    raise self._unsupported(what)
                families[attn] = family if len(self.calls[attn].input_shape) == 3 else "other"
        return families

    def _block_maps(self) -> bool:
        """Whether what is no sequence in a block is a map: of the image's proportions, in every block."""
        if self.rolled:
            return False
        shapes = [self.calls[self.backbone.get_submodule(path)].input_shape for path in self.blocks]
        shapes = [shape[1:] for shape in shapes] if self.channels_first else shapes
        height, width = self.image_size
        return all(len(s) == 3 or abs(s[1] * width - s[2] * height) < max(height, width) for s in shapes)

    @property
    def final_map(self) -> bool:
        """Whether the final features are a map, or a class token and the tokens of one."""
        shape = self.shapes.features
        return len(shape) == 4 or (len(shape) == 3 and shape[1] - self.prefix_tokens == math.prod(self.grid))

    @property
    def stage_maps(self) -> bool:
        """Whether the stages' features are maps."""
        return self.final_map and (self.block_maps or self.rolled)

    @property
    def words(self) -> str:
        """What the model is, for messages: "a pyramid of 4 stages with attention to reduced keys and values"."""
        widths = {stage.dim for stage in self.stages}
        shape = f"a pyramid of {len(self.stages)} stages" if len(widths) > 1 else "of one scale"
        if len(widths) == 1 and self.layout != "NLC":
            shape = "a map of one scale"
        kinds = list(dict.fromkeys(_words(*pair) for pair in self.families.items())) or [
            WORDS["convolution" if self.channels_first else "fused"]
        ]
        parts = parts_of(self.backbone.get_submodule(self.blocks[0]))
        beside = ", several attentions side by side," if parts is not None and len(parts.attentions) > 1 else ""
        return f"{shape}{beside} with {' and '.join(kinds)}"

    def _layout(self, shape: tuple[int, ...]) -> tuple[str, tuple[int, int]]:
        if len(shape) == 3:
            if self.rolled:
                return "NLC", rolled_grid(self, len(self.blocks) - 1)
            stem = stem_map(self.projection, self.calls[self.projection].output_shape)[1:]
            last = self.calls[self.backbone.get_submodule(self.blocks[-1])].grid
            maps = (grid for grid in (stem, last) if grid and math.prod(grid) == shape[1] - self.prefix_tokens)
            return "NLC", next(maps, (0, 0))  # else nothing tells their map
        if str(getattr(self.backbone, "output_fmt", "")) == "NHWC" or (
            shape[-1] == self.backbone.num_features and shape[1] != self.backbone.num_features
        ):
            return "NHWC", (shape[1], shape[2])
        return "NCHW", (shape[2], shape[3])

    @property
    def kinds(self) -> set[str]:
        """Kinds of sites this backbone has, without the groups."""
        return {site.kind for site in self.sites}

    def select(
        self, names: Sequence[str], blocks: Sequence[int] | None = None, exclude: Sequence[str] = ()
    ) -> list[Site]:
        """Sites by kind or group, in the order they run, restricted to `blocks` (indices) and without `exclude`.

        `exclude` holds kinds, groups, or beginnings of module paths. Raises `UnknownNameError` for a name this
        backbone has no site of, and `ConfigError` for a block index out of range or an exclusion that excludes nothing.
        """
        total = len(self.blocks)
        wanted = set(range(total)) if blocks is None else {b + total if b < 0 else b for b in blocks}
        if not wanted <= set(range(total)):
            raise ConfigError(
                f"blocks {sorted(wanted - set(range(total)))} are out of range: the backbone has {total} blocks"
            )
        chosen: dict[str, Site] = {}
        for name in names:
            found = self._named(name)
            here = {s.block for s in found}
            lacking = set() if None in here or name not in NEEDS else wanted - here
            if not found and name in NEEDS:
                raise ConfigError(f"it needs {NEEDS[name]}, and the model is {self.words}")
            if lacking:
                raise ConfigError(
                    f"it needs {NEEDS[name]}, which blocks {sorted(lacking)} do not have; choose `blocks`"
                )
            if not found:
                backbone = self.backbone.__class__.__name__
                raise UnknownNameError("site", name, {*self.kinds, *GROUPS}, f"{backbone} has no such site")
            chosen.update({s.key: s for s in found if s.block is None or s.block in wanted})
        for pattern in exclude:
            drop = {s.key for s in self._named(pattern)} | {k for k, s in chosen.items() if _under(s.path, pattern)}
            if not drop & chosen.keys():
                raise ConfigError(
                    f"exclude={pattern!r} excludes none of the sites {sorted({s.kind for s in chosen.values()})}"
                )
            chosen = {k: s for k, s in chosen.items() if k not in drop}
        return [s for s in self.sites if s.key in chosen]

    def _named(self, name: str) -> list[Site]:
        if name in GROUPS:
            return list(_covering(s for s in self.sites if name in s.tags))
        found = [s for s in self.sites if s.kind == name]
        if not found and name == "qkv":  # split projections: the three together are what a fused qkv is
            return [s for s in self.sites if s.kind in ("q", "k", "v")]
        return found

    def feature_map(self, features: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        """Output of `forward_features` -> (B, C, H, W), without prefix tokens. `grid`: of images of another size."""
        last = len(self.blocks) - 1
        return features if self.layout == "NCHW" else to_map(self, features, grid or self.grid, last)

    def finish(self, output: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """The last block's output -> what `forward_features` gives: the final norm, in the model's own layout.

        `grid` is that of the block's tokens.
        """
        last = self.calls[self.backbone.get_submodule(self.blocks[-1])]
        norms = [s.module for s in self.sites if "norms" in s.tags and s.block is None]
        for norm in norms:
            call = self.calls[norm]
            if call.order > last.order and call.input_shape == last.output_shape:
                output = norm(output)
        if self.layout != "NCHW":
            return output
        return to_map(self, output, grid, len(self.blocks) - 1)

    def parameter(self, name: str | None) -> torch.Tensor | None:
        """A parameter of the backbone by its dotted name, or None."""
        return None if name is None else self.backbone.get_parameter(name)


def _words(attn: nn.Module, family: str) -> str:
    return WORDS[family] + (" that knows their places" if family == "plain" and learns_positions(attn) else "")


def _projection(stem: Any, convolutional: bool) -> Any:
    """The layer whose output is the first map of tokens: a patch embedding's `proj`, or the last convolution of a plain stem."""
    if not isinstance(stem, nn.Module):
        return None
    found = [m for m in stem.modules() if isinstance(m, nn.Conv2d)] if convolutional else [getattr(stem, "proj", None)]
    return found[-1] if found and isinstance(found[-1], (nn.Conv2d, nn.Linear)) else None


def _channels(stem: nn.Module) -> int:
    """Channels of the images: those the first convolution of the stem takes, a hybrid's convnet included, or `in_chans`."""
    first = next((m for m in stem.modules() if isinstance(m, nn.Conv2d)), None)
    return int(getattr(stem, "in_chans", 3) if first is None else first.in_channels)


def _under(path: str, pattern: str) -> bool:
    return path == pattern or path.startswith(pattern + ".")


def _covering(sites: Iterator[Site]) -> Iterator[Site]:
    """Each backbone parameter once: a fused qkv covers its slices."""
    seen: set[tuple[str, tuple[int, int] | None]] = set()
    for site in sites:
        if (site.path, None) in seen or (site.path, site.rows) in seen:
            continue
        seen.add((site.path, site.rows))
        yield site


def _image_size(backbone: Any, stem: Any) -> tuple[int, int]:
    size = next((m.img_size for m in (stem, backbone) if getattr(m, "img_size", None) is not None), None)
    if size is None and hasattr(backbone, "tokens_spatial_shape"):
        size = [
            tokens * stride for tokens, stride in zip(backbone.tokens_spatial_shape, backbone.patch_stride, strict=True)
        ]
    if size is None:
        config = getattr(backbone, "default_cfg", None) or {}
        size = tuple(config.get("input_size", (3, 224, 224)))[1:]
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
