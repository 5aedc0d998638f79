"""Operations on maps (B, C, H, W) in plain tensor algebra: what the formulas of side networks are checked against."""

from __future__ import annotations

import math
from typing import Any

import torch
from naive import T


def conv(x: T, layer: Any) -> T:
    """A convolution as one product with all windows of a map framed by zeros."""
    k, s, p = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    framed = x.new_zeros(*x.shape[:2], x.shape[2] + 2 * p, x.shape[3] + 2 * p)
    framed[:, :, p : p + x.shape[2], p : p + x.shape[3]] = x
    windows = framed.unfold(2, k, s).unfold(3, k, s)  # (B, C, h, w, k, k)
    if layer.groups > 1:
        out = torch.einsum("bchwij,cij->bchw", windows, layer.weight[:, 0])
    else:
        out = torch.einsum("bchwij,ocij->bohw", windows, layer.weight)
    return out if layer.bias is None else out + layer.bias[:, None, None]


def maximum(x: T, kernel: int, stride: int, padding: int) -> T:
    framed = x.new_full((*x.shape[:2], x.shape[2] + 2 * padding, x.shape[3] + 2 * padding), -math.inf)
    framed[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]] = x
    return framed.unfold(2, kernel, stride).unfold(3, kernel, stride).amax(dim=(-2, -1))


def batch_norm(x: T, layer: Any) -> T:
    mean, variance = layer.running_mean[:, None, None], layer.running_var[:, None, None]
    return (x - mean) / (variance + layer.eps).sqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]


def group_norm(x: T, layer: Any) -> T:
    grouped = x.reshape(len(x), layer.num_groups, -1)
    mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, correction=0, keepdim=True)
    normed = ((grouped - mean) / (variance + layer.eps).sqrt()).reshape(x.shape)
    return normed * layer.weight[:, None, None] + layer.bias[:, None, None]


def relu(x: T) -> T:
    return x * (x > 0)


def sigmoid(x: T) -> T:
    return 1 / (1 + (-x).exp())


def bilinear(maps: T, x: T, y: T) -> T:
    """Maps (C, H, W) at pixel coordinates x, y (n,): (C, n); zero outside."""
    found = torch.zeros(maps.shape[0], len(x), dtype=maps.dtype)
    for i in range(len(x)):
        left, top = math.floor(x[i]), math.floor(y[i])
        for column in (left, left + 1):
            for row in (top, top + 1):
                if 0 <= column < maps.shape[2] and 0 <= row < maps.shape[1]:
                    share = (1 - abs(x[i] - column)) * (1 - abs(y[i] - row))
                    found[:, i] += share * maps[:, row, column]
    return found


def enlarged(maps: T, height: int, width: int) -> T:
    """Maps (B, C, h, w) bilinearly at another size, edges held."""
    rows = ((torch.arange(height).double() + 0.5) * maps.shape[2] / height - 0.5).clamp(0, maps.shape[2] - 1)
    columns = ((torch.arange(width).double() + 0.5) * maps.shape[3] / width - 0.5).clamp(0, maps.shape[3] - 1)
    x, y = columns.repeat(height), rows.repeat_interleave(width)
    return torch.stack([bilinear(m, x, y).unflatten(1, (height, width)) for m in maps])
