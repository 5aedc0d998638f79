"""A Swin written out window by window, head by head and token by token, with prompts in every window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from naive import T, gelu, linear, norm


def positions(block: Any, height: int, width: int) -> list[list[tuple[int, int]]]:
    """The grid positions of every window after the cyclic shift, in the order tokens have in a window."""
    (rows, columns), (down, right) = block.window_size, block.shift_size
    return [
        [((top + i + down) % height, (left + j + right) % width) for i in range(rows) for j in range(columns)]
        for top in range(0, height, rows)
        for left in range(0, width, columns)
    ]


def together(block: Any, one: tuple[int, int], other: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether two tokens of a window are neighbours in the image, too: no edge of it runs between them."""
    for a, b, window, shift, length in zip(one, other, block.window_size, block.shift_size, size, strict=True):
        wrapped = [(p - shift) % length >= length - window and p < shift for p in (a, b)]
        if shift and wrapped[0] != wrapped[1]:
            return False
    return True


def logits(block: Any, window: list[tuple[int, int]], size: tuple[int, int], prompts: int) -> T:
    """(heads, p + A, p + A): relative position of each pair and -100 across an edge; zero on prompts."""
    attn = block.attn
    rows, columns = block.window_size
    found = torch.zeros(attn.num_heads, prompts + len(window), prompts + len(window), dtype=torch.float64)
    for a, one in enumerate(window):
        for b, other in enumerate(window):
            dy, dx = a // columns - b // columns, a % columns - b % columns
            entry = (dy + rows - 1) * (2 * columns - 1) + dx + columns - 1
            edge = 0.0 if together(block, one, other, size) else -100.0
            found[:, prompts + a, prompts + b] = attn.relative_position_bias_table[entry] + edge
    return found


def attention(block: Any, tokens: T, bias: T) -> T:
    """Tokens (B, p + A, C) of one window, prompts first -> what attention gives, projected."""
    attn, d = block.attn, tokens.shape[-1]
    q, k, v = linear(attn.qkv, tokens).split(d, dim=-1)
    size = d // attn.num_heads
    outputs = []
    for h in range(attn.num_heads):
        columns = slice(h * size, (h + 1) * size)
        scores = (q[..., columns] @ k[..., columns].transpose(1, 2) / size**0.5 + bias[h]).exp()
        outputs.append(scores / scores.sum(dim=-1, keepdim=True) @ v[..., columns])
    return linear(attn.proj, torch.cat(outputs, dim=-1))


def run_block(block: Any, x: T, prompts: T) -> tuple[T, T]:
    """A map (B, H, W, C) and prompts (B, p, C) -> both after the block."""
    p, size = prompts.shape[1], (x.shape[1], x.shape[2])
    u, z = norm(block.norm1, x), norm(block.norm1, prompts)
    attended, read = torch.zeros_like(x), []
    for window in positions(block, *size):
        inside = torch.stack([u[:, i, j] for i, j in window], dim=1)
        out = attention(block, torch.cat([z, inside], dim=1), logits(block, window, size, p))
        read.append(out[:, :p])
        for token, (i, j) in enumerate(window):
            attended[:, i, j] = out[:, p + token]

    def mlp(y: T) -> T:
        return y + linear(block.mlp.fc2, gelu(linear(block.mlp.fc1, norm(block.norm2, y))))

    return mlp(x + attended), mlp(prompts + sum(read) / len(read))


def merge(downsample: Any, x: T, prompts: T) -> tuple[T, T]:
    """Patch merging: four neighbours side by side along the channels; a prompt four times itself."""
    four = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], dim=-1)
    repeated = torch.cat([prompts] * 4, dim=-1)
    return tuple(norm(downsample.norm, y) @ downsample.reduction.weight.T for y in (four, repeated))  # type: ignore[return-value]


def naive_swin(model: Any, images: T, fresh: Sequence[T | None] = ()) -> T:
    """Images -> the final map (B, H, W, C); `fresh[i]` (p, C) takes the place of the prompts at block i."""
    proj, size = model.patch_embed.proj, model.patch_embed.proj.kernel_size[0]
    patches = images.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(3)
    x = norm(model.patch_embed.norm, patches @ proj.weight.flatten(1).T + proj.bias)
    prompts, number = x.new_zeros(len(x), 0, x.shape[-1]), 0
    for stage in model.layers:
        if hasattr(stage.downsample, "reduction"):
            x, prompts = merge(stage.downsample, x, prompts)
        for block in stage.blocks:
            if number < len(fresh) and (new := fresh[number]) is not None:
                prompts = new.expand(len(x), -1, -1)
            x, prompts = run_block(block, x, prompts)
            number += 1
    return norm(model.norm, x)
