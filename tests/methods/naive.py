"""A ViT written out in plain tensor algebra: what the formulas of the methods are checked against.

Every place a method may act at is named; `changes` maps a place to a function of the value there and its context.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import mtpeft
from mtpeft.manager.manager import TaskManager
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import perturb

T = torch.Tensor
Change = Callable[..., Any]


def norm(layer: Any, x: T) -> T:
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + layer.eps).sqrt() * layer.weight + layer.bias


def gelu(x: T) -> T:
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def linear(layer: Any, x: T) -> T:
    return x @ layer.weight.T + layer.bias


def gamma(layer: Any) -> T | float:
    return layer.gamma if hasattr(layer, "gamma") else 1.0


class NaiveViT:
    """timm's VisionTransformer without its code; places: pixels, patch_embed, tokens, norm1, qkv, kv, logits,
    probabilities, proj, attention_branch, norm2, fc1, fc2, mlp_branch, output, final_norm."""

    def __init__(self, model: Any, **changes: Change) -> None:
        self.model, self.changes = model, changes

    def at(self, place: str, value: Any, *context: Any) -> Any:
        return self.changes[place](value, *context) if place in self.changes else value

    def embed(self, x: T) -> T:
        model = self.model
        proj, size = model.patch_embed.proj, model.patch_embed.proj.kernel_size[0]
        x = self.at("pixels", x)
        patches = x.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(1, 2).flatten(2)
        tokens = self.at("patch_embed", patches @ proj.weight.flatten(1).T + proj.bias)
        prefix = [model.cls_token] + ([model.reg_token] if model.reg_token is not None else [])
        prefix = [p.expand(len(x), -1, -1) for p in prefix]
        if model.no_embed_class:
            return torch.cat([*prefix, tokens + model.pos_embed], dim=1)
        return torch.cat([*prefix, tokens], dim=1) + model.pos_embed

    def attention(self, block: Any, u: T, i: int) -> T:
        attn, d = block.attn, u.shape[-1]
        qkv = self.at("qkv", linear(attn.qkv, u), u, i)
        q, k, v = qkv[..., :d], qkv[..., d : 2 * d], qkv[..., 2 * d :]
        k, v = self.at("kv", (k, v), i)
        heads = attn.num_heads
        outputs = []
        for h in range(heads):
            columns = slice(h * d // heads, (h + 1) * d // heads)
            logits = q[..., columns] @ k[..., columns].transpose(1, 2) / (d // heads) ** 0.5
            exponentials = self.at("logits", logits, i).exp()
            weights = self.at("probabilities", exponentials / exponentials.sum(dim=-1, keepdim=True), i)
            outputs.append(weights @ v[..., columns])
        joined = torch.cat(outputs, dim=-1)
        return self.at("proj", linear(attn.proj, joined), joined, i)

    def mlp(self, block: Any, u: T, i: int) -> T:
        hidden = gelu(self.at("fc1", linear(block.mlp.fc1, u), u, i))
        return self.at("fc2", linear(block.mlp.fc2, hidden), hidden, i)

    def block(self, block: Any, x: T, i: int) -> T:
        u = self.at("norm1", norm(block.norm1, x), i)
        y = gamma(block.ls1) * self.attention(block, u, i)
        x = x + self.at("attention_branch", y, x, u, i)
        u = self.at("norm2", norm(block.norm2, x), i)
        y = gamma(block.ls2) * self.mlp(block, u, i)
        return x + self.at("mlp_branch", y, x, u, i)

    def __call__(self, images: T) -> T:
        """Images -> all tokens after the final norm."""
        x = self.embed(images)
        for i, block in enumerate(self.model.blocks):
            x = self.at("tokens", x, i)
            x = self.block(block, x, i)
            x = self.at("output", x, i)
        return self.at("final_norm", norm(self.model.norm, x), x)


def attached(anatomy: str, method: str, **options: Any) -> tuple[Any, TaskManager, dict[tuple[str, int | None], Any]]:
    """A plain model, a manager on an equal one with every weight perturbed, and its site modules by kind and block."""
    backbone: Any = tiny_backbone(anatomy).double()
    manager = mtpeft.attach(backbone, method, **options)
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.2)
    bank: Any = manager.attachments[0].weights.bank("birds")
    sites = {(s.kind, s.block): bank.sites[s.key] for s in manager.attachments[0].selected}
    return tiny_backbone(anatomy).double(), manager.eval(), sites


def tokens(manager: TaskManager, images: T) -> T:
    """All output tokens of the backbone under the method."""
    backbone: Any = manager.backbone
    return backbone.forward_features(images)


def assert_close(found: T, expected: T) -> None:
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def shifted(model: nn.Module, images: T) -> None:
    """The naive ViT is timm's own: without this, nothing below would mean anything."""
    assert_close(NaiveViT(model)(images), model.forward_features(images))  # type: ignore[operator]
