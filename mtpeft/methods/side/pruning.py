"""Structural pruning: a narrow network takes over the rows of a wide one's weights that matter most.

Sung et al., NeurIPS 2022, section 3.3: layer by layer, each takes the columns its predecessor kept as rows, then keeps its
own top rows by L1 norm of importance: the weights' magnitude, or the Fisher information of a task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.site import Site

#: weight -> how much every entry of it matters
Importance = Mapping[Any, torch.Tensor]


def pruned_weights(site: Site) -> list[nn.Parameter]:
    """The weights whose importance `prune_into` asks for: the stem's, and the matrices of attention and MLP."""
    stem: Any = site.source
    found = [stem.weight]
    for block in site.blocks:
        attn, mlp = block.get_submodule("attn"), block.get_submodule("mlp")
        found += [layer.weight for layer in (*_projections(attn), attn.proj)]
        found += [mlp.get_submodule(name).weight for name in ("fc1", "fc2")] if _is_plain(mlp) else []
    return found


@torch.no_grad()
def prune_into(blocks: list[Any], norm: Any, site: Site, importance: Importance | None = None) -> None:
    """Fill narrow timm blocks and the norm after them from `site.blocks`, the backbone's own, and its stem `site.source`.

    `importance` of `pruned_weights`, by default their magnitude.
    """
    if importance is None:
        importance = {weight: weight.abs() for weight in pruned_weights(site)}
    width = norm.weight.shape[0]
    stem: Any = site.source
    stream = _top(importance[stem.weight].flatten(1).sum(dim=1), width)
    for narrow, wide in zip(blocks, site.blocks, strict=True):
        stream = _prune_block(narrow, wide, stream, importance)
    _copy_norm(norm, site.module, stream)


def _prune_block(narrow: Any, wide: Any, stream: torch.Tensor, importance: Importance) -> torch.Tensor:
    """One block; `stream` (d_s,) are the wide channels its input stands for. Returns those of its output."""
    _copy_norm(narrow.norm1, wide.norm1, stream)
    scores = torch.cat([importance[layer.weight] for layer in _projections(wide.attn)]).chunk(3)
    rows = _top(torch.stack([score[:, stream] for score in scores]).prod(dim=0).sum(dim=1), narrow.attn.attn_dim)
    for part, (weight, bias) in enumerate(_qkv(wide.attn)):
        target = slice(part * len(rows), (part + 1) * len(rows))
        narrow.attn.qkv.weight[target] = weight[rows][:, stream]
        narrow.attn.qkv.bias[target] = 0.0 if bias is None else bias[rows]
    stream = _prune_linear(narrow.attn.proj, wide.attn.proj, rows, importance)
    _copy_norm(narrow.norm2, wide.norm2, stream)
    if _is_plain(wide.mlp):
        hidden = _prune_linear(narrow.mlp.fc1, wide.mlp.fc1, stream, importance)
        stream = _prune_linear(narrow.mlp.fc2, wide.mlp.fc2, hidden, importance)
    return stream


def _prune_linear(narrow: nn.Linear, wide: nn.Linear, columns: torch.Tensor, importance: Importance) -> torch.Tensor:
    """Copy the given columns and the most important rows; returns those rows."""
    rows = _top(importance[wide.weight][:, columns].sum(dim=1), narrow.out_features)
    narrow.weight.copy_(wide.weight[:, columns][rows])
    if wide.bias is not None:
        narrow.bias.copy_(wide.bias[rows])
    return rows


def _is_plain(mlp: Any) -> bool:
    """Whether an MLP is fc1, activation, fc2."""
    return isinstance(getattr(mlp, "fc1", None), nn.Linear) and mlp.fc1.out_features == mlp.fc2.in_features


def _projections(attn: Any) -> list[Any]:
    """The layers of q, k and v: one, or three."""
    return [attn.q_proj, attn.k_proj, attn.v_proj] if getattr(attn, "qkv", None) is None else [attn.qkv]


def _qkv(attn: Any) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Weights (C, d) and biases of q, k, v, fused or split."""
    if getattr(attn, "qkv", None) is None:
        return [(m.weight, m.bias) for m in (attn.q_proj, attn.k_proj, attn.v_proj)]
    if getattr(attn, "q_bias", None) is not None:
        biases = [attn.q_bias, attn.k_bias, attn.v_bias]
    else:
        biases = [None] * 3 if attn.qkv.bias is None else list(attn.qkv.bias.chunk(3))
    return list(zip(attn.qkv.weight.chunk(3), biases, strict=True))


def _copy_norm(narrow: Any, wide: Any, rows: torch.Tensor) -> None:
    for name in ("weight", "bias"):
        source = getattr(wide, name, None)
        if source is not None:
            getattr(narrow, name).copy_(source[rows])


def _top(score: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` highest scores, in their own order."""
    return score.topk(count).indices.sort().values
