"""SCT: a linear map on few channels of the residual stream, those that say most of the task.

Zhao et al., "SCT: A Simple Baseline for Parameter-Efficient Fine-Tuning via Salient Channels", IJCV 2023
(arXiv 2309.08513), sections 3.2 (class-aware importance of channels) and 3.3 (salient channel tuning): the K channels with the
largest norm in the frozen model are chosen for every block and every task, by its training images, before it is trained.

The stream after attention is the default; `sites=("parallel_mlp",)` acts on it after the MLP, and a projection such as q or v
on its own output. What is scored is what is changed. (The authors' code scores the block's output for its variant on the MLP.)
Their inference code leaves out the scale s, which the paper chooses for every task; K there exceeds a threshold, so that equal
scores may add channels, here it is exact. For labels that are no class numbers the images count as one class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import Properties, register
from mtpeft.methods.task_data import TaskData
from mtpeft.options import Count, Positive

#: the part of the channels that is chosen by default
SHARE = 8


@dataclass(frozen=True, kw_only=True)
class SCTConfig(MethodConfig):
    """`num_channels` K (None: an eighth of the width, the paper's 96 of 768); `scale` s of what is added.

    `init` of W: trunc_normal (of standard deviation 0.02, the authors' code), or zero, to start at the backbone.
    """

    sites: Sites = ("parallel_attn",)
    num_channels: Count | None = None
    scale: Positive = 1.0
    init: Literal["trunc_normal", "zero"] = "trunc_normal"


@register(
    "sct",
    SCTConfig,
    paper="Zhao et al., IJCV 2023 (arXiv 2309.08513)",
    properties=Properties(identity_at_init=False),
    weights="L * (k ** 2 + k) where k = d // 8",
)
class SCT(SiteModule):
    """z[I] <- z[I] + s (W z[I] + b); z the stream (..., d), I the K chosen channels, W (K, K), b (K,)."""

    channels: torch.Tensor

    def __init__(self, config: SCTConfig, site: Site) -> None:
        super().__init__(config, site)
        count = _count(config, site)
        self.scale, self.branch = config.scale, site.style == "parallel"
        self.map = nn.Linear(count, count)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)
        if config.init == "trunc_normal":
            nn.init.trunc_normal_(self.map.weight, std=0.02)
        self.register_buffer("channels", torch.arange(count))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """A branch's input x and output y (..., d), which add up to the stream, or a layer's output y -> new y."""
        chosen = self._changed(x, y).index_select(-1, self.channels)
        added = (self.map(chosen) * self.scale).to(y.dtype)
        return y.scatter_add(-1, self.channels.expand_as(added), added)

    @staticmethod
    def needs_fit(config: Any) -> bool:
        """The channels are chosen by the task's images."""
        return True

    @staticmethod
    def fit(config: Any, modules: Mapping[str, Any], data: TaskData) -> None:
        """For each channel the norm over all tokens of a class, then the mean over classes; the K largest are chosen."""
        squares: dict[str, dict[int, torch.Tensor]] = {key: {} for key in modules}
        for images, labels in data:
            classes = labels.tolist() if labels.ndim == 1 and not labels.is_floating_point() else [0] * len(images)

            def see(key: str, x: torch.Tensor, y: torch.Tensor, classes: list[int] = classes) -> None:
                tokens = modules[key]._changed(x, y)
                if tokens.ndim == 3:
                    tokens = tokens[:, data.sites[key].prefix_tokens :]
                found = tokens.unflatten(0, (len(classes), -1)).flatten(1, -2).float().square().sum(1).cpu().double()
                for label, own in zip(classes, found, strict=True):
                    squares[key][label] = squares[key].get(label, 0) + own

            data.watch(images, see)
        for key, module in modules.items():
            score = torch.stack([squares[key][label].sqrt() for label in sorted(squares[key])]).mean(0)
            module.channels.copy_(score.topk(len(module.channels)).indices.sort().values)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """The channels come last, and there are as many as are chosen."""
        for site in sites:
            if site.channel_axis != -1:
                return f"site {site.kind!r} is a map of a convolution; it acts on tokens"
            if _count(config, site) > site.dim_out:
                return f"num_channels={config.num_channels} is more than the {site.dim_out} channels of {site.key}"
        return None

    def _changed(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y if self.branch else y


def _count(config: SCTConfig, site: Site) -> int:
    return max(1, site.dim_out // SHARE) if config.num_channels is None else config.num_channels
