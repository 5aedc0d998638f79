"""Transformer blocks by what they hold: residual branches with a norm, a sub-layer and an end, or one fused branch.

Three kinds are known, told apart by structure: an attention and an MLP branch one after the other (`norm1`, `attn`, `norm2`,
`mlp`); several of each side by side (`attns`, `ffns`); and attention and MLP fused into one pair of projections (`in_norm`,
`in_proj`), whose only inner places are rows of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

PLAIN = ("norm1", "attn", "norm2", "mlp", "drop_path1", "drop_path2")
PARALLEL = ("norm", "ls", "drop_path")
FUSED = ("in_norm", "in_proj", "drop_path")


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
    fused = _holds(block, FUSED) and isinstance(getattr(block, "in_split", None), list) and len(block.in_split) == 4
    return Parts() if fused and hasattr(block, "num_heads") else None


def heads_of(block: Any) -> int:
    """Heads of a block's attention."""
    parts = parts_of(block)
    assert parts is not None
    return int((parts.attentions[0].sub if parts.attentions else block).num_heads)


def _holds(module: Any, names: tuple[str, ...]) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Module) for name in names)
