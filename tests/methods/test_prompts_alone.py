"""Features that are the mean of the prompts that leave the last block, behind the final norm (`pool_prompts="alone"`)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.testing import tiny_backbone


@pytest.mark.parametrize("anatomy", ["vit", "mae", "deit_distilled"])
def test_features_are_the_mean_of_the_prompts(anatomy: str) -> None:
    model: Any = tiny_backbone(anatomy).double()
    manager = mtpeft.attach(
        tiny_backbone(anatomy).double(), "vpt_shallow", num_tokens=3, pool_prompts="alone", sharing="shared"
    )
    manager.add_task("a", num_classes=2)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    prompts: Any = manager.methods[0].weights.bank("a").state_dict()
    (own,) = prompts.values()
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(x))
        number = model.num_prefix_tokens
        tokens = torch.cat([tokens[:, :number], own.expand(2, -1, -1), tokens[:, number:]], dim=1)
        tokens = model.norm_pre(tokens)
        for block in model.blocks:
            tokens = block(tokens)
        expected = model.fc_norm(model.norm(tokens)[:, number : number + 3].mean(1))
        torch.testing.assert_close(manager.eval().features(x, "a"), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["vpt_shallow", "vpt_deep"])
def test_on_windows(method: str) -> None:
    manager = mtpeft.attach(tiny_backbone("swin"), method, num_tokens=3, pool_prompts="alone")
    manager.add_task("a", num_classes=2)
    x = torch.randn(2, 3, 64, 64)
    features = manager.eval().features(x, "a")
    patches = mtpeft.attach(tiny_backbone("swin"), method, num_tokens=3, pool_prompts=False)
    patches.add_task("a", num_classes=2)
    assert features.shape == (2, 48) and not torch.allclose(features, patches.eval().features(x, "a"))


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="pool_prompts is 'only', expected True or False or one of alone"):
        mtpeft.attach(tiny_backbone("vit"), "vpt_deep", pool_prompts="only")
