"""Structural pruning: a narrow network takes over the rows of a wide one's weights that matter most.

Sung et al., NeurIPS 2022, section 3.3: layer by layer, each takes the columns its predecessor kept as rows, then keeps its
own top rows by L1 norm of importance. Importance here is the weights' magnitude.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mtpeft.backbones.site import Site


@torch.no_grad()
def prune_into(blocks: list[Any], norm: Any, site: Site) -> None:
    """Fill narrow timm blocks and the norm after them from `site.blocks`, the backbone's own, and its stem `site.source`."""
    width = norm.weight.shape[0]
    stem: Any = site.source
    stream = _top(stem.weight.abs().flatten(1).sum(dim=1), width)
    for narrow, wide in zip(blocks, site.blocks, strict=True):
        stream = _prune_block(narrow, wide, stream)
    _copy_norm(norm, site.module, stream)


def _prune_block(narrow: Any, wide: Any, stream: torch.Tensor) -> torch.Tensor:
    """One block; `stream` (d_s,) are the wide channels its input stands for. Returns those of its output."""
    _copy_norm(narrow.norm1, wide.norm1, stream)
    projections = _qkv(wide.attn)
    importance = torch.stack([weight[:, stream].abs() for weight, _ in projections]).prod(dim=0)
    rows = _top(importance.sum(dim=1), narrow.attn.attn_dim)
    for part, (weight, bias) in enumerate(projections):
        target = slice(part * len(rows), (part + 1) * len(rows))
        narrow.attn.qkv.weight[target] = weight[rows][:, stream]
        narrow.attn.qkv.bias[target] = 0.0 if bias is None else bias[rows]
    stream = _prune_linear(narrow.attn.proj, wide.attn.proj, rows)
    _copy_norm(narrow.norm2, wide.norm2, stream)
    if isinstance(getattr(wide.mlp, "fc1", None), nn.Linear) and wide.mlp.fc1.out_features == wide.mlp.fc2.in_features:
        hidden = _prune_linear(narrow.mlp.fc1, wide.mlp.fc1, stream)
        stream = _prune_linear(narrow.mlp.fc2, wide.mlp.fc2, hidden)
    return stream


def _prune_linear(narrow: nn.Linear, wide: nn.Linear, columns: torch.Tensor) -> torch.Tensor:
    """Copy the given columns and the most important rows; returns those rows."""
    weight = wide.weight[:, columns]
    rows = _top(weight.abs().sum(dim=1), narrow.out_features)
    narrow.weight.copy_(weight[rows])
    if wide.bias is not None:
        narrow.bias.copy_(wide.bias[rows])
    return rows


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
