"""Instrumented attention: timm's forwards with places to act between the projections and the product.

Hooks cannot reach inside an attention module, so one `InstrumentedAttention` stands in for the `forward` of an
attention *instance* while a method needs it; the class, the weights and every other model stay as they are. It uses
the same fused kernel as timm and is tested equal to the native forward.

The families are those of `mtpeft.backbones.attention_families`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from timm.layers import apply_rot_embed_cat
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.attention_families import attention_family

#: a hook on a projection: (module, (x,), y) -> y, as torch's forward hooks
ProjectionHook = Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]
#: (q, k, v, additive bias or None) -> attended values
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


#: attention input (rows, N, C) -> what is added to the logits, (1 or rows, heads, N, N), or None
LogitSource = Callable[[torch.Tensor], torch.Tensor | None]
#: is told of attention input x, keys and values of a pass, for tokens that read them afterwards
Recorder = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


class PrefixSource(Protocol):
    """Gives keys and values (B, m, C) for attention input x (B, N, C)."""

    calibrated: bool

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N, C) -> keys and values."""
        ...


@torch.no_grad()
def equals_native(attn: Any, prefix_tokens: int, shape: Sequence[int], rest: Sequence[Any], named: Any) -> bool:
    """Whether the forward here gives what `attn` itself gives on noise of `shape`, up to rounding.

    `rest` and `named` are the other arguments the model calls it with.
    """
    like = attn.proj.weight
    noise = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
    x = noise.to(device=like.device, dtype=like.dtype)
    native = type(attn).forward(attn, x, *rest, **named)
    try:
        ours = InstrumentedAttention(attn, prefix_tokens)(x, *rest, **named)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    spread = 2e-2 if like.dtype in (torch.float16, torch.bfloat16) else 1e-4
    return ours.shape == native.shape and bool((ours - native).abs().max() <= spread * native.abs().max())


class InstrumentedAttention:
    """The forward of one attention module, with projection hooks, extra tokens, prefixes and query-only passes."""

    def __init__(self, attn: nn.Module, prefix_tokens: int) -> None:
        """`prefix_tokens` is the number of class and register tokens in front of the patch tokens."""
        self.attn: Any = attn
        self.family = attention_family(attn)
        self.prefix_tokens = prefix_tokens
        self.projection_hooks: list[ProjectionHook] = []
        self.prefix_sources: list[PrefixSource] = []
        self.logit_sources: list[LogitSource] = []
        self.extra_tokens = 0  # prompts behind the prefix tokens, without a position
        self.recorders: list[Recorder] = []
        self.reading: tuple[torch.Tensor, torch.Tensor] | None = None  # keys and values of a query-only pass

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The native signature of the family; returns what the native forward would, plus what is attached."""
        return getattr(self, f"_{self.family}")(x, *args, **kwargs)

    # families -----------------------------------------------------------------------------------------------------

    def _plain(
        self,
        x: torch.Tensor,
        rope: torch.Tensor | None = None,
        attn_mask: torch.Tensor | None = None,
        is_causal: bool = False,
        shared_rel_pos_bias: torch.Tensor | None = None,
        shared_rel_pos: torch.Tensor | None = None,
    ) -> torch.Tensor:
        gate = self._gate(x)
        q, k, v = self._project(x)
        q = self._norm("q_norm", q)
        if self.reading is not None:
            return self._finish(F.scaled_dot_product_attention(q, *self.reading), gate)
        k = self._norm("k_norm", k)
        if rope is not None:
            q, k = self._rotate(q, rope).type_as(v), self._rotate(k, rope).type_as(v)
        k, v = self._all_heads(k), self._all_heads(v)
        for record in self.recorders:
            record(x, k, v)
        shared = shared_rel_pos_bias if shared_rel_pos is None else shared_rel_pos
        bias = self._position_bias(x, shared, attn_mask)
        attend = partial(self._attend, is_causal=is_causal)
        return self._finish(self._mix(x, q, k, v, bias, attend), gate)

    def _window(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = self._project(x)
        for record in self.recorders:
            record(x, k, v)
        bias = self._window_bias(self._table_bias(x), mask, x.shape[0])
        return self._finish(self._mix(x, q, k, v, bias, self._attend), None)

    def _cosine_window(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = self._project(x)
        bias = self._window_bias(self._computed_bias(), mask, x.shape[0])
        return self._finish(self._mix(x, q, k, v, bias, self._attend_cosine), None)

    def _reduced(self, x: torch.Tensor, feat_size: tuple[int, int]) -> torch.Tensor:
        attn, pool = self.attn, getattr(self.attn, "pool", None)  # PVT's own has no pooling
        q = self._heads(attn.q(x))
        reduced = x
        if pool is not None or attn.sr is not None:
            reduced = x.transpose(1, 2).unflatten(2, tuple(feat_size))
            reduced = attn.sr(reduced if pool is None else pool(reduced)).flatten(2).transpose(1, 2)
            reduced = attn.norm(reduced)
            reduced = reduced if pool is None else attn.act(reduced)
        k, v = (self._heads(part) for part in attn.kv(reduced).chunk(2, dim=-1))
        return self._finish(self._mix(x, q, k, v, None, self._attend), None)

    # prompts of windows -------------------------------------------------------------------------------------------

    def project_prompts(self, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normed prompts (B, p, C) -> queries (B, heads, p, head_dim), and keys and values, each (B, p, heads * head_dim)."""
        q, k, v = self._project(prompts)
        return q, k.transpose(1, 2).flatten(2), v.transpose(1, 2).flatten(2)

    def read(self, prompts: torch.Tensor, x: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Normed prompts (B, p, C) -> the same shape: each reads every window of a recorded pass, on average.

        The rows of prompts carry no positional bias and no mask. The mean comes before the projection, which is linear.
        """
        windows = x.shape[0] // prompts.shape[0]
        q = self._project(prompts)[0].repeat_interleave(windows, dim=0)
        out = self._mix(x, q, k, v, None, self._attend)
        return self._finish(out.unflatten(0, (-1, windows)).mean(dim=1), None)

    # tokens without positions, such as one place in the frames of a clip ------------------------------------------

    def attend_without_positions(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, T, C) -> the same shape: every row for itself, by the frozen projections, without bias, mask or prefix."""
        gate = self._gate(x)
        return self._finish(self._attend(*self._queries_keys_values(x), None), gate)

    def weights_without_positions(self, x: torch.Tensor) -> torch.Tensor:
        """The weights of that attention, (rows, heads, T, T): who asks, who is attended to."""
        q, k, _ = self._queries_keys_values(x)
        return (q @ k.transpose(-2, -1) * self.attn.scale).softmax(dim=-1)

    # steps --------------------------------------------------------------------------------------------------------

    def _project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, N, C) -> q, k, v of shape (B, heads, N, head_dim)."""
        attn = self.attn
        if getattr(attn, "qkv", None) is None:
            q, k, v = attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)
        elif getattr(attn, "q_bias", None) is None:
            q, k, v = attn.qkv(x).chunk(3, dim=-1)
        else:
            bias = torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
            y = attn.qkv(x) + bias if attn.qkv_bias_separate else F.linear(x, attn.qkv.weight, bias)
            for hook in self.projection_hooks:
                y = hook(attn.qkv, (x,), y)
            q, k, v = y.chunk(3, dim=-1)
        return self._heads(q), self._heads(k), self._heads(v)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, heads * head_dim) -> (B, heads, N, head_dim); key and value heads may be fewer (grouped queries)."""
        head_dim = self.attn.proj.in_features // self.attn.num_heads
        return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)

    def _queries_keys_values(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, N, C) -> normed q, k and v, each (B, heads, N, head_dim), without positions."""
        q, k, v = self._project(x)
        return self._norm("q_norm", q), self._all_heads(self._norm("k_norm", k)), self._all_heads(v)

    def _all_heads(self, x: torch.Tensor) -> torch.Tensor:
        """Keys or values of grouped queries, repeated for the heads that share them."""
        groups = getattr(self.attn, "num_kv_groups", 1)
        return x.repeat_interleave(groups, dim=1) if groups > 1 else x

    def _gate(self, x: torch.Tensor) -> torch.Tensor | None:
        gate = getattr(self.attn, "gate", None)
        return None if gate is None else gate(x).sigmoid()

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        norm = getattr(self.attn, name, None)
        return x if norm is None else norm(x)

    def _rotate(self, x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
        """Rotary positions on the patch tokens; prefix tokens and prompts have none."""
        fixed = self.attn.num_prefix_tokens + self.extra_tokens
        half = getattr(self.attn, "rotate_half", False)
        return torch.cat([x[:, :, :fixed], apply_rot_embed_cat(x[:, :, fixed:], rope, half=half)], dim=2)

    def _table_bias(self, x: torch.Tensor) -> torch.Tensor:
        """Relative-position bias (1, heads, N, N) of the module's own table, with one per row where a method adds to it."""
        bias: torch.Tensor = self.attn._get_rel_pos_bias()
        for source in self.logit_sources:
            added = source(x)
            bias = bias if added is None else bias + added
        return bias

    def _computed_bias(self) -> torch.Tensor:
        """Bias (1, heads, N, N) that a small network makes of the positions: SwinV2's, bounded, or Swin-V2-CR's."""
        attn = self.attn
        if getattr(attn, "cpb_mlp", None) is None:
            found: torch.Tensor = attn._relative_positional_encodings()
            return found
        table = attn.cpb_mlp(attn.relative_coords_table).view(-1, attn.num_heads)
        area = attn.window_size[0] * attn.window_size[1]
        bias = table[attn.relative_position_index.view(-1)].view(area, area, -1).permute(2, 0, 1).contiguous()
        return (16 * torch.sigmoid(bias)).unsqueeze(0)

    def _position_bias(
        self, x: torch.Tensor, shared: torch.Tensor | None, mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Additive logit bias (own and shared) or the caller's mask; zero on rows and columns of prompts."""
        bias = mask
        if getattr(self.attn, "relative_position_bias_table", None) is not None:
            bias = self._table_bias(x)
        elif getattr(self.attn, "rel_pos", None) is not None:
            bias, shared = self.attn.rel_pos.get_bias(), None
        if shared is not None:
            bias = shared if bias is None else bias + shared
        if bias is None or not self.extra_tokens:
            return bias
        for axis in (-2, -1):
            head, tail = bias.tensor_split([self.prefix_tokens], dim=axis)
            shape = list(bias.shape)
            shape[axis] = self.extra_tokens
            bias = torch.cat([head, bias.new_zeros(shape), tail], dim=axis)
        return bias

    def _window_bias(self, bias: torch.Tensor, mask: torch.Tensor | None, windows: int) -> torch.Tensor:
        """Relative-position bias (1 or B * nW, heads, A, A) plus the shift mask (nW, A, A) for `windows` = B * nW."""
        if mask is None:
            return bias
        count, area, _ = mask.shape
        tiled = mask.view(1, count, 1, area, area).expand(windows // count, -1, self.attn.num_heads, -1, -1)
        return bias + tiled.reshape(windows, self.attn.num_heads, area, area)

    def _mix(
        self,
        x: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        bias: torch.Tensor | None,
        attend: Attend,
    ) -> torch.Tensor:
        """Attention with learned keys and values in front; their columns carry no positional bias and no mask.

        A calibrated prefix has its attention divided by its own sum (LAE, section 3.2): the rest keeps its share of the
        common softmax, the prefix is attended to with weights that sum to one.
        """
        own: list[torch.Tensor] = []
        for source in self.prefix_sources:
            keys, values = (self._heads(part).to(k.dtype) for part in source(x))
            if source.calibrated:
                own.append(attend(q, keys, values, None))
                values = torch.zeros_like(values)
            k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
            if bias is not None:
                bias = F.pad(bias, (keys.shape[2], 0), value=True if bias.dtype == torch.bool else 0.0)
        out = attend(q, k, v, bias)
        for part in own:
            out = out + part
        return out

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, is_causal: bool = False
    ) -> torch.Tensor:
        """Softmax attention with additive or boolean `bias`, fused where the module's own setting is fused."""
        attn = self.attn
        dropout = attn.attn_drop.p if attn.training else 0.0
        if attn.fused_attn or is_causal or (bias is not None and bias.dtype == torch.bool):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, is_causal=is_causal)
        scores = (q * attn.scale) @ k.transpose(-2, -1)
        scores = scores if bias is None else scores + bias
        return attn.attn_drop(scores.softmax(dim=-1)) @ v

    def _attend_cosine(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """SwinV2's attention: cosine similarity over a learned temperature, as timm computes it (not fused)."""
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scale = self.attn.logit_scale.view(-1, 1, 1)
        scores = scores * torch.clamp(scale, max=math.log(1.0 / 0.01)).exp()
        scores = scores if bias is None else scores + bias
        return self.attn.attn_drop(scores.softmax(dim=-1)) @ v

    def _finish(self, out: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
        """(B, heads, N, head_dim) -> (B, N, C) through the module's own output norm, gate and projection."""
        attn = self.attn
        out = out.transpose(1, 2).flatten(2)
        if self.family == "plain":
            out = self._norm("norm", out)
        out = out if gate is None else out * gate
        return attn.proj_drop(attn.proj(out))
