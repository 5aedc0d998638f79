"""Which family an attention module is of, told by what it holds, not by its class name.

`plain` (ViT, DeiT, CLIP, DINO, EVA, BEiT: fused or split qkv, optional rotary or relative positions),
`window` (Swin), `cosine_window` (SwinV2, Swin-V2-CR), `reduced` (PVTv2). `differential` and `other` have projections to
act on, and no forward of ours: nothing can be put between their projections and their product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

#: the parameters and parts that hold some, of the families with a forward here; what holds more computes something else
KNOWN = {
    "plain": frozenset(
        {"qkv", "q_proj", "k_proj", "v_proj", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm", "norm", "gate", "proj"}
        | {"rel_pos", "relative_position_bias_table"}
    ),
    "window": frozenset(["qkv", "proj", "relative_position_bias_table"]),
    "cosine_window": frozenset(["qkv", "q_bias", "v_bias", "logit_scale", "cpb_mlp", "meta_mlp", "proj"]),
    "reduced": frozenset(["q", "kv", "proj", "pool", "sr", "norm", "act"]),
}
#: what each family does, for messages
WORDS = {
    "plain": "attention over all tokens",
    "window": "attention in windows",
    "cosine_window": "cosine attention in windows",
    "reduced": "attention to reduced keys and values",
    "differential": "differential attention",
    "other": "attention of its own kind",
    "fused": "attention fused with the MLP",
    "convolution": "convolutions in place of attention",
}


def attention_family(attn: nn.Module) -> str | None:
    """A family with a forward here, `differential`, `other`, or None when the module has no known projections."""
    has = lambda *names: all(isinstance(getattr(attn, n, None), nn.Module) for n in names)  # noqa: E731
    if has("qkv", "proj") and hasattr(attn, "use_mask_unit_attn"):
        return "other"  # Hiera's: windows are runs of the sequence, queries may be pooled
    if not has("proj") or not hasattr(attn, "num_heads"):
        return None
    if has("q", "kv"):
        family = "reduced"
    elif has("qkv") and hasattr(attn, "logit_scale") and (has("cpb_mlp") or has("meta_mlp")):
        family = "cosine_window"
    elif has("qkv") and hasattr(attn, "lambda_init"):
        return "differential"
    elif has("qkv") and hasattr(attn, "window_area"):
        family = "window"
    elif has("qkv") or has("q_proj", "k_proj", "v_proj"):
        family = "plain"
    else:
        return None
    return family if {name.partition(".")[0] for name, _ in attn.named_parameters()} <= KNOWN[family] else "other"


def bypasses_projection(attn: nn.Module) -> bool:
    """Whether the bias of qkv is applied outside the qkv module, so that hooks on it never see the whole projection."""
    return getattr(attn, "q_bias", None) is not None


def attention_bias(attn: Any) -> torch.Tensor:
    """The bias of q, k and v, (3 dim,), of an attention that applies it itself; that of k is a constant of zeros."""
    return torch.cat([attn.q_bias, attn.k_bias, attn.v_bias]).detach()


def has_positions(attn: nn.Module) -> bool:
    """Whether attention itself knows token positions (rotary or relative), so that it must be told of extra tokens."""
    return any(hasattr(attn, name) for name in ("num_prefix_tokens", "relative_position_bias_table", "rel_pos"))


def learns_positions(attn: nn.Module) -> bool:
    """Whether attention adds to its logits what it learned of the places in the image (BEiT, relative-position ViTs)."""
    return getattr(attn, "relative_position_bias_table", None) is not None or hasattr(attn, "rel_pos")
