"""Small continual runs: scikit-learn's digits on a two-block ViT of random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from small_recipe import make_recipe


@pytest.fixture
def recipe() -> Callable[..., dict[str, Any]]:
    """The maker of small recipes."""
    return make_recipe
