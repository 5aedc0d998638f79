"""The spellings compute what torch computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from mtpeft.exports.spelled import Spelled

x, maps = torch.randn(2, 5, 6), torch.randn(2, 6, 5, 7)
CASES: dict[str, Callable[[], torch.Tensor]] = {
    "cat": lambda: torch.cat([x, x[:, :2], x[:, :1]], dim=1),
    "cat of the last axis": lambda: torch.cat([x, x[..., :3]], -1),
    "layer_norm": lambda: F.layer_norm(x, (6,), torch.arange(6.0), torch.ones(6), 1e-3),
    "layer_norm of two axes": lambda: F.layer_norm(x, (5, 6)),
    "conv1d": lambda: F.conv1d(x, torch.ones(4, 5, 3), None, 2, 1),
    "conv2d": lambda: F.conv2d(maps, torch.arange(216.0).view(4, 6, 3, 3).sin(), torch.ones(4), padding=1),
    "strides, dilation, groups": lambda: F.conv2d(
        maps, torch.arange(72.0).view(4, 3, 2, 3).sin(), None, (2, 1), 1, (1, 2), 2
    ),
    "depthwise": lambda: F.conv2d(maps, torch.arange(54.0).view(6, 1, 3, 3).sin(), None, padding="same", groups=6),
    "conv3d": lambda: F.conv3d(maps.unsqueeze(2), torch.ones(4, 6, 1, 3, 3), padding=(0, 1, 1)),
    "bilinear": lambda: F.interpolate(maps, size=(9, 3), mode="bilinear", align_corners=False),
    "bilinear with corners": lambda: F.interpolate(maps, size=(10, 14), mode="bilinear", align_corners=True),
    "nearest": lambda: F.interpolate(maps, scale_factor=2),
    "attention": lambda: F.scaled_dot_product_attention(maps, maps, maps, torch.ones(5, 5).tril().log()),
}


@pytest.mark.parametrize("case", CASES)
def test_a_spelling_gives_what_torch_gives(case: str) -> None:
    expected = CASES[case]()
    with Spelled():
        found = CASES[case]()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
