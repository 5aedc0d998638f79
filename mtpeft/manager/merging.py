"""Folding a task's weights into a copy of the backbone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.attention_families import attention_bias
from mtpeft.backbones.site import FRAME_STYLES, Site
from mtpeft.errors import ConfigError
from mtpeft.heads import Head
from mtpeft.hooks.attachment import Attachment
from mtpeft.manager.protocol import Managed

#: layers that pass everything on in eval mode
PASSING = (nn.Dropout, nn.Identity)


@torch.no_grad()
def merged_backbone(manager: Managed, task: str) -> nn.Module:
    """A plain copy of the (unhooked) backbone with the task folded in; its classifier is the task's head if linear.

    Linear are the heads `linear`, `growing` (of kind linear) and `video_linear` (with `pool="mean"`, for single frames), an
    `nn.Linear`, and an `nn.Sequential` of one with dropout. With another head the copy has no classifier: its output is the
    features.
    """
    for attachment in manager.methods:
        if attachment.weights.reads_query:
            raise ConfigError(
                f"sharing {attachment.sharing_name!r} of method {attachment.spec.name!r} chooses weights by the image, which no "
                "single backbone can hold; merge needs a sharing that does not"
            )
        if not attachment.spec.folds:
            raise ConfigError(
                f"method {attachment.spec.name!r} does not fold into the backbone; merge needs methods that do"
            )
        if attachment.weights.members > 1:
            raise ConfigError(
                f"sharing {attachment.sharing_name!r} predicts by {attachment.weights.members} copies of the weights, which "
                "no single backbone can hold; merge needs a sharing of one"
            )
        attachment.check_fitted([task])
    plain: Any = copy.deepcopy(manager.backbone)
    for attachment in manager.methods:
        if between := sorted({site.kind for site in attachment.selected if site.style in FRAME_STYLES}):
            warnings.warn(
                f"method {attachment.spec.name!r} acts between the frames of a clip ({', '.join(between)}), which a plain model "
                "cannot: the merged one is for single frames; for clips attach the method to it with these sites alone",
                stacklevel=3,
            )
        _fold(plain, attachment, task, [site for site in attachment.selected if not site.readers])
    for attachment in reversed(manager.methods):  # what acts before a layer is behind all that acts on its output
        _fold(plain, attachment, task, [site for site in attachment.selected if site.readers])
    linear = as_linear(manager.head(task))
    plain.reset_classifier(0 if linear is None else linear[0].shape[0])
    plain.eval()
    if linear is not None:
        _write_classifier(plain, *linear)
        _check_classifier(plain, manager, *linear)
    return plain


def _fold(plain: nn.Module, attachment: Attachment, task: str, sites: Sequence[Site]) -> None:
    """Write the weights of sites that have some, with the task's folded in."""
    for site in sites:
        for place in site.readers or (site,):
            if place.style not in FRAME_STYLES:
                weight, bias = _read(plain, place)
                _write(plain, place, *attachment.weights.fold(site.key, task, weight, bias))


def as_linear(head: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Weight (classes, C) and bias of a head that is one linear map of pooled features in eval mode, or None."""
    if isinstance(head, Head):
        return head.linear()
    layers = [m for m in head if not isinstance(m, PASSING)] if isinstance(head, nn.Sequential) else [head]
    if len(layers) == 1 and isinstance(layers[0], nn.Linear):
        return layers[0].weight, layers[0].bias
    return None


def _write_classifier(plain: Any, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Make the fresh classifier this linear map; a distilled model has two, and averages what they give in eval mode."""
    found = plain.get_classifier()
    for classifier in found if isinstance(found, (tuple, list)) else [found]:
        layers = [m for m in classifier.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        if len(layers) != 1 or layers[0].weight.flatten(1).shape != weight.shape:
            raise _no_place(plain, weight)
        layer = layers[0].to(weight)
        layer.weight.copy_(weight.view_as(layer.weight))
        if layer.bias is not None:
            layer.bias.copy_(torch.zeros_like(layer.bias) if bias is None else bias)
        elif bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone())


def _check_classifier(plain: Any, manager: Managed, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """A forward on zeros: the model's output must be the head's of its features."""
    image = weight.new_zeros(1, *manager.anatomy.input_size)
    try:
        raw = plain.forward_features(image)
        expected = nn.functional.linear(plain.forward_head(raw, pre_logits=True), weight, bias)
        found = plain.forward_head(raw)
    except RuntimeError as error:
        raise _no_place(plain, weight) from error
    if found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-2, rtol=1e-2):
        raise _no_place(plain, weight)


def _no_place(plain: Any, weight: torch.Tensor) -> ConfigError:
    return ConfigError(
        f"the classifier of {type(plain).__name__} is not one linear layer on its {weight.shape[1]} features; merge cannot "
        "give it the task's head: take a head of another kind and apply it to the merged model's features yourself"
    )


def _read(plain: nn.Module, site: Site) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The site's rows of weight and bias, copied; a table of logit biases has no weight."""
    if site.weight is None:
        assert site.bias is not None
        return None, plain.get_parameter(site.bias).detach().clone()
    weight = plain.get_parameter(site.weight).detach()
    bias: torch.Tensor | None = None
    if site.bypassed:
        bias = _attention_bias(plain, site)
    elif site.bias is not None:
        bias = plain.get_parameter(site.bias).detach()
    if site.rows is not None:
        rows = slice(*site.rows)
        weight, bias = weight[rows], None if bias is None else bias[rows]
    return weight.clone(), None if bias is None else bias.clone()


def _write(plain: Any, site: Site, weight: torch.Tensor | None, bias: torch.Tensor | None) -> None:
    if weight is None:
        plain.get_parameter(site.bias).copy_(bias)
        return
    rows = slice(None) if site.rows is None else slice(*site.rows)
    module = plain.get_submodule(site.path)
    module.weight[rows] = weight
    if bias is None:
        return
    if site.bypassed:
        _write_attention_bias(plain, site, bias, rows)
        return
    if module.bias is None:
        module.bias = nn.Parameter(module.weight.new_zeros(module.weight.shape[0]))
    module.bias[rows] = bias


def _attention_bias(plain: nn.Module, site: Site) -> torch.Tensor:
    """q, k and v biases that live in the attention module, as one vector; k has a constant buffer of zeros."""
    attn: Any = plain.get_submodule(site.path.rpartition(".")[0])
    if attn.q_bias is None:
        return attn.qkv.bias.detach()
    return attention_bias(attn)


def _write_attention_bias(plain: nn.Module, site: Site, bias: torch.Tensor, rows: slice) -> None:
    """Write q and v biases where they live. A bias on k has no place there: the copy's qkv then carries all three."""
    attn: Any = plain.get_submodule(site.path.rpartition(".")[0])
    whole = _attention_bias(plain, site)
    whole = whole.clone()
    whole[rows] = bias
    q, k, v = whole.chunk(3)
    if attn.q_bias is not None and not k.any():
        attn.q_bias.copy_(q)
        attn.v_bias.copy_(v)
        return
    attn.q_bias = attn.k_bias = attn.v_bias = None
    attn.qkv.bias = nn.Parameter(whole)
