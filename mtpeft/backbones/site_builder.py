"""Makes one site of an anatomy, with what all of them say of the model filled in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from mtpeft.backbones.blocks import heads_of, parts_of
from mtpeft.backbones.probe import Probed, stem_map
from mtpeft.backbones.site import Site

#: layers with weights that are neither linear nor convolution count as normalisation when their name says so
NORM_NAMES = ("Norm", "Affine")


def is_norm(module: nn.Module) -> bool:
    """LayerNorm, RMSNorm, LayerNorm2d, GroupNorm, ...: by type, and only with weights of their own."""
    named = any(part in type(module).__name__ for part in NORM_NAMES)
    return named and getattr(module, "weight", None) is not None


def is_operation(module: nn.Module) -> bool:
    """A linear layer, a convolution or a normalisation."""
    return isinstance(module, (nn.Linear, nn.Conv2d)) or is_norm(module)


def normalisation_of(backbone: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of a timm model's images, as its configuration says; 0 and 1 where it does not."""
    config = getattr(backbone, "pretrained_cfg", None) or getattr(backbone, "default_cfg", None) or {}
    mean, std = (tuple(float(value) for value in config.get(key) or ()) for key in ("mean", "std"))
    return (mean, std) if len(mean) == len(std) == channels else ((0.0,) * channels, (1.0,) * channels)


def is_spatial(module: nn.Module) -> bool:
    """Whether a layer has channels on axis 1, by its type; a group norm has them there on maps."""
    return "2d" in type(module).__name__


def keeps_input(module: nn.Module) -> bool:
    """Whether a norm adds its input to what it gives (ConvNeXt-V2's): its weight and bias are not all it does to channels."""
    return "ResponseNorm" in type(module).__name__


class SiteBuilder:
    """Sites of one anatomy, with the fields all of them share filled in."""

    def __init__(self, anatomy: Probed) -> None:
        self.anatomy = anatomy
        self.backbone = anatomy.backbone
        self.paths = {module: path for path, module in self.backbone.named_modules()}
        self.heads = {p: heads_of(self.backbone.get_submodule(p)) for p in anatomy.blocks}
        self.normalisation = normalisation_of(self.backbone, anatomy.input_size[0])
        self.ends = {end for path in anatomy.blocks for end in self._ends(self.backbone.get_submodule(path))}

    def site(self, kind: str, style: str, module: nn.Module, dim: int, dim_out: int, **more: Any) -> Site:
        """A site at `module`, `dim` wide before it and `dim_out` behind; `more` are other fields of `Site`."""
        path = self.paths[module]
        stem = path.replace(".", "-") or "model"
        key = stem if kind == path.rsplit(".", 1)[-1] else f"{stem}-{kind}"
        anatomy = self.anatomy
        values: dict[str, Any] = {
            "depth": len(anatomy.blocks),
            "grid": anatomy.grid,
            "running": anatomy.running,
            "prefix_tokens": anatomy.prefix_tokens,
            "patch_size": anatomy.patch_size,
            "embed_dim": stem_map(anatomy.projection, anatomy.calls[anatomy.projection].output_shape)[0],
            "image_size": anatomy.image_size,
            "in_channels": anatomy.input_size[0],
            "normalisation": self.normalisation,
            "stages": tuple(anatomy.stages),
        }
        return Site(kind, key, style, module, path, dim, dim_out, **{**values, **more})

    def _ends(self, block: Any) -> Iterator[nn.Module]:
        """The last operation of every residual branch: what it gives is added to the stream, scaled at most."""
        parts = parts_of(block)
        assert parts is not None
        if not parts.attentions:
            named = (getattr(block, name, None) for name in ("attn_out_proj", "mlp_out_proj", "out_proj"))
            yield from (module for module in named if module is not None)
        for branch in (*parts.attentions, *parts.mlps):
            inside = [m for m in (branch.norm, *branch.sub.modules()) if is_operation(m) and m in self.anatomy.calls]
            if inside:
                yield max(inside, key=lambda module: self.anatomy.calls[module].order)

    def entry(self, kind: str, module: nn.Module, readers: tuple[Site, ...], **more: Any) -> Site:
        """A site on the input of a sub-layer; `readers` fold what is done there where all of them are linear."""
        first = bool(readers) and all(is_spatial(site.module) for site in readers)  # an MLP of 1 x 1 convolutions
        dim = self.anatomy.calls[module].input_shape[1 if first else -1]
        linear = all(site.matrix for site in readers)
        more["channels_first"] = first
        return self.site(kind, "input", module, dim, dim, readers=readers if linear else (), **more)

    def operation(self, kind: str, module: nn.Module, **more: Any) -> Site:
        """A site on the output of one linear layer, convolution or normalisation."""
        path = self.paths[module]
        call = self.anatomy.calls[module]
        maps = is_spatial(module) or (isinstance(module, nn.GroupNorm) and len(call.output_shape) == 4)
        axis = 1 if maps else -1
        values: dict[str, Any] = {
            "weight": f"{path}.weight",
            "bias": f"{path}.bias" if getattr(module, "bias", None) is not None else None,
            "channel_axis": axis,
        }
        values.update(more)
        tags = set(values.pop("tags", set() if keeps_input(module) else {"operations"}))
        tags |= {"norms"} if is_norm(module) else set()
        tags |= {"biases"} if values["bias"] is not None else set()
        tags |= {"branch_ends"} if module in self.ends else set()
        rows = values.get("rows")
        width = call.output_shape[axis] if rows is None else rows[1] - rows[0]
        return self.site(kind, "output", module, call.input_shape[axis], width, tags=frozenset(tags), **values)
