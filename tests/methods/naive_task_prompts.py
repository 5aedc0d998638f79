"""A Swin with a prompt of each task in every window and LoRA in its weights, window by window: where task streams begin."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from naive import T, gelu, linear, norm
from naive_swin import logits, positions

import mtpeft
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images

TASKS = ("depth", "normals", "edges")
SCALE = 2.0
LAYERS = {"qkv": "attn-qkv", "proj": "attn-proj", "fc1": "mlp-fc1", "fc2": "mlp-fc2"}


def made(method: str, **options: Any) -> Any:
    """A manager of three dense tasks on a small Swin, in float64."""
    manager: Any = mtpeft.attach(tiny_backbone("swin").double(), method, rank=(3, 2), scale=SCALE, **options)
    for task in TASKS:
        manager.add_task(task, head="stage_linear", channels=2)
    return manager.eval()


@dataclass
class Window:
    """`places` of its patches, the queries of all prompts (B, p, heads, size), the patches' keys (B, A, heads, size), and what
    they attend to (B, A, C)."""

    places: list[tuple[int, int]]
    queries: T
    keys: T
    attended: T


@dataclass
class End:
    """The last block of a stage: as it is and with LoRA, its site modules by layer, its input and the stream behind attention."""

    number: int
    frozen: Any
    block: Any
    sites: dict[str, Any]
    entry: T
    windows: list[Window]
    stream: T


def tuned(plain: Any, sites: Any, scale: float) -> Any:
    """A copy with all shared updates in its weights."""
    model = copy.deepcopy(plain)
    for number, layer in enumerate(model.layers):
        for place, block in enumerate(layer.blocks):
            for path in LAYERS.values():
                update = sites[f"layers-{number}-blocks-{place}-{path}"].update
                weight = block.get_submodule(path.replace("-", ".")).weight
                weight += scale * update.lora_B @ update.lora_A
    return model


def attention(block: Any, tokens: T, bias: T) -> tuple[T, T, T]:
    """Tokens (B, p + A, C) of a window -> queries and keys (B, p + A, heads, size), and the attended values (B, p + A, C)."""
    heads = block.attn.num_heads
    q, k, v = (part.unflatten(-1, (heads, -1)) for part in linear(block.attn.qkv, tokens).chunk(3, dim=-1))
    outputs = []
    for h in range(heads):
        scores = (q[:, :, h] @ k[:, :, h].transpose(1, 2) / q.shape[-1] ** 0.5 + bias[h]).softmax(dim=-1)
        outputs.append(scores @ v[:, :, h])
    return q, k, torch.cat(outputs, dim=-1)


def stage_ends(manager: Any, scale: float) -> Iterator[End]:
    """The one pass of a tiny Swin in float64, as far as task streams see it."""
    weights = manager.attachments[0].weights
    sites = weights.common.sites
    plain: Any = tiny_backbone("swin").double()
    plain.load_state_dict(manager.backbone.state_dict())
    shared, number = tuned(plain, sites, scale), 0
    x = plain.patch_embed(images(2, torch.float64))
    prompts = torch.cat([own["layers-0-blocks-0-tokens"].prompt for own in weights.joined.values()]).expand(2, -1, -1)
    for stage, (original, layer) in enumerate(zip(plain.layers, shared.layers, strict=True)):
        if stage:
            x = layer.downsample(x)
            prompts = prompts @ sites[f"layers-{stage}-blocks-0-tokens"].up.T
        for place, block in enumerate(layer.blocks):
            u, z, p, size = norm(block.norm1, x), norm(block.norm1, prompts), prompts.shape[1], x.shape[1:3]
            attended, seen, windows = torch.zeros_like(x), [], []
            for window in positions(block, *size):
                tokens = torch.cat([z, torch.stack([u[:, i, j] for i, j in window], dim=1)], dim=1)
                q, k, o = attention(block, tokens, logits(block, window, size, p))
                windows.append(Window(window, q[:, :p], k[:, p:], o[:, p:]))
                projected = linear(block.attn.proj, o)
                seen.append(projected[:, :p])
                for token, (i, j) in enumerate(window):
                    attended[:, i, j] = projected[:, p + token]
            entry, x = x, x + attended
            if place == len(layer.blocks) - 1:
                own = {kind: sites[f"layers-{stage}-blocks-{place}-{path}"] for kind, path in LAYERS.items()}
                yield End(number, original.blocks[place], block, own, entry, windows, x)

            def mlp(y: T, block: Any = block) -> T:
                return linear(block.mlp.fc2, gelu(linear(block.mlp.fc1, norm(block.norm2, y))))

            x = x + mlp(x)
            prompts = prompts + mlp(sum(seen) / len(seen))  # type: ignore[arg-type]
            number += 1


def read(manager: Any, task: str) -> list[T]:
    """What the task's head reads."""
    kept: list[Any] = []
    handle = manager.head(task).register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    manager(images(2, torch.float64), task)
    handle.remove()
    return kept[0]
