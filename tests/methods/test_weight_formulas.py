"""Numbers of weights by the formulas of the registry, against counts: on two plain ViTs, and with other options."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import timm
import torch

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.errors import ConfigError
from mtpeft.manager.counting import weights_on
from mtpeft.methods import METHODS, MethodConfig, Properties, SiteModule, register
from mtpeft.methods.formula import SIZES, names_in, weights_by_formula
from mtpeft.options import options_of
from mtpeft.testing.backbones import VIT_BASE, vit_base

NAMES = [name for name in METHODS if METHODS.get(name).module.__module__.startswith("mtpeft.")]


@functools.cache
def small() -> Anatomy:
    """A plain ViT with no size of ViT-B/16 but that of the patches."""
    with torch.device("meta"):
        options: dict[str, Any] = dict(depth=8, img_size=160, mlp_ratio=3, num_classes=0)
        return Anatomy(timm.create_model("vit_small_patch16_224", **options))


BACKBONES = {
    "ViT-B/16": (vit_base, VIT_BASE),
    "small": (small, {"L": 8, "d": 384, "m": 1152, "n": 100, "p": 16, "h": 6}),
}


def by_formula(name: str, sizes: dict[str, int], config: MethodConfig) -> int:
    spec = METHODS.get(name)
    assert spec.weights is not None, f"{name} works on a plain ViT and has no formula"
    return weights_by_formula(
        spec.weights, sizes, {option: getattr(config, option) for option in options_of(spec.config)}
    )


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", NAMES)
def test_the_formula_gives_the_count(name: str, backbone: str) -> None:
    build, sizes = BACKBONES[backbone]
    config = METHODS.get(name).build_config({})
    try:
        counted = weights_on(METHODS.get(name), config, build())
    except ConfigError:
        assert METHODS.get(name).weights is None
        return
    assert by_formula(name, sizes, config) == counted


@pytest.mark.parametrize("name", NAMES)
def test_every_option_in_it_counts_as_it_says(name: str) -> None:
    spec = METHODS.get(name)
    anatomy, sizes = vit_base(), BACKBONES["ViT-B/16"][1]
    assert spec.weights is None or names_in(spec.weights) <= {*SIZES, *options_of(spec.config)}
    for option in sorted(names_in(spec.weights or "0") - set(SIZES)):
        before = getattr(spec.build_config({}), option)
        for value in (before * 2, before + 2, before // 2, before / 2):
            try:
                config = spec.build_config({option: value})
                counted = weights_on(spec, config, anatomy)
            except ConfigError:
                continue
            assert by_formula(name, sizes, config) == counted, f"{option}={value}"
            break
        else:
            pytest.fail(f"no other {option} works")


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("L * d *", "that is no arithmetic"),
        ("L * width", "'width' is unknown or no number"),
        ("L * act", "'act' is unknown or no number"),
        ("__import__('os')", "that is no arithmetic"),
        ("L * r where r", "write 'r' as name = value"),
        ("L / 2", "that is no arithmetic"),
        ("L * 0.3", "which is no number of weights"),
    ],
)
def test_what_is_no_formula(formula: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        weights_by_formula(formula, {"L": 1, "d": 2}, {"act": "gelu"})


def test_a_wrong_name_is_found_when_the_method_is_registered() -> None:
    with pytest.raises(ConfigError, match="method 'wrong': its formula names rnk; it may name"):
        register("wrong", MethodConfig, paper="", taxonomy="adapter", properties=Properties(), weights="L * rnk")(
            SiteModule
        )
    assert "wrong" not in METHODS


def test_where_says_what_a_letter_stands_for() -> None:
    options = {"reduction": 4}
    assert weights_by_formula("L * r * k where r = d // reduction, k = r + 1", {"L": 2, "d": 8}, options) == 2 * 2 * 3
    assert names_in("L * r * k where r = d // reduction, k = r + 1") == {"L", "d", "reduction"}
