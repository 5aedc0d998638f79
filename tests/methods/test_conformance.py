"""Every registered method against the conformance harness, on every anatomy it claims."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mtpeft.backbones.site import Site
from mtpeft.cli.methods_page import claims
from mtpeft.errors import ConfigError
from mtpeft.methods import METHODS, MethodConfig, SiteModule, register
from mtpeft.testing import TINY, check_method
from mtpeft.testing.case import Case, images, mixed_path
from mtpeft.testing.conformance import CHECKS, check_compile, check_learns, check_new_process, check_pool, check_refusal

NAMES = [name for name in METHODS if METHODS.get(name).module.__module__.startswith("mtpeft.")]

#: one of windows, and one with reduced keys: every method is checked on one of them, the next method on the other
HIERARCHIES = ("swin", "pvt_v2")

#: {method: where it works}, as the page of methods has it
CLAIMS = claims((Path(__file__).parents[2] / "METHODS.md").read_text(encoding="utf-8"))

#: networks of a million weights beside a tiny backbone, one run many times, or transforms of whole clips: seconds each, so
#: on one anatomy every time
DEAR = {"frame2freq", "lion", "sam_lst", "side_tuning", "vit_adapter"}


def home(name: str) -> str:
    """An anatomy the method claims."""
    return next(anatomy for anatomy in TINY if anatomy in CLAIMS[name])


def every_time(name: str, turn: int) -> set[str]:
    """On what `make test` checks a method: its home, a hierarchy, and a quarter of the other anatomies."""
    claimed = [anatomy for anatomy in TINY if anatomy in CLAIMS[name]]
    if name in DEAR:
        return {claimed[0]}
    hierarchies = [anatomy for anatomy in HIERARCHIES if anatomy in claimed]
    others = [anatomy for anatomy in claimed[1:] if anatomy not in HIERARCHIES]
    chosen = {anatomy for i, anatomy in enumerate(others) if (i + turn) % 4 == 0}
    return {claimed[0], *chosen, *(hierarchies[turn % len(hierarchies)] for _ in hierarchies[:1])}


def pairs() -> list[Any]:
    """Every method on every anatomy: all in `make nightly`, and in `make test` what is not marked slow.

    Refusals are quick.
    """
    return [
        pytest.param(
            name,
            anatomy,
            marks=() if anatomy not in CLAIMS[name] or anatomy in every_time(name, turn) else pytest.mark.slow,
        )
        for turn, name in enumerate(NAMES)
        for anatomy in TINY
    ]


@pytest.mark.parametrize(("name", "anatomy"), pairs())
def test_method_conforms_where_it_claims_to_and_is_refused_elsewhere(name: str, anatomy: str) -> None:
    case = Case(name, anatomy)
    claimed = case.claimed()
    assert claimed == (anatomy in CLAIMS[name])
    for check in CHECKS if claimed else (check_refusal,):
        check(case)


def pools() -> list[Any]:
    """Every method on every anatomy that it claims; in `make test` on its home alone."""
    claimed = [(name, anatomy) for name in NAMES for anatomy in TINY if anatomy in CLAIMS[name]]
    return [pytest.param(n, a, marks=() if a == home(n) else pytest.mark.slow) for n, a in claimed]


@pytest.mark.parametrize(("name", "anatomy"), pools())
def test_weights_are_chosen_by_the_image(name: str, anatomy: str) -> None:
    check_pool(Case(name, anatomy))


@pytest.mark.parametrize("name", NAMES)
def test_method_learns(name: str) -> None:
    check_learns(Case(name, home(name)))


def test_all_methods_load_in_a_new_process() -> None:
    check_new_process([Case(name, home(name)) for name in NAMES])


COMPILED = [
    "lora",
    "vpt_deep",
    *(
        pytest.param(n, marks=pytest.mark.slow)
        for n in ("adaptformer", "aim", "st_adapter", "arc", "difffit", "mona", "lorand", "adapter_plus")
    ),
]


@pytest.mark.parametrize("name", COMPILED)
def test_compiles_to_one_graph(name: str) -> None:
    check_compile(Case(name, "vit"))


OPTIONS = [
    ("lora", "eva02", {"sites": ("qkv", "proj", "fc1", "fc2"), "alpha": 16.0, "learnable_scale": True}),
    ("lora", "beit", {"sites": ("qkv",)}),
    ("lora", "pvt_v2", {"sites": ("q", "k", "v", "proj", "fc1", "fc2"), "rank": 2}),
    ("adaptformer", "swin", {"reduction": 4, "adapter_ln": "in", "learnable_scale": True}),
    ("adaptformer", "vit", {"adapter_ln": "out", "blocks": (-1,)}),
    ("houlsby", "swinv2", {"sites": ("after_mlp",), "reduction": 4, "activation": "silu"}),
    ("convpass", "dinov2", {"sites": ("parallel_attn_ln",), "conv_init": "xavier", "scale": 10.0}),
    ("prefix_tuning", "swin", {"calibrated": True}),
    ("prefix_tuning", "beit", {"reparam_dim": 8}),
    ("ssf", "pvt_v2", {"exclude": ("norms",)}),
    ("vp", "vit", {"template": "fixed_patch", "prompt_size": 16}),
    ("lst", "vit", {"init": "random", "reduction": 4}),
    ("vqt", "eva", {"num_tokens": 3, "blocks": (1,)}),
    ("fact_tt", "vit", {"sites": ("q", "fc2"), "rank": 4, "scale": 0.1}),
    ("bitfit", "swin", {"blocks": (0, -1)}),
    ("bitfit", "swin", {"tables": True}),
    ("bitfit", "beit", {"tables": True, "blocks": (1,)}),
    ("vpt_shallow", "swin", {"blocks": (1,), "num_tokens": 3}),
    ("vpt_deep", "vit", {"projection_dim": 5}),
    ("aim", "clip", {"temporal_adapters": 2, "joint_scale": 1.0, "reduction": None, "bottleneck_dim": 8}),
    ("st_adapter", "dinov2", {"position": "both", "kernel": (3, 3, 3), "bottleneck_dim": 8, "activation": "gelu"}),
    ("st_adapter", "swin", {"position": "pre_attn", "kernel": [1, 3, 3], "bottleneck_dim": 4}),
    (
        "adaptformer",
        "swin",
        {"activation": "gelu", "sites": ("parallel_attn_ln",), "scale": 1.0, "learnable_scale": True},
    ),
    ("houlsby", "vit", {"adapter_ln": "out"}),
    ("houlsby", "swin", {"adapter_ln": "in"}),
    ("ssf", "swin", {"merging_norms": True}),
    ("fact_tk", "vit", {"layout": "code", "rank": 4}),
    ("aim", "swin", {"temporal_every": 1, "train_norm": True}),
    ("patt", "swin", {"mode": "qv", "bias": False, "init": "trunc_normal"}),
    ("patt", "beit", {"mode": "qkv", "scale": 0.2}),
    ("u_tuning", "swin", {"attention": "prompt", "mlp": "prefix", "block": "adapter", "learnable_scale": True}),
    ("u_tuning", "beit", {"attention": "adapter", "mlp": None, "block": "prompt", "scale": 0.1, "out_proj": False}),
    ("noah", "swin", {"prompts": (3, 0, 0, 2), "ranks": (1, 0, 2, 0), "widths": (0, 4, 0, 0)}),
    ("noah", "vit", {"prompts": (2, 0), "ranks": (0, 2), "widths": 4, "zero_init": True}),
    ("ditask", "swin", {"acts_on": "places", "init": "uniform", "cells": 8, "task_cells": 4}),
    ("mtlora", "swin", {"mode": "matrixv2", "rank": (2, 4), "task_rank": (3, 2)}),
    ("lora", "convnext", {"sites": ("fc1", "fc2"), "rank": 2}),
    ("convpass", "convnext", {"sites": ("parallel_mlp_ln",), "bottleneck_dim": 4}),
    ("houlsby", "convnext", {"sites": ("after_mlp",), "bottleneck_dim": 4, "blocks": (1, 3)}),
    ("st_adapter", "convnext", {"position": "pre_attn", "kernel": (3, 3, 3), "bottleneck_dim": 4}),
    ("st_adapter", "hiera", {"position": "pre_attn", "bottleneck_dim": 4}),
]
#: with marks of their own
MARKED: list[Any] = [
    pytest.param("adapter_bias", "vit", {"share_alpha": True, "train_norm": True}),
    pytest.param("difffit", "beit", {"gamma_blocks": "all"}),
    pytest.param("adapter_bias", "pvt_v2", {"train_norm": False, "sites": ("fc1", "proj")}, marks=pytest.mark.slow),
    pytest.param("difffit", "swinv2", {"gamma_blocks": "all", "gammas": "branches"}, marks=pytest.mark.slow),
    pytest.param("arc", "swinv2", {"sites": ("mlp_in",), "rank": 3}, marks=pytest.mark.slow),
    pytest.param("adapter_plus", "vit", {"position": "pre", "learned_scale": "scalar"}),
    pytest.param("rob_adapter", "swin", {"top": True, "bottom": False, "activation": "relu"}),
    pytest.param("adapter_plus", "swinv2", {"position": "pre", "init": "bert"}, marks=pytest.mark.slow),
    pytest.param("mona", "swinv2", {"bottleneck_dim": 8, "sites": ("parallel_mlp",)}, marks=pytest.mark.slow),
    pytest.param("lorand", "pvt_v2", {"branches": 1, "rank": 3, "share_kernel": False}, marks=pytest.mark.slow),
    pytest.param("rob_adapter", "mae", {"top": True}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    ("name", "anatomy", "options"),
    [  # every second in `make test`
        pytest.param(*row, id=f"{row[0]}-{row[1]}-{i}", marks=pytest.mark.slow if i % 2 else ())
        for i, row in enumerate(OPTIONS)
    ]
    + MARKED,
)
def test_method_conforms_under_its_options(name: str, anatomy: str, options: dict) -> None:
    case = Case(name, anatomy, options)
    assert case.claimed()
    for check in CHECKS:
        check(case)


def test_a_mixed_batch_draws_dropout_per_sample() -> None:
    same = images(1).expand(4, -1, -1, -1)
    for name in ("vpt_deep", "adaptformer", "lora"):
        manager = Case(name, "vit", {"dropout": 0.5}).manager().train()
        with mixed_path(float("inf")):
            rows, out = manager(same, ["birds", "cars", "birds", "cars"])["birds"]
        assert rows.tolist() == [0, 2]
        assert not torch.equal(out[0], out[1])


@dataclass(frozen=True, kw_only=True)
class WrongConfig(MethodConfig):
    sites: tuple[str, ...] = ("proj",)


class Wrong(SiteModule):
    """A scale that is not the identity, though the default claims say so."""

    def __init__(self, config: WrongConfig, site: Site) -> None:
        super().__init__(config, site)
        self.factor = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y * self.factor


class Leaky(Wrong):
    """Right at the start, but all samples of a batch see each other."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y + (self.factor - 1.5) * y.mean(dim=0, keepdim=True)


@pytest.mark.parametrize(("module", "what"), [(Wrong, "identity at init"), (Leaky, "outputs of birds")])
def test_harness_finds_what_is_wrong(module: type[SiteModule], what: str) -> None:
    register("wrong", WrongConfig, paper="none", taxonomy="adapter")(module)
    try:
        with pytest.raises(AssertionError, match=f"wrong on vit: .*{what}"):
            check_method("wrong", ["vit"])
    finally:
        METHODS.discard("wrong")


def test_harness_refuses_a_method_that_fits_nothing() -> None:
    with pytest.raises(AssertionError, match="vqt can be attached to none of swin, pvt_v2"):
        check_method("vqt", ["swin", "pvt_v2"])


def test_unknown_method_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'lorra'\. Did you mean 'lora'"):
        check_method("lorra")
