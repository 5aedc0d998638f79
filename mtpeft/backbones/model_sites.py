"""The sites outside the blocks: pixels, stem, layers between and after the blocks, the final norm, side networks, features."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from mtpeft.backbones.blocks import parts_of
from mtpeft.backbones.probe import Probed
from mtpeft.backbones.site import NEEDS, Site
from mtpeft.backbones.site_builder import SiteBuilder, is_operation


def model_sites(anatomy: Probed) -> Iterator[Site]:
    """Sites outside the blocks: pixels, stem, every layer between and after the blocks, the final norm, side networks."""
    build = SiteBuilder(anatomy)
    backbone = anatomy.backbone
    channels = anatomy.input_size[0]
    yield build.site("pixels", "input", anatomy.stem, channels, channels)
    yield build.operation("patch_embed", anatomy.projection)
    yield _frames_embed_site(build)
    inside = {m for path in anatomy.blocks for m in backbone.get_submodule(path).modules()}
    inside |= set(getattr(anatomy.stem, "backbone", nn.Identity()).modules())  # a hybrid's convnet stays as it is
    for path, module in backbone.named_modules():
        if module in inside or module is anatomy.projection or module not in anatomy.calls:
            continue
        if is_operation(module):
            # the reduction of Swin's patch merging is the one operation SSF leaves out
            reduction = path.endswith("reduction")
            name = path.rsplit(".", 1)[-1]
            # the final norm comes after pooling (fc_norm, head.norm) where tokens are averaged
            final = module is getattr(backbone, "norm", None) or name == "fc_norm" or path == "head.norm"
            kind = "final_norm" if final else name
            if name.isdigit():  # a layer of a sequence: "downsample_1"
                kind = "_".join(path.split(".")[-2:])
            if kind in NEEDS and not (
                reduction or final
            ):  # PVT's convolution between stages, not attention's projection
                kind = "_".join(path.split(".")[-2:])
            tags = () if reduction else ("operations",)
            merging = path.rpartition(".")[0] in anatomy.mergings
            yield build.operation(kind, module, tags=(*tags, "merging") if merging else tags)
    plain = [parts for path in anatomy.blocks if (parts := parts_of(backbone.get_submodule(path))) and parts.alone]
    final = getattr(backbone, "norm", None)
    flat = len({anatomy.calls[backbone.get_submodule(path)].output_shape for path in anatomy.blocks}) == 1
    if anatomy.layout == "NLC" and flat and len(plain) == len(anatomy.blocks) and final in anatomy.calls:
        yield _side_site(build)


def _frames_embed_site(build: SiteBuilder) -> Site:
    """The tokens of all frames before the first block, behind the positions in space and before a norm of CLIP's kind."""
    calls, channels_first = build.anatomy.calls, build.anatomy.channels_first
    norm, first = getattr(build.backbone, "norm_pre", None), build.backbone.get_submodule(build.anatomy.blocks[0])
    if norm in calls and calls[norm].order < calls[first].order:
        first = norm
    dim = calls[first].input_shape[1 if channels_first else -1]
    return build.site("frames_embed", "frames", first, dim, dim, channels_first=channels_first)


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
        source=anatomy.projection,
    )


def end_sites(anatomy: Probed) -> Iterator[Site]:
    """What leaves the backbone: its final features before they are pooled, and the maps of all stages."""
    build, source = SiteBuilder(anatomy), anatomy.shapes.source
    if source is None or source not in anatomy.calls:
        return
    axis = 1 if anatomy.layout == "NCHW" else -1
    dim = anatomy.calls[source].output_shape[axis]
    # tokens that the model keeps in an order of its own form no map here
    more = {"grid": (0, 0)} if anatomy.rolled else {}
    yield build.site("features", "features", source, dim, dim, channel_axis=axis, **more)
    if anatomy.stage_maps:
        yield build.site("scales", "scales", source, dim, dim, channel_axis=axis)
