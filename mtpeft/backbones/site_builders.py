"""Builds the sites of an anatomy: those of every block, and those of the model around them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from mtpeft.backbones.attention import bypasses_projection, learns_positions
from mtpeft.backbones.blocks import Branch, Parts, heads_of, parts_of
from mtpeft.backbones.probe import Probed, block_grid
from mtpeft.backbones.site import NEEDS, Site

#: layers with weights that are neither linear nor convolution count as normalisation when their name says so
NORM_NAMES = ("Norm", "Affine")


def is_norm(module: nn.Module) -> bool:
    """LayerNorm, RMSNorm, LayerNorm2d, GroupNorm, ...: by type, and only with weights of their own."""
    named = any(part in type(module).__name__ for part in NORM_NAMES)
    return named and getattr(module, "weight", None) is not None


def _is_operation(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.Conv2d)) or is_norm(module)


class _Builder:
    """Sites of one anatomy, with the fields all of them share filled in."""

    def __init__(self, anatomy: Probed) -> None:
        self.anatomy = anatomy
        self.backbone = anatomy.backbone
        self.paths = {module: path for path, module in self.backbone.named_modules()}
        self.heads = {p: heads_of(self.backbone.get_submodule(p)) for p in anatomy.blocks}

    def site(self, kind: str, style: str, module: nn.Module, dim: int, dim_out: int, **more: Any) -> Site:
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


def model_sites(anatomy: Probed) -> Iterator[Site]:
    """Sites outside the blocks: pixels, stem, every layer between and after the blocks, the final norm, side networks."""
    build = _Builder(anatomy)
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
        if _is_operation(module):
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


def _frames_embed_site(build: _Builder) -> Site:
    """The tokens of all frames before the first block, behind the positions in space and before a norm of CLIP's kind."""
    norm = getattr(build.backbone, "norm_pre", None)
    first = norm if norm in build.anatomy.calls else build.backbone.get_submodule(build.anatomy.blocks[0])
    dim = build.anatomy.calls[first].input_shape[-1]
    return build.site("frames_embed", "frames", first, dim, dim)


def _side_site(build: _Builder) -> Site:
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


def block_sites(anatomy: Probed) -> Iterator[Site]:
    """Sites of every block, in the order the blocks run."""
    build = _Builder(anatomy)
    before: tuple[int, ...] = ()
    place = 0
    for index, path in enumerate(anatomy.blocks):
        block = anatomy.backbone.get_submodule(path)
        parts = parts_of(block)
        assert parts is not None
        call = anatomy.calls[block]
        place, before = (place + 1 if call.input_shape == before else 0), call.input_shape
        common = {
            "block": index,
            "place": place,
            "windows": any(anatomy.families[branch.sub] == "window" for branch in parts.attentions),
            "grid": block_grid(anatomy, path),
            "num_heads": build.heads[path],
        }
        yield from _temporal_sites(build, block, parts, common)
        yield build.site("frames_block", "frames", block, call.input_shape[-1], call.input_shape[-1], **common)
        yield from _token_sites(build, block, parts, common)
        for branch in parts.attentions:
            yield from _attention_sites(build, branch.sub, common)
        for kind, branches in (("norm1", parts.attentions), ("norm2", parts.mlps)):
            yield from (build.operation(kind, b.norm, **common) for b in branches if is_norm(b.norm))
        for branch in parts.mlps:
            yield from _mlp_sites(build, branch.sub, common)
        if parts.attentions:
            yield from _branch_sites(build, block, parts, common)
        else:
            yield from _fused_sites(build, block, common)
        yield build.site("block", "output", block, call.output_shape[-1], call.output_shape[-1], **common)


def _temporal_sites(build: _Builder, block: Any, parts: Parts, common: dict[str, Any]) -> Iterator[Site]:
    """Attention over time by the block's own weights, where the block norms first and its keys are the tokens themselves.

    The window's table of positions in Swin is left out; what BEiT and relative-position ViTs learned of places would have
    to be learned anew for time.
    """
    if not parts.alone:
        return
    calls, dim = build.anatomy.calls, build.anatomy.calls[block].input_shape[-1]
    (attention,) = parts.attentions
    norms_first = attention.norm in calls and calls[attention.norm].order < calls[attention.sub].order
    family = build.anatomy.families[attention.sub]
    if norms_first and (family == "window" or (family == "plain" and not learns_positions(attention.sub))):
        for kind in ("temporal", "temporal_in"):
            yield build.site(kind, kind, block, dim, dim, attention=attention.sub, **common)


#: families of attention that takes any number of tokens, wherever they stand
FLAT = ("plain", "differential")
#: families whose keys and values can be extended: those with a forward of the library's own
EXTENDED = ("plain", "window", "cosine_window", "reduced")


def _token_sites(build: _Builder, block: Any, parts: Parts, common: dict[str, Any]) -> Iterator[Site]:
    """Query-only tokens need one flat sequence, prompts that or Swin's windows; keys and values can always be extended.

    SwinV2 has no prompts: it norms after its branches, and VPT says nothing of that.
    """
    call, families = build.anatomy.calls[block], [build.anatomy.families[b.sub] for b in parts.attentions]
    dim, attention = call.input_shape[-1], parts.attentions[0].sub if parts.alone else None
    flat = len(call.input_shape) == 3 and build.anatomy.layout == "NLC" and all(f in FLAT for f in families)
    if flat or families == ["window"]:
        yield build.site("tokens", "tokens", block, dim, dim, attention=attention, **common)
    if flat and families == ["plain"]:
        yield build.site("queries", "queries", block, dim, dim, attention=attention, **common)
    for branch, family in zip(parts.attentions, families, strict=True):
        if family in EXTENDED:
            attn = branch.sub
            width = build.anatomy.calls[attn].input_shape[-1]
            yield build.site("prefix", "prefix", attn, width, attn.proj.in_features, attention=attn, **common)


def _attention_sites(build: _Builder, attn: Any, common: dict[str, Any]) -> Iterator[Site]:
    path = build.paths[attn]
    if getattr(attn, "qkv", None) is not None:
        bypassed = bypasses_projection(attn)
        more = {**common, "attention": attn if bypassed else None, "bypassed": bypassed}
        yield _fused_bypassed(build, attn, more) if bypassed else build.operation("qkv", attn.qkv, **more)
        width = attn.qkv.out_features // 3
        for position, kind in enumerate(("q", "k", "v")):
            rows = (position * width, (position + 1) * width)
            is_parameter = bypassed and isinstance(getattr(attn, f"{kind}_bias", None), nn.Parameter)
            fused_bias = f"{path}.qkv.bias" if attn.qkv.bias is not None else None
            yield build.site(
                kind,
                "output",
                attn.qkv,
                attn.qkv.in_features,
                width,
                rows=rows,
                weight=f"{path}.qkv.weight",
                bias=f"{path}.{kind}_bias" if is_parameter else fused_bias,
                tags=frozenset({"biases"} if is_parameter else ()),
                **more,
            )
    elif getattr(attn, "q_proj", None) is not None:
        for kind in ("q", "k", "v"):
            yield build.operation(kind, getattr(attn, f"{kind}_proj"), **common)
    else:
        yield build.operation("q", attn.q, **common)
        width = attn.kv.out_features // 2
        for kind, rows in (("k", (0, width)), ("v", (width, 2 * width))):
            yield build.operation(kind, attn.kv, rows=rows, **common)
    if isinstance(getattr(attn, "relative_position_bias_table", None), nn.Parameter):
        heads = common["num_heads"]
        table = f"{path}.relative_position_bias_table"
        yield build.site("position_table", "logits", attn, heads, heads, attention=attn, bias=table, **common)
    yield build.operation("proj", attn.proj, **common)
    known = {getattr(attn, n, None) for n in ("qkv", "q_proj", "k_proj", "v_proj", "q", "kv", "proj")}
    for module in attn.modules():
        if module not in known and module in build.anatomy.calls and _is_operation(module):
            parent, name = build.paths[module].split(".")[-2:]
            # a small network of positions may have an fc1 too; it is not the block's
            yield build.operation(f"{parent}_{name}" if name in NEEDS else name, module, **common)


def _fused_bypassed(build: _Builder, attn: Any, more: dict[str, Any]) -> Site:
    """A fused qkv whose bias lives in the attention module and is applied by `F.linear` (BEiT, EVA, SwinV2)."""
    path = build.paths[attn]
    return build.site(
        "qkv",
        "output",
        attn.qkv,
        attn.qkv.in_features,
        attn.qkv.out_features,
        weight=f"{path}.qkv.weight",
        tags=frozenset({"operations"}),
        **more,
    )


def _fused_sites(build: _Builder, block: Any, common: dict[str, Any]) -> Iterator[Site]:
    """A block that computes attention and MLP from one projection: its norm, rows of that projection, and those behind."""
    path = build.paths[block]
    if is_norm(block.in_norm):
        yield build.operation("norm1", block.in_norm, **common)
    yield build.operation("in_proj", block.in_proj, **common)
    fused_bias = f"{path}.in_proj.bias" if block.in_proj.bias is not None else None
    start, width = 0, block.in_proj.in_features
    for kind, rows in zip(("fc1", "q", "k", "v"), block.in_split, strict=True):
        more = {"rows": (start, start + rows), "weight": f"{path}.in_proj.weight", "bias": fused_bias}
        yield build.site(kind, "output", block.in_proj, width, rows, **more, **common)
        start += rows
    if getattr(block, "mlp_bias", None) is not None:
        more = {"rows": (0, block.in_split[0]), "bias": f"{path}.mlp_bias", "owner": block}
        tags = frozenset({"biases"})
        yield build.site("mlp_bias", "output", block.in_proj, width, block.in_split[0], tags=tags, **more, **common)
    names = {"attn_out_proj": "proj", "mlp_out_proj": "fc2", "out_proj": "out_proj"}
    for name, kind in names.items():
        if getattr(block, name, None) is not None:
            yield build.operation(kind, getattr(block, name), **common)
    known = {block.in_norm, block.in_proj, *(getattr(block, name, None) for name in names)}
    for module in block.modules():
        if module not in known and module in build.anatomy.calls and _is_operation(module):
            yield build.operation(build.paths[module].rsplit(".", 1)[-1], module, **common)


def _mlp_sites(build: _Builder, mlp: nn.Module, common: dict[str, Any]) -> Iterator[Site]:
    for module in mlp.modules():
        if module in build.anatomy.calls and _is_operation(module):
            name = build.paths[module].rsplit(".", 1)[-1]
            kind = name.split("_")[0] if name.startswith("fc") else name  # SwiGLU's fc1_g and fc1_x are both fc1
            yield build.operation(kind, module, **common)


def _branch_sites(build: _Builder, block: Any, parts: Parts, common: dict[str, Any]) -> Iterator[Site]:
    """The residual branches: before their residual addition, and parallel to them.

    `parallel_*` sees the branch's input (before its norm), `parallel_*_ln` what the sub-layer itself sees (after the
    norm where the block norms first); both add to the end of the branch, after LayerScale and drop path. `frames_mlp`
    is the stream between the two branches, with the frames of a clip together.
    """
    for branch in parts.attentions:
        yield from _one_branch(build, block, branch, "attention", common)
        end = build.anatomy.calls[branch.end]
        if parts.alone and end.output_shape == build.anatomy.calls[block].input_shape:
            first, dim = (branch.norm if _norms_first(build, branch) else block), end.output_shape[-1]
            yield build.site("frames_mlp", "frames_branch", branch.end, dim, dim, source=first, **common)
    for branch in parts.mlps:
        yield from _one_branch(build, block, branch, "mlp", common)


def _norms_first(build: _Builder, branch: Branch) -> bool:
    calls = build.anatomy.calls
    return branch.norm in calls and calls[branch.norm].order < calls[branch.sub].order


def _one_branch(build: _Builder, block: Any, branch: Branch, name: str, common: dict[str, Any]) -> Iterator[Site]:
    calls, end = build.anatomy.calls, branch.end
    dim = calls[end].output_shape[-1]
    norm_first = _norms_first(build, branch)
    first = branch.norm if norm_first else (block if name == "attention" else branch.sub)
    short = "attn" if name == "attention" else name
    yield build.site(f"after_{name}", "input", end, dim, dim, **common)
    given, made = calls[first].input_shape, calls[end].output_shape
    if given[0] != made[0] or math.prod(given) != math.prod(made):
        return  # pooled queries, or windows that are put together later: what goes in is no addition to what comes out
    yield build.site(f"parallel_{short}", "parallel", end, dim, dim, source=first, **common)
    of_norm = {"source": branch.norm if norm_first else first, "source_is_output": norm_first}
    yield build.site(f"parallel_{short}_ln", "parallel", end, dim, dim, **of_norm, **common)
