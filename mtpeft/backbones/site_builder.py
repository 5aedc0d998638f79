"""Makes one site of an anatomy, with what all of them say of the model filled in."""

from __future__ import annotations

from typing import Any

from torch import nn

from mtpeft.backbones.blocks import heads_of
from mtpeft.backbones.probe import Probed
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


class SiteBuilder:
    """Sites of one anatomy, with the fields all of them share filled in."""

    def __init__(self, anatomy: Probed) -> None:
        self.anatomy = anatomy
        self.backbone = anatomy.backbone
        self.paths = {module: path for path, module in self.backbone.named_modules()}
        self.heads = {p: heads_of(self.backbone.get_submodule(p)) for p in anatomy.blocks}

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
            "embed_dim": anatomy.calls[self.backbone.patch_embed.proj].output_shape[1],
            "image_size": anatomy.image_size,
            "in_channels": anatomy.input_size[0],
        }
        return Site(kind, key, style, module, path, dim, dim_out, **{**values, **more})

    def operation(self, kind: str, module: nn.Module, **more: Any) -> Site:
        """A site on the output of one linear layer, convolution or normalisation."""
        path = self.paths[module]
        call = self.anatomy.calls[module]
        maps = "2d" in type(module).__name__ or (isinstance(module, nn.GroupNorm) and len(call.output_shape) == 4)
        axis = 1 if maps else -1
        values: dict[str, Any] = {
            "weight": f"{path}.weight",
            "bias": f"{path}.bias" if getattr(module, "bias", None) is not None else None,
            "channel_axis": axis,
        }
        values.update(more)
        tags = set(values.pop("tags", {"operations"}))
        tags |= {"norms"} if is_norm(module) else set()
        tags |= {"biases"} if values["bias"] is not None else set()
        rows = values.get("rows")
        width = call.output_shape[axis] if rows is None else rows[1] - rows[0]
        return self.site(kind, "output", module, call.input_shape[axis], width, tags=frozenset(tags), **values)
