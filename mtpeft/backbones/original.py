"""What a backbone was before methods were attached, so that detaching gives it back bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Collection

from torch import nn

from mtpeft.backbones.fingerprint import classifier_parameters, fingerprint


class Original:
    """Freezes a backbone but for the parameters `owned` (names), and remembers what it was.

    `fingerprint` is the hash of its weights; the classifier is never trained.
    """

    def __init__(self, backbone: nn.Module, owned: Collection[str]) -> None:
        """The weights themselves are copied only where some are trained."""
        self.fingerprint = fingerprint(backbone)
        self._required = {name: p.requires_grad for name, p in backbone.named_parameters()}
        self._modes = {path: module.training for path, module in backbone.named_modules()}
        self._weights = copy.deepcopy(backbone.state_dict()) if owned else None
        classifier = classifier_parameters(backbone)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name in owned and parameter not in classifier)

    def restore(self, backbone: nn.Module) -> None:
        """Give weights, modes and gradient flags back."""
        if self._weights is not None:
            backbone.load_state_dict(self._weights)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(self._required[name])
        for path, module in backbone.named_modules():
            module.training = self._modes[path]
