"""Backbones of published sizes with random weights, each made once; a test attaches methods and detaches them again."""

from __future__ import annotations

import pytest
import timm
from torch import nn


@pytest.fixture(scope="session")
def vit_b() -> nn.Module:
    """A ViT-B/16 without a classifier."""
    return timm.create_model("vit_base_patch16_224", num_classes=0)


@pytest.fixture(scope="session")
def swin_t() -> nn.Module:
    """A Swin-T without a classifier."""
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
