"""Operations whose rule under vmap fixes the number of samples, spelled by others that leave it open.

torch's own rules for these ask for sizes as plain numbers, and a graph traced through them holds for that number of samples
alone. What stands here computes the same from slices, products and sums.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Spelled(TorchFunctionMode):
    """Within it `cat`, `layer_norm`, convolutions, bilinear `interpolate` and attention trace under vmap for any batch."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called for every function of torch."""
        return SPELLINGS.get(function, function)(*args, **(kwargs or {}))


def _cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """Each padded with zeros to the whole length, and added."""
    dim %= tensors[0].ndim
    lengths = [tensor.shape[dim] for tensor in tensors]
    starts = [0, *itertools.accumulate(lengths)]
    behind = (0, 0) * (tensors[0].ndim - 1 - dim)
    parts = [
        F.pad(tensor, (*behind, start, starts[-1] - start - length))
        for tensor, start, length in zip(tensors, starts, lengths, strict=False)
    ]
    return sum(parts[1:], parts[0])


def _layer_norm(
    x: torch.Tensor,
    shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    axes = tuple(range(-len(shape), 0))
    centred = x - x.mean(axes, keepdim=True)
    normed = centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + eps)
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias


def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> torch.Tensor:
    """x (B, C, ...) -> (B, O, ...): one product of the weights with the image shifted to every place of the kernel."""
    kernel, out = weight.shape[2:], weight.shape[0]
    steps, spread = _each(stride, len(kernel)), _each(dilation, len(kernel))
    reach = [d * (k - 1) for d, k in zip(spread, kernel, strict=True)]
    if isinstance(padding, str):
        pads = [(r // 2, r - r // 2) if padding == "same" else (0, 0) for r in reach]
    else:
        pads = [(p, p) for p in _each(padding, len(kernel))]
    if any(map(any, pads)):
        x = F.pad(x, [p for pair in reversed(pads) for p in pair])
    size = [(n - r - 1) // s + 1 for n, r, s in zip(x.shape[2:], reach, steps, strict=True)]
    rows = x.unflatten(1, (groups, -1))  # (B, g, C / g, ...)
    shifted = []
    for place in itertools.product(*map(range, kernel)):
        part = rows
        for axis, (index, d, s, n) in enumerate(zip(place, spread, steps, size, strict=True), start=3):
            part = part.narrow(axis, index * d, s * (n - 1) + 1)
            part = part if s == 1 else part[(slice(None),) * axis + (slice(None, None, s),)]
        shifted.append(part)
    columns = torch.stack(shifted, dim=3).flatten(2, 3).flatten(3)  # (B, g, C / g x places, cells)
    y = (weight.flatten(1).unflatten(0, (groups, -1)) @ columns).flatten(1, 2).unflatten(2, size)
    return y if bias is None else y + bias.view(out, *[1] * len(kernel))


def _interpolate(
    x: torch.Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    **more: Any,
) -> torch.Tensor:
    """Bilinear enlargement of (B, C, H, W) as a product with one matrix for each axis; others as they are."""
    if mode != "bilinear" or size is None or more.get("antialias"):
        return F.interpolate(x, size, scale_factor, mode, align_corners, **more)
    for axis, length in zip((-1, -2), reversed(_each(size, 2)), strict=True):
        unit = torch.eye(x.shape[axis], dtype=x.dtype, device=x.device).unsqueeze(0)
        matrix = F.interpolate(unit, length, mode="linear", align_corners=align_corners)[0]  # (from, to)
        x = (x.transpose(axis, -1) @ matrix).transpose(axis, -1)
    return x


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **more: Any,
) -> torch.Tensor:
    logits = (q @ k.mT) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    return (logits if attn_mask is None else logits + attn_mask).softmax(-1) @ v


def _each(value: int | Sequence[int], count: int) -> Sequence[int]:
    return (value,) * count if isinstance(value, int) else value if len(value) == count else tuple(value) * count


SPELLINGS: dict[Any, Callable[..., Any]] = {
    torch.cat: _cat,
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.interpolate: _interpolate,
    F.scaled_dot_product_attention: _attention,
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _convolution),
}
