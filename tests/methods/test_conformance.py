"""Every registered method against the conformance harness, on every anatomy it claims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from mtpeft.backbones.site import Site
from mtpeft.errors import ConfigError
from mtpeft.methods import METHODS, MethodConfig, SiteModule, register
from mtpeft.testing import TINY, check_method
from mtpeft.testing.case import Case, images, mixed_path
from mtpeft.testing.conformance import CHECKS, check_compile, check_learns, check_new_process, check_refusal

NAMES = [name for name in METHODS if METHODS.get(name).module.__module__.startswith("mtpeft.")]

#: what `make test` checks every method on: one sequence, windows, and a pyramid with reduced keys
EVERY_TIME = {"vit", "swin", "pvt_v2"}

#: where each method of the library belongs, when it needs more than any transformer has
NEEDS_ONE_SEQUENCE = {"lst", "vqt"}
NEEDS_ONE_SEQUENCE_OR_SWIN = {"vpt_deep", "vpt_shallow"}
NEEDS_ONE_WIDTH = {"fact_tt", "fact_tk"}
PYRAMIDS = {"swin", "swinv2", "pvt_v2"}


#: blocks that norm first, with an MLP of fc1, activation and fc2
PLAIN_MLP = {"vit", "deit_distilled", "dinov2", "clip", "mae", "swin"}


def home(name: str) -> str:
    """An anatomy the method claims."""
    return "swin" if name == "mtlora_plus" else "vit"


def expected_claim(name: str, anatomy: str) -> bool:
    if name in NEEDS_ONE_SEQUENCE:
        return anatomy not in PYRAMIDS
    if name in NEEDS_ONE_SEQUENCE_OR_SWIN:
        return anatomy not in PYRAMIDS - {"swin"}
    if name in NEEDS_ONE_WIDTH:
        return anatomy not in PYRAMIDS | {"eva02"}  # EVA-02's MLP is 8/3 of its width
    if name == "aim":
        return anatomy not in {"beit", "swinv2", "pvt_v2"}  # positions inside attention, norms after it, reduced keys
    if name == "patt":
        return anatomy not in {"eva02", "pvt_v2"}  # no fused qkv
    if name == "mtlora":
        return anatomy in PLAIN_MLP
    if name == "mtlora_plus":
        return anatomy == "swin"  # the one of them with patch merging
    return True


def pairs() -> list[Any]:
    """Every method on every anatomy: all in `make nightly`, and in `make test` what is not marked slow.

    Beside `EVERY_TIME` each method takes a third of the anatomies, the next method another third. Refusals are quick.
    """
    others = [anatomy for anatomy in TINY if anatomy not in EVERY_TIME]
    return [
        pytest.param(
            name,
            anatomy,
            marks=()
            if anatomy in EVERY_TIME or not expected_claim(name, anatomy) or (others.index(anatomy) + turn) % 3 == 0
            else pytest.mark.slow,
        )
        for turn, name in enumerate(NAMES)
        for anatomy in TINY
    ]


@pytest.mark.parametrize(("name", "anatomy"), pairs())
def test_method_conforms_where_it_claims_to_and_is_refused_elsewhere(name: str, anatomy: str) -> None:
    case = Case(name, anatomy)
    claimed = case.claimed()
    assert claimed == expected_claim(name, anatomy)
    for check in CHECKS if claimed else (check_refusal,):
        check(case)


@pytest.mark.parametrize("name", NAMES)
def test_method_learns(name: str) -> None:
    check_learns(Case(name, home(name)))


def test_all_methods_load_in_a_new_process() -> None:
    check_new_process([Case(name, home(name)) for name in NAMES])


COMPILED = [
    "lora",
    "vpt_deep",
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("adaptformer", "aim", "st_adapter")),
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
]


@pytest.mark.parametrize(
    ("name", "anatomy", "options"),
    [  # every second in `make test`
        pytest.param(*row, id=f"{row[0]}-{row[1]}-{i}", marks=pytest.mark.slow if i % 2 else ())
        for i, row in enumerate(OPTIONS)
    ],
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
