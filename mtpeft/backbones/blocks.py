"""Transformer blocks by what they hold: residual branches with a norm, a sub-layer and an end, or one fused branch.

Four kinds are known, told apart by structure: an attention and an MLP branch one after the other (`norm1`, `attn`, `norm2`,
`mlp`); several of each side by side (`attns`, `ffns`); attention and MLP fused into one pair of projections (`in_norm`,
`in_proj`), whose only inner places are rows of them; and one branch of a depth-wise convolution, a norm and an MLP (`conv_dw`,
`norm`, `mlp`), which passes maps (B, C, H, W) on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

PLAIN = ("norm1", "attn", "norm2", "mlp", "drop_path1", "drop_path2")
PARALLEL = ("norm", "ls", "drop_path")
FUSED = ("in_norm", "in_proj", "drop_path")
CONVOLUTION = ("conv_dw", "norm", "mlp", "drop_path")


@dataclass(frozen=True)
class Branch:
    """One residual branch: `sub` is its attention or MLP, the output of `end` is added to the stream."""

    norm: nn.Module
    sub: Any
    end: nn.Module


@dataclass(frozen=True)
class Parts:
    """The branches of one block, empty in a fused block."""

    attentions: tuple[Branch, ...] = ()
    mlps: tuple[Branch, ...] = ()

    @property
    def convolutional(self) -> bool:
        """Whether a convolution has the place of attention; such blocks pass maps (B, C, H, W) on."""
        return bool(self.mlps) and not self.attentions

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in what enters and leaves the block."""
        return 1 if self.convolutional else -1

    @property
    def alone(self) -> bool:
        """Whether there is one attention, followed by one MLP."""
        return len(self.attentions) == 1 and len(self.mlps) == 1


def parts_of(block: Any) -> Parts | None:
    """The branches of a transformer block, or None when the module is none."""
    if _holds(block, PLAIN):
        attention = Branch(block.norm1, block.attn, block.drop_path1)
        return Parts((attention,), (Branch(block.norm2, block.mlp, block.drop_path2),))
    if _holds(block, ("attns", "ffns")):
        attentions, mlps = list(block.attns), list(block.ffns)
        if all(_holds(b, (*PARALLEL, "attn")) for b in attentions) and all(_holds(b, (*PARALLEL, "mlp")) for b in mlps):
            return Parts(
                tuple(Branch(b.norm, b.attn, b.drop_path) for b in attentions),
                tuple(Branch(b.norm, b.mlp, b.drop_path) for b in mlps),
            )
    if _holds(block, CONVOLUTION):
        return Parts((), (Branch(block.norm, block.mlp, block.drop_path),))
    fused = _holds(block, FUSED) and isinstance(getattr(block, "in_split", None), list) and len(block.in_split) == 4
    return Parts() if fused and hasattr(block, "num_heads") else None


def heads_of(block: Any) -> int:
    """Heads of a block's attention, 0 where it has none."""
    parts = parts_of(block)
    assert parts is not None
    if parts.convolutional:
        return 0
    holder = parts.attentions[0].sub if parts.attentions else block
    return int(holder.num_heads if hasattr(holder, "num_heads") else holder.heads)


def _holds(module: Any, names: tuple[str, ...]) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Module) for name in names)
