"""The sites outside the blocks: pixels, stem, layers between and after the blocks, the final norm, side networks."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from mtpeft.backbones.blocks import parts_of
from mtpeft.backbones.probe import Probed
from mtpeft.backbones.site import Site
from mtpeft.backbones.site_builder import SiteBuilder, is_operation


def model_sites(anatomy: Probed) -> Iterator[Site]:
    """Sites outside the blocks: pixels, stem, every layer between and after the blocks, the final norm, side networks."""
    build = SiteBuilder(anatomy)
    backbone = anatomy.backbone
    channels = anatomy.input_size[0]
    yield build.site("pixels", "input", backbone.patch_embed, channels, channels)
    yield build.operation("patch_embed", backbone.patch_embed.proj)
    yield _frames_embed_site(build)
    inside = {m for path in anatomy.blocks for m in backbone.get_submodule(path).modules()}
    inside |= set(
        getattr(backbone.patch_embed, "backbone", nn.Identity()).modules()
    )  # a hybrid's convnet stays as it is
    for path, module in backbone.named_modules():
        if module in inside or module is backbone.patch_embed.proj or module not in anatomy.calls:
            continue
        if is_operation(module):
            # the reduction of Swin's patch merging is the one operation SSF leaves out
            reduction = path.endswith("reduction")
            name = path.rsplit(".", 1)[-1]  # the final norm comes after pooling (fc_norm) where tokens are averaged
            kind = "final_norm" if module is getattr(backbone, "norm", None) or name == "fc_norm" else name
            if kind == "proj":  # a convolution between PVT's stages, not attention's projection
                kind = f"{path.split('.')[-2]}_proj"
            tags = () if reduction else ("operations",)
            merging = path.rpartition(".")[0] in anatomy.mergings
            yield build.operation(kind, module, tags=(*tags, "merging") if merging else tags)
    plain = [parts for path in anatomy.blocks if (parts := parts_of(backbone.get_submodule(path))) and parts.alone]
    final = getattr(backbone, "norm", None)
    if anatomy.layout == "NLC" and len(plain) == len(anatomy.blocks) and final in anatomy.calls:
        yield _side_site(build)


def _frames_embed_site(build: SiteBuilder) -> Site:
    """The tokens of all frames before the first block, behind the positions in space and before a norm of CLIP's kind."""
    norm = getattr(build.backbone, "norm_pre", None)
    first = norm if norm in build.anatomy.calls else build.backbone.get_submodule(build.anatomy.blocks[0])
    dim = build.anatomy.calls[first].input_shape[-1]
    return build.site("frames_embed", "frames", first, dim, dim)


def _side_site(build: SiteBuilder) -> Site:
    """A network beside the backbone: reads block inputs and outputs, replaces the output of the final norm."""
    anatomy = build.anatomy
    final = anatomy.backbone.norm
    dim = anatomy.calls[final].output_shape[-1]
    blocks = tuple(anatomy.backbone.get_submodule(path) for path in anatomy.blocks)
    return build.site(
        "side",
        "side",
        final,
        dim,
        dim,
        num_heads=build.heads[anatomy.blocks[0]],
        blocks=blocks,
        source=anatomy.backbone.patch_embed.proj,
    )
