"""The sites of every block: tokens, attention and its projections, MLP, branches beside them, attention over time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from mtpeft.backbones.attention_families import bypasses_projection, learns_positions
from mtpeft.backbones.blocks import Branch, Parts, parts_of
from mtpeft.backbones.probe import Probed, block_grid
from mtpeft.backbones.site import NEEDS, Site
from mtpeft.backbones.site_builder import SiteBuilder, is_norm, is_operation, is_spatial


def block_sites(anatomy: Probed) -> Iterator[Site]:
    """Sites of every block, in the order the blocks run."""
    build = SiteBuilder(anatomy)
    before: tuple[int, ...] = ()
    place = 0
    for index, path in enumerate(anatomy.blocks):
        block = anatomy.backbone.get_submodule(path)
        parts = parts_of(block)
        assert parts is not None
        call = anatomy.calls[block]
        place, before = (place + 1 if call.input_shape == before else 0), call.input_shape
        merging = _merging_before(anatomy, index)
        common = {
            "block": index,
            "place": place,
            "merging": merging,
            "windows": any(anatomy.families[branch.sub] == "window" for branch in parts.attentions),
            "grid": block_grid(anatomy, path),
            "prefix_tokens": anatomy.prefixes[index],
            "num_heads": build.heads[path],
        }
        axis, first = parts.channel_axis, parts.convolutional
        dim, dim_out = call.input_shape[axis], call.output_shape[axis]
        yield build.site("entry", "input", block, dim, dim, channels_first=first, **common)
        yield from _temporal_sites(build, block, parts, common)
        yield build.site("frames_block", "frames", block, dim, dim, channels_first=first, **common)
        yield from _token_sites(build, block, parts, common)
        for branch in parts.attentions:
            inside = list(_attention_sites(build, branch.sub, common))
            yield build.entry("attention_in", branch.sub, _readers(build, branch.sub, inside), **common)
            yield from inside
            yield from _frames_of_keys_and_values(build, block, branch.sub, common)
        for kind, branches in (("norm1", parts.attentions), ("norm2", parts.mlps)):
            yield from (build.operation(kind, b.norm, **common) for b in branches if is_norm(b.norm))
        for branch in parts.mlps:
            inside = list(_mlp_sites(build, branch.sub, common))
            if branch.sub in anatomy.calls:
                readers = tuple(site for site in inside if site.kind == "fc1")
                yield build.entry("mlp_in", branch.sub, readers, **common)
            yield from inside
        if parts.attentions or parts.mlps:
            yield from _branch_sites(build, block, parts, common)
            yield from _other_operations(build, block, parts, common)
        else:
            yield from _fused_sites(build, block, common)
        yield build.site("block", "output", block, dim, dim_out, channels_first=first, **common)


def _merging_before(anatomy: Probed, index: int) -> nn.Module | None:
    """The patch merging that runs between a block and the one before it."""
    if index == 0:
        return None
    before, after = (
        anatomy.calls[anatomy.backbone.get_submodule(p)].order for p in anatomy.blocks[index - 1 : index + 1]
    )
    mergings = [anatomy.backbone.get_submodule(path) for path in anatomy.mergings]
    return next((module for module in mergings if before < anatomy.calls[module].order < after), None)


def _temporal_sites(build: SiteBuilder, block: Any, parts: Parts, common: dict[str, Any]) -> Iterator[Site]:
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


def _token_sites(build: SiteBuilder, block: Any, parts: Parts, common: dict[str, Any]) -> Iterator[Site]:
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


def _attention_sites(build: SiteBuilder, attn: Any, common: dict[str, Any]) -> Iterator[Site]:
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
        if module not in known and module in build.anatomy.calls and is_operation(module):
            parent, name = build.paths[module].split(".")[-2:]
            # a small network of positions may have an fc1 too; it is not the block's
            yield build.operation(f"{parent}_{name}" if name in NEEDS else name, module, **common)


def _frames_of_keys_and_values(
    build: SiteBuilder, block: nn.Module, attn: Any, common: dict[str, Any]
) -> Iterator[Site]:
    """Keys and values with the frames of a clip together, where a frame's tokens are one row."""
    calls, bypassed = build.anatomy.calls, bypasses_projection(attn)
    given = calls[attn].input_shape
    if len(given) != 3 or given[0] != calls[block].input_shape[0]:
        return
    if getattr(attn, "qkv", None) is not None:
        holders, width = {"k": attn.qkv, "v": attn.qkv}, attn.qkv.out_features // 3
        starts = {"k": width, "v": 2 * width}
    elif getattr(attn, "k_proj", None) is not None:
        holders, width, starts = {"k": attn.k_proj, "v": attn.v_proj}, attn.k_proj.out_features, {"k": 0, "v": 0}
    else:
        width = attn.kv.out_features // 2
        holders, starts = {"k": attn.kv, "v": attn.kv}, {"k": 0, "v": width}
    head_dim = attn.proj.in_features // common["num_heads"]
    more = {**common, "num_heads": width // head_dim, "attention": attn if bypassed else None, "bypassed": bypassed}
    for kind, start in starts.items():
        rows = (start, start + width)
        yield build.site(f"frames_{kind}", "frames_output", holders[kind], width, width, rows=rows, **more)


def _readers(build: SiteBuilder, attn: nn.Module, inside: list[Site]) -> tuple[Site, ...]:
    """The layers that read what enters attention; none are named where it may be read by something else as well."""
    if build.anatomy.families[attn] in ("reduced", "other"):
        return ()
    fused = tuple(site for site in inside if site.kind in ("qkv", "gate"))
    return (
        fused if any(site.kind == "qkv" for site in fused) else tuple(s for s in inside if s.kind in (*"qkv", "gate"))
    )


def _fused_bypassed(build: SiteBuilder, attn: Any, more: dict[str, Any]) -> Site:
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


def _fused_sites(build: SiteBuilder, block: Any, common: dict[str, Any]) -> Iterator[Site]:
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
        if module not in known and module in build.anatomy.calls and is_operation(module):
            yield build.operation(build.paths[module].rsplit(".", 1)[-1], module, **common)


def _mlp_sites(build: SiteBuilder, mlp: nn.Module, common: dict[str, Any]) -> Iterator[Site]:
    for module in mlp.modules():
        if module in build.anatomy.calls and is_operation(module):
            name = build.paths[module].rsplit(".", 1)[-1]
            kind = name.split("_")[0] if name.startswith("fc") else name  # SwiGLU's fc1_g and fc1_x are both fc1
            yield build.operation(kind, module, **common)


def _branch_sites(build: SiteBuilder, block: Any, parts: Parts, common: dict[str, Any]) -> Iterator[Site]:
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
        if parts.convolutional:
            yield from _convolution_branch(build, block, branch, common)
        else:
            yield from _one_branch(build, block, branch, "mlp", common)


def _norms_first(build: SiteBuilder, branch: Branch) -> bool:
    calls = build.anatomy.calls
    return branch.norm in calls and calls[branch.norm].order < calls[branch.sub].order


def _one_branch(build: SiteBuilder, block: Any, branch: Branch, name: str, common: dict[str, Any]) -> Iterator[Site]:
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


def _convolution_branch(build: SiteBuilder, block: Any, branch: Branch, common: dict[str, Any]) -> Iterator[Site]:
    """The one branch of a convolutional block, which ends behind an MLP: `parallel_mlp` sees what enters the block,
    `parallel_mlp_ln` what the MLP sees, behind the convolution and the norm."""
    calls, end = build.anatomy.calls, branch.end
    dim = calls[end].output_shape[1]
    common = {**common, "channels_first": True}
    yield build.site("after_mlp", "input", end, dim, dim, **common)
    if calls[block].input_shape == calls[end].output_shape:
        yield build.site("parallel_mlp", "parallel", end, dim, dim, source=block, source_channels_first=True, **common)
    of_norm = {"source": branch.norm, "source_is_output": True, "source_channels_first": is_spatial(branch.norm)}
    yield build.site("parallel_mlp_ln", "parallel", end, dim, dim, **of_norm, **common)


def _other_operations(build: SiteBuilder, block: nn.Module, parts: Parts, common: dict[str, Any]) -> Iterator[Site]:
    """Operations of a block outside attention, norms and MLP: a depth-wise convolution, a projection beside attention."""
    branches = (*parts.attentions, *parts.mlps)
    known = {inner for branch in branches for part in (branch.norm, branch.sub) for inner in part.modules()}
    for module in block.modules():
        if module not in known and module in build.anatomy.calls and is_operation(module):
            name = build.paths[module].rsplit(".", 1)[-1]
            yield build.operation(f"shortcut_{name}" if name in NEEDS else name, module, **common)
