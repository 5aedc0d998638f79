"""The identity of a backbone: a hash of its frozen weights."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn


def classifier_parameters(backbone: Any) -> set[nn.Parameter]:
    """Parameters of the backbone's own classifier, which features do not pass through."""
    classifier = backbone.get_classifier() if hasattr(backbone, "get_classifier") else None
    modules = classifier if isinstance(classifier, (tuple, list)) else [classifier]
    return {p for module in modules if isinstance(module, nn.Module) for p in module.parameters()}


def fingerprint(backbone: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and persistent buffers but the classifier's."""
    own = classifier_parameters(backbone)
    excluded = {name for name, parameter in backbone.named_parameters() if parameter in own}
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        if name in excluded:
            continue
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
        digest.update(data.view(-1).view(torch.uint8).numpy().data if data.numel() else b"")
    return digest.hexdigest()
