"""Folding a task's weights into a copy of the backbone."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.errors import ConfigError
from mtpeft.heads import LinearHead
from mtpeft.manager.protocol import Managed


@torch.no_grad()
def merged_backbone(manager: Managed, task: str) -> nn.Module:
    """A plain copy of the (unhooked) backbone with the task folded in; its classifier is the task's head if linear.

    With another head the copy has no classifier, so that its output is the features.
    """
    for attachment in manager.methods:
        if not attachment.spec.folds:
            raise ConfigError(
                f"method {attachment.spec.name!r} does not fold into the backbone; merge needs methods that do"
            )
        if attachment.weights.members > 1:
            raise ConfigError(
                f"sharing {attachment.sharing_name!r} predicts by {attachment.weights.members} copies of the weights, which "
                "no single backbone can hold; merge needs a sharing of one"
            )
    plain: Any = copy.deepcopy(manager.backbone)
    for attachment in manager.methods:
        bank: Any = attachment.weights.bank(task)
        extra = {} if bank.model is None else {"model": bank.model}
        for site in attachment.selected:
            weight, bias = _read(plain, site)
            _write(plain, site, *bank.sites[site.key].merged(weight, bias, **extra))
    head = manager.head(task)
    if isinstance(head, LinearHead):
        plain.reset_classifier(head.fc.out_features)
        classifier = next(m for m in _modules(plain.get_classifier()) if isinstance(m, nn.Linear))
        classifier.load_state_dict(head.fc.state_dict())
    else:
        plain.reset_classifier(0)
    plain.eval()
    return plain


def _modules(classifier: Any) -> list[nn.Module]:
    if isinstance(classifier, (tuple, list)):
        raise ConfigError(
            "a distilled backbone has two classifiers; merge it with num_classes=0 and apply the head yourself"
        )
    return list(classifier.modules())


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
    return torch.cat([attn.q_bias, attn.k_bias, attn.v_bias]).detach()


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
