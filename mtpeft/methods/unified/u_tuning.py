"""U-Tuning: a tuner beside a frozen operation, fed what the operation is fed: OP(x) + s T(x).

Jiang et al., "Rethinking Efficient Tuning Methods from a Unified Perspective", 2023 (arXiv 2303.00690). The operation is a
block's attention, its MLP or the whole block; T is an adapter, a prefix or a prompt rewritten as a branch of its own:

    adapter   T(x) = W_up GELU(W_down x + b_d) + b_u
    prefix    T(x) = W_o concat_h softmax(q P_k^T / sqrt(d_h)) P_v,  q = W_q x + b_q
    prompt    the same with P_k = W_k P + b_k and P_v = W_v P + b_v, P behind the block's first norm as VPT's is

W_q, W_k, W_v, W_o and the norm are the block's own, frozen, whatever other methods add to them. Prefix tuning itself is
exactly (1 - l) Attn(q, K, V) + l Attn(q, P_k, P_v) with a share l of each query and head that depends on the input; here
it is s in its place, so that the branch weighs more than a prefix does (l is about m / (N + m)).

The authors' released model holds sequential adapters and prefixes behind the keys in place of these branches, and the paper's
settings of m and r are not known here. Of our choice: W_o without its bias on what is read (`out_proj`); beside the
MLP and the block, where there is no query, W_q of that block on what the operation is fed; no positions and no norms of queries.
Branches are added behind LayerScale and drop path. A block is fed the stream without a norm: take a small `scale` there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.site import Site
from mtpeft.errors import ConfigError
from mtpeft.methods.adapter.bottleneck import Bottleneck
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Positive

Tuner = Literal["adapter", "prefix", "prompt"]
#: where a tuner sits -> the option that chooses it
PLACES = {"parallel_attn_ln": "attention", "parallel_mlp_ln": "mlp", "block": "block"}


@dataclass(frozen=True, kw_only=True)
class UTuningConfig(MethodConfig):
    """`attention`: the tuner beside attention; `mlp`: the tuner beside the MLP; `block`: the tuner beside the whole block.

    `num_tokens` m of prefixes and prompts; `bottleneck_dim` r of adapters; `scale` s; `learnable_scale` trains s of every
    branch from `scale` on; `out_proj` puts the frozen W_o behind what prefixes and prompts read.

    `zero_init` starts W_up and P_v at zero, and for prompts trains s from zero, so that the model is its own at the start; the
    authors' modules do not.
    """

    sites: Sites = tuple(PLACES)
    attention: Tuner | None = "prefix"
    mlp: Tuner | None = "adapter"
    block: Tuner | None = None
    num_tokens: Count = 10
    bottleneck_dim: Count = 10
    scale: Positive = 1.0
    learnable_scale: bool = False
    out_proj: bool = True
    zero_init: bool = False

    def tuner(self, site: Site) -> Tuner | None:
        """What sits at a site."""
        tuner: Tuner | None = getattr(self, PLACES[site.kind])
        return tuner


class Reading(nn.Module):
    """x (..., d) -> what its queries read from m learned slots (..., d), by a softmax over these alone.

    Prefixes hold keys and values (m, d), prompts tokens (m, d) that the frozen W_k and W_v project; xavier-uniform as of
    (1, m, d).
    """

    def __init__(self, config: UTuningConfig, site: Site, projected: bool) -> None:
        """`projected`: prompts in place of keys and values."""
        super().__init__()
        self.site, self.out_proj, self.projected = site, config.out_proj, projected
        key = site.beside["k"]
        width = key.dim if projected else key.dim_out
        bound = (6 / (config.num_tokens * width + width)) ** 0.5
        for name in ("prompts",) if projected else ("keys", "values"):
            slots = torch.empty(config.num_tokens, width).uniform_(-bound, bound)
            setattr(self, name, nn.Parameter(slots))
        if config.zero_init and not projected:
            nn.init.zeros_(self.values)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., d) -> (..., d)."""
        query, output = self.site.beside["q"], self.site.beside["proj"]
        q, k, v = (part.unflatten(-1, (query.num_heads, -1)) for part in (_project(query, x), *self.pair()))
        logits = torch.einsum("...hc,mhc->...hm", q, k) * q.shape[-1] ** -0.5
        read = torch.einsum("...hm,mhc->...hc", logits.softmax(dim=-1), v).flatten(-2)
        return F.linear(read, output.own_weight()) if self.out_proj else read

    def pair(self) -> tuple[Any, Any]:
        """Keys and values (m, d)."""
        if not self.projected:
            return self.keys, self.values
        attention = self.site.beside["parallel_attn_ln"]
        prompts: Any = self.prompts
        if attention.source_is_output and attention.source is not None:  # the block norms first
            prompts = attention.source.forward(prompts)  # the norm alone, without what is hooked to it
        return _project(self.site.beside["k"], prompts), _project(self.site.beside["v"], prompts)


def _project(site: Site, x: torch.Tensor) -> torch.Tensor:
    """x (..., d) by the frozen weight and bias of a projection."""
    return F.linear(x, site.own_weight(), site.own_bias())


@register(
    "u_tuning",
    UTuningConfig,
    paper="Jiang et al., 2023 (arXiv 2303.00690)",
    properties=Properties(identity_at_init=False),
    weights="L * (2 * d * num_tokens + (2 * d + 1) * bottleneck_dim + d)",
)
class UTuning(SiteModule):
    """y + s T(x) with x what the operation is fed and y its output; T an adapter, a prefix or a prompt."""

    def __init__(self, config: UTuningConfig, site: Site) -> None:
        super().__init__(config, site)
        tuner = config.tuner(site)
        self.factored = tuner == "adapter"
        self.tuner: nn.Module
        if self.factored:
            self.tuner = _adapter(config, site)
        else:
            self.tuner = Reading(config, site, projected=tuner == "prompt")
        from_zero = config.zero_init and tuner == "prompt"
        start = 0.0 if from_zero else config.scale
        self.scale = nn.Parameter(torch.tensor(start)) if config.learnable_scale or from_zero else start

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., d) -> s [h, 1] (..., r + 1) with h the adapter's hidden units, and [W_up, b_u]^T (r + 1, d)."""
        left, right = self.tuner.factors(x)  # type: ignore[operator]
        return left * self.scale, right

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x, y (..., d) -> (..., d), for prefixes and prompts."""
        return y + self.scale * self.tuner(x)

    @staticmethod
    def chosen(config: UTuningConfig, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """The sites that have a tuner."""
        other = [site.kind for site in sites if site.kind not in PLACES]
        if other:
            raise ConfigError(f"it sits beside attention, the MLP or the block: {', '.join(PLACES)}, not {other[0]!r}")
        return [site for site in sites if config.tuner(site) is not None]

    @staticmethod
    def unsupported(config: UTuningConfig, sites: Sequence[Site]) -> str | None:
        """An operation keeps the width; prefixes and prompts read by the projections of one attention in the block."""
        for site in sites:
            if site.dim != site.dim_out:
                return f"what enters {site.key} is {site.dim} wide and what leaves it {site.dim_out}"
            if config.tuner(site) == "adapter":
                continue
            parts = [site.beside.get(kind) for kind in ("q", "k", "v", "proj", "parallel_attn_ln")]
            if None in parts:
                return "its prefixes and prompts read by the projections q, k, v, proj of one attention in every block"
            widths = {width for part in parts[:4] if part is not None for width in (part.dim, part.dim_out)}
            if widths != {site.dim}:
                return f"its prefixes and prompts need projections as wide as the stream, in the block of {site.key} they are not"
        return None


def _adapter(config: UTuningConfig, site: Site) -> Bottleneck:
    """W_down and W_up xavier-uniform, biases of spread 1e-6."""
    adapter = Bottleneck(site.dim, config.bottleneck_dim, "gelu")
    for layer in (adapter.down, adapter.up):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(layer.bias, std=1e-6)
    for tensor in adapter.up.parameters() if config.zero_init else ():
        nn.init.zeros_(tensor)
    return adapter
