"""The anatomy of a timm model: its blocks, its sites, its token layout, found by structure.

One probing forward on zeros records which modules run, in which order and on which shapes; blocks are the modules that
hold `norm1`, `attn`, `norm2` and `mlp`. Nothing depends on the model's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.attention import attention_family
from mtpeft.backbones.probe import probe
from mtpeft.backbones.site import Site
from mtpeft.backbones.site_builders import block_sites, model_sites
from mtpeft.backbones.stages import Stage, find_mergings, find_stages
from mtpeft.errors import ConfigError, UnknownNameError

BLOCK_PARTS = ("norm1", "attn", "norm2", "mlp", "drop_path1", "drop_path2")
#: names a method may give besides the kinds of single sites: groups of sites by tag
GROUPS = {"norms": "every normalisation layer", "biases": "every bias vector", "operations": "every operation"}


class Anatomy:
    """Where a timm backbone keeps its sites.

    Attributes: `blocks` (paths in the order they run), `stages`, `mergings` (paths), `sites`, `feature_dim` (width of
    pooled features), `layout` of
    `forward_features` ("NLC", "NHWC" or "NCHW"), `grid` (final height and width), `prefix_tokens`, `image_size`,
    `input_size` (channels, height, width). Raises `ConfigError` when the model has no usable structure.
    """

    def __init__(self, backbone: nn.Module) -> None:
        """Probe `backbone` (a timm model on any device); its weights, modes and random state are left as they were."""
        self.backbone: Any = backbone
        name = backbone.__class__.__name__
        if not all(callable(getattr(backbone, f, None)) for f in ("forward_features", "forward_head")):
            raise ConfigError(
                f"{name} is not supported: it has no forward_features and forward_head (not a timm model?)"
            )
        stem = getattr(backbone, "patch_embed", None)
        block_paths = [path for path, module in backbone.named_modules() if _is_block(module)]
        if not isinstance(stem, nn.Module) or not isinstance(getattr(stem, "proj", None), nn.Conv2d):
            raise ConfigError(f"{name} is not supported: it has no patch_embed.proj convolution")
        if not block_paths:
            raise ConfigError(
                f"{name} is not supported: no transformer blocks found (modules with {', '.join(BLOCK_PARTS)})"
            )
        self.prefix_tokens = int(getattr(backbone, "num_prefix_tokens", 0))
        stem_proj: Any = stem.proj
        self.input_size = (int(stem_proj.in_channels), *_image_size(backbone))
        self.image_size = self.input_size[1:]
        self.patch_size = int(stem_proj.stride[0])
        try:
            self.calls, output_shape = probe(backbone, self.input_size)
        except (RuntimeError, AssertionError) as error:
            size = " x ".join(map(str, self.input_size))
            raise ConfigError(
                f"{name} is not supported: it does not run on images of {size} ({str(error).splitlines()[0]})"
            ) from error
        self.blocks = [p for p in block_paths if backbone.get_submodule(p) in self.calls]
        if not self.blocks:
            raise ConfigError(
                f"{name} is not supported: its blocks ({block_paths[0]}, ...) do not map one tensor to one tensor"
            )
        self.blocks.sort(key=lambda p: self.calls[backbone.get_submodule(p)].order)
        widths = vars(backbone)
        self.feature_dim = int(widths.get("head_hidden_size", widths["num_features"]))
        self.layout, self.grid = self._layout(output_shape)
        for path in self.blocks:
            attn: Any = backbone.get_submodule(path).attn
            if attention_family(attn) is None:
                raise ConfigError(
                    f"{name} is not supported: {path}.attn ({type(attn).__name__}) has no known projections"
                )
        self.stages: tuple[Stage, ...] = find_stages(self)
        self.mergings = find_mergings(self)
        self.sites: list[Site] = [*model_sites(self), *block_sites(self)]

    def _layout(self, shape: tuple[int, ...]) -> tuple[str, tuple[int, int]]:
        if len(shape) == 3:
            grid = getattr(self.backbone.patch_embed, "grid_size", None)
            side = shape[1] - self.prefix_tokens
            return "NLC", tuple(grid) if grid is not None else (int(side**0.5), int(side**0.5))
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

    def feature_map(self, features: torch.Tensor) -> torch.Tensor:
        """Output of `forward_features` -> (B, C, H, W), without prefix tokens."""
        if self.layout == "NHWC":
            return features.permute(0, 3, 1, 2)
        if self.layout == "NCHW":
            return features
        patches = features[:, self.prefix_tokens :].transpose(1, 2)
        return patches.unflatten(2, self.sites[0].grid_of(patches.shape[2]))

    def finish(self, output: torch.Tensor) -> torch.Tensor:
        """The last block's output -> what `forward_features` gives: the final norm, in the model's own layout."""
        last = self.calls[self.backbone.get_submodule(self.blocks[-1])]
        norms = [s.module for s in self.sites if "norms" in s.tags and s.block is None]
        for norm in norms:
            call = self.calls[norm]
            if call.order > last.order and call.input_shape == last.output_shape:
                output = norm(output)
        if self.layout != "NCHW":
            return output
        return output.transpose(1, 2).unflatten(2, self.sites[0].grid_of(output.shape[1]))

    def parameter(self, name: str | None) -> torch.Tensor | None:
        """A parameter of the backbone by its dotted name, or None."""
        return None if name is None else self.backbone.get_parameter(name)


def _is_block(module: nn.Module) -> bool:
    return all(isinstance(getattr(module, part, None), nn.Module) for part in BLOCK_PARTS)


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


def _image_size(backbone: Any) -> tuple[int, int]:
    size = getattr(backbone.patch_embed, "img_size", None)
    if size is None:
        config = getattr(backbone, "default_cfg", None) or {}
        size = tuple(config.get("input_size", (3, 224, 224)))[1:]
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
