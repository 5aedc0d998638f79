"""GPS: for every output neuron the few connections with the largest gradient are trained, and all biases.

Zhang et al., "Gradient-based Parameter Selection for Efficient Fine-Tuning", CVPR 2024 (arXiv 2312.10136), sections 3.2 and
3.3. Once, before a task is trained, gradients are added up over its training images; norms, positions and tokens stay frozen.

The default loss is the supervised contrastive one (Khosla et al., NeurIPS 2020, arXiv 2004.11362, equation 2) of pooled
features, which needs no head. The paper shows two augmentations of an image: here an image is its own second view, as in the
authors' runs on VTAB, which augment nothing; further views may stand in a batch, under the same label. They choose in
training mode, with drop path, here the backbone is in evaluation mode. Chosen weights are kept as what is added to the
backbone's, (out, K), not as a mask over all of them, so that a decay or an optimiser's momentum never moves the others. Patch
merging's matrix in Swin is no site of the default; add "reduction" to `sites`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.site import Site
from mtpeft.errors import ConfigError
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, wide
from mtpeft.methods.group import Group
from mtpeft.methods.spec import Properties, register
from mtpeft.methods.task_data import TaskData
from mtpeft.options import Count, Positive


@dataclass(frozen=True, kw_only=True)
class GPSConfig(MethodConfig):
    """`connections` K of every neuron (1 on VTAB, 2 to 20 on FGVC), or all where it has fewer.

    `selection` by the gradient of a contrastive loss, at `temperature`, or of the task's own with its head as it starts.
    """

    sites: Sites = ("operations", "biases")
    connections: Count = 1
    selection: Literal["contrastive", "task"] = "contrastive"
    temperature: Positive = 0.07


@register(
    "gps",
    GPSConfig,
    paper="Zhang et al., CVPR 2024 (arXiv 2312.10136)",
    properties=Properties(no_added_modules=True, structure_preserving=True, inference_efficient=True),
    weights="(1 + connections) * (d + L * (5 * d + m))",
)
class GPS(SiteModule):
    """y + D x + c: D (out, in) holds `values` (out, K) at the columns `index` (out, K), c (out,) moves the bias."""

    styles: ClassVar[tuple[str, ...]] = ("output",)
    index: torch.Tensor

    def __init__(self, config: GPSConfig, site: Site) -> None:
        super().__init__(config, site)
        weight, bias = _weight(config, site), site.own_bias()
        self.bias = None if bias is None else nn.Parameter(torch.zeros_like(bias))
        self.values = None
        if weight is not None:
            self.shape, self.made = weight.shape, weight.numel()
            count, layer = min(config.connections, weight[0].numel()), site.module
            if isinstance(layer, nn.Conv2d):
                self.convolution: tuple[Any, ...] = (layer.stride, layer.padding, layer.dilation, layer.groups)
            self.values = nn.Parameter(weight.new_zeros(len(weight), count))
            self.register_buffer("index", torch.arange(count, dtype=torch.int32).repeat(len(weight), 1))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The layer's input x and output y, tokens (..., C) or maps (B, C, H, W) -> new y."""
        if self.values is None:
            assert self.bias is not None
            return y + self.bias
        if len(self.shape) == 2:
            return y + F.linear(x, self._added(), self.bias)
        return y + F.conv2d(x, self._added(), self.bias, *self.convolution)

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W + D and b + c, in float32 at least."""
        if self.values is not None:
            weight = (wide(weight) + wide(self._added())).to(weight.dtype)
        return weight, bias if bias is None or self.bias is None else bias + self.bias.to(bias.dtype)

    @staticmethod
    def group(config: Any, name: str) -> Group:
        """No decay, which would pull to the backbone's weights, not to zero."""
        return Group(decay=False)

    @staticmethod
    def needs_fit(config: Any) -> bool:
        """The connections are chosen by gradients of the task's data."""
        return True

    @staticmethod
    def fit(config: Any, modules: Mapping[str, Any], data: TaskData) -> None:
        """Gradients of all batches are added up; of every row the K entries of largest magnitude are chosen."""
        layers = {key: data.sites[key].module for key, module in modules.items() if module.values is not None}
        weights: list[Any] = list({layer.weight: None for layer in layers.values()})
        sums = {weight: torch.zeros_like(weight) for weight in weights}
        for images, labels in data:
            if config.selection == "task":
                loss = data.loss(images, labels)
            elif labels.ndim == 1 and not labels.is_floating_point():
                loss = contrastive_loss(data.features(images), labels, config.temperature)
            else:
                raise ConfigError(
                    "method 'gps' contrasts classes, and the labels are no class numbers: selection='task'"
                )
            found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
            for weight, gradient in zip(weights, found, strict=True):
                sums[weight] += gradient
        for key, layer in layers.items():
            total: Any = sums[layer.weight]
            span = data.sites[key].rows
            rows = total if span is None else total[slice(*span)]
            index = modules[key].index
            index.copy_(rows.flatten(1).abs().topk(index.shape[1]).indices.sort().values)

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """All but the norms, whose biases stay frozen too."""
        return [site for site in sites if "norms" not in site.tags]

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """It knows linear layers and convolutions."""
        known = (nn.Linear.forward, nn.Conv2d.forward)
        other = [s.kind for s in sites if _weight(config, s) is not None and type(s.module).forward not in known]
        return f"site {other[0]!r} is neither a linear layer nor a convolution" if other else None

    def _added(self) -> torch.Tensor:
        """D, in the shape of the layer's weight (or of its rows)."""
        assert self.values is not None
        dense = self.values.new_zeros(self.shape[0], self.shape[1:].numel())
        return dense.scatter(1, self.index.long(), self.values).view(self.shape)


def _weight(config: GPSConfig, site: Site) -> torch.Tensor | None:
    """The weight, or rows of it, that this site stands for; None at one that is there for a bias alone."""
    bias_alone = "biases" in config.sites and "biases" in site.tags and "operations" not in site.tags
    if site.weight is None or bias_alone:
        return None
    weight: torch.Tensor = site.module.weight  # type: ignore[assignment]
    return weight if site.rows is None else weight[slice(*site.rows)]


def contrastive_loss(features: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Features (B, C) and classes (B,), each image twice: for an anchor the mean over the others of its class of -log p.

    p is the softmax, over all other views, of cosines divided by the temperature.
    """
    z, classes = F.normalize(features, dim=-1).repeat(2, 1), labels.repeat(2)
    others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(~others, -torch.inf)
    same = (classes[:, None] == classes) & others
    log_p = logits.log_softmax(-1).masked_fill(~same, 0.0)
    return -(log_p.sum(-1) / same.sum(-1)).mean()
