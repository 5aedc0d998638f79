"""Multi-scale deformable attention in plain operations: each query reads a few points of every map, by bilinear sampling.

Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", ICLR 2021 (arXiv 2010.04159),
section 4.1, equation 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.methods.base import wide

Size = tuple[int, int]


class DeformableAttention(nn.Module):
    """Queries (B, Q, d) read tokens of several maps (B, S, d) at learned offsets from their own places.

    3 M L P (d + 1) + 2 rho d^2 + (rho + 1) d weights for M heads, L maps, P points and values of width rho d.
    """

    def __init__(self, dim: int, num_heads: int, levels: int, points: int, ratio: float) -> None:
        super().__init__()
        width, reads = int(ratio * dim), num_heads * levels * points
        self.num_heads, self.points = num_heads, points
        self.value = nn.Linear(dim, width)
        self.offsets = nn.Linear(dim, 2 * reads)
        self.weights = nn.Linear(dim, reads)
        self.out = nn.Linear(width, dim)
        self.reset(levels)

    def reset(self, levels: int) -> None:
        """Uniform weights on points that lie in a direction of each head's own, one cell apart."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        ways = torch.stack([angles.cos(), angles.sin()], dim=-1)
        ways = ways / ways.abs().amax(dim=-1, keepdim=True)  # (M, 2)
        steps = torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        bias = (ways[:, None, None] * steps).expand(-1, levels, -1, -1)
        with torch.no_grad():
            self.offsets.bias.copy_(bias.reshape(-1))
        for tensor in (self.offsets.weight, self.weights.weight, self.weights.bias, self.value.bias, self.out.bias):
            nn.init.zeros_(tensor)
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self, queries: torch.Tensor, places: torch.Tensor, tokens: torch.Tensor, sizes: Sequence[Size]
    ) -> torch.Tensor:
        """(B, Q, d); `places` (Q, 2) of the queries, x and y in [0, 1]; `sizes` (H, W) of the maps `tokens` are of."""
        batch, count, _ = queries.shape
        heads, levels = self.num_heads, len(sizes)
        values = wide(self.value(tokens))
        offsets = self.offsets(queries).view(batch, count, heads, levels, self.points, 2).to(values.dtype)
        weights = self.weights(queries).view(batch, count, heads, -1).softmax(dim=-1).to(values.dtype)
        read = []
        for level, (part, (height, width)) in enumerate(
            zip(values.split([h * w for h, w in sizes], 1), sizes, strict=True)
        ):
            maps = part.transpose(1, 2).reshape(batch * heads, -1, height, width)
            cells = offsets.new_tensor([width, height])
            points = places[:, None, None] + offsets[:, :, :, level] / cells  # (B, Q, M, P, 2)
            grid = (2 * points - 1).transpose(1, 2).flatten(0, 1)
            read.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
        found = torch.cat(read, dim=-1)  # (B M, D, Q, L P)
        mixed = (found * weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)).sum(dim=-1)
        return self.out(mixed.view(batch, -1, count).transpose(1, 2).to(queries.dtype))


def centres(sizes: Sequence[Size], like: torch.Tensor) -> torch.Tensor:
    """The centres of the cells of maps (H, W), one map after another: (sum H W, 2), x and y in [0, 1]."""
    found = []
    dtype = torch.promote_types(like.dtype, torch.float32)  # half precision has no room for cells of large maps
    for height, width in sizes:
        y, x = ((torch.arange(n, device=like.device, dtype=dtype) + 0.5) / n for n in (height, width))
        found.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1))
    return torch.cat(found)
