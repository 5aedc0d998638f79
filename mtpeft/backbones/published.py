"""What the library's own implementations of published models share: the entry points of timm, and how checkpoints are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.layers import global_pool_nlc, trunc_normal_
from timm.models import build_model_with_cfg, is_model, register_model
from torch import nn
from torch.utils.checkpoint import checkpoint

#: names that a state dict is kept under in a checkpoint, the averaged weights before the last ones
HOLDERS = ("state_dict_ema", "state_dict", "model")


class ClassTokenModel(nn.Module, ABC):
    """A model of images whose features are tokens (B, 1 + N, C), the class token first, with timm's entry points.

    A subclass says what its features are.
    """

    norm: nn.Module

    def __init__(self, in_chans: int, width: int, num_classes: int, global_pool: str, drop_rate: float) -> None:
        """`width` C of the tokens; `drop_rate` is that of the head."""
        super().__init__()
        self.in_chans, self.num_classes, self.global_pool = in_chans, num_classes, global_pool
        self.num_features = self.head_hidden_size = self.embed_dim = width
        self.num_prefix_tokens, self.grad_checkpointing = 1, False
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.head_drop = nn.Dropout(drop_rate)
        self.head: nn.Module = nn.Linear(width, num_classes) if num_classes > 0 else nn.Identity()

    def init_weights(self) -> None:
        """Linear layers and class token normal with deviation 0.02, cut at two; biases zero."""
        trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def with_class_token(self, patches: torch.Tensor) -> torch.Tensor:
        """(B, N, C) -> (B, 1 + N, C)."""
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)

    def run(self, block: nn.Module, *given: Any) -> torch.Tensor:
        """A block, once more in the backward pass where that is asked for."""
        again = self.grad_checkpointing and torch.is_grad_enabled()
        output: torch.Tensor = checkpoint(block, *given, use_reentrant=False) if again else block(*given)
        return output

    @abstractmethod
    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) -> normed tokens (B, 1 + N, C)."""

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Tokens -> what `global_pool` makes of them, (B, C), and the classes of that."""
        x = self.head_drop(global_pool_nlc(x, self.global_pool, num_prefix_tokens=self.num_prefix_tokens))
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images -> classes, or pooled features where there are no classes."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The layer that gives the classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier, or none for 0 classes; `global_pool`: "token", "avg", "max", "avgmax" or ""."""
        self.num_classes, like = num_classes, self.cls_token
        self.global_pool = self.global_pool if global_pool is None else global_pool
        classifier = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.head = classifier.to(device=like.device, dtype=like.dtype).train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether blocks run again in the backward pass, which saves memory."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Weights that the authors train without decay."""
        return {"cls_token"}


def card(url: str, **more: Any) -> dict[str, Any]:
    """What timm has to know of weights trained on ImageNet-1k at 224 x 224 pixels and kept at `url`."""
    return {
        "url": url,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "classifier": "head",
        **more,
    }


def unwrapped(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint, whatever it is kept under, without the "module." of a data-parallel model."""
    found = next((checkpoint[name] for name in HOLDERS if isinstance(checkpoint.get(name), Mapping)), checkpoint)
    return {name.removeprefix("module."): weight for name, weight in found.items()}


def enter(name: str, made: type[nn.Module], read: Callable[..., Any], out_indices: Any, where: str, **own: Any) -> None:
    """Make `name` a timm model, unless it is one: of class `made` with the options `own`, and a card in the module `where`.

    `read(checkpoint, model)` gives the model's state dict; `out_indices` are the features of `features_only` by default.
    """

    def make(pretrained: bool = False, **options: Any) -> Any:
        features = {"out_indices": options.pop("out_indices", out_indices), "feature_cls": "getter"}
        options = {**own, **options}
        return build_model_with_cfg(made, name, pretrained, pretrained_filter_fn=read, feature_cfg=features, **options)

    make.__name__ = make.__qualname__ = name
    make.__module__ = where
    make.__doc__ = f"{made.__name__} with {', '.join(f'{key}={value}' for key, value in own.items())}."
    if not is_model(name):
        register_model(make)
