"""What values options take: by annotation, for methods, sharings, heads and kinds of dense tasks alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

import numpy as np
import pytest

import mtpeft
from mtpeft.dense.kinds import KINDS, build_kind
from mtpeft.errors import ConfigError
from mtpeft.heads.base import HEADS
from mtpeft.hooks.attachment import check_sharing
from mtpeft.methods import METHODS
from mtpeft.options import (
    Count,
    Length,
    Name,
    NotNegative,
    OddSize,
    OneOf,
    Positive,
    Range,
    Rate,
    Section,
    check_options,
    expected,
    options_of,
    take,
)
from mtpeft.sharing import SHARINGS
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import Case, Snapshot
from mtpeft.testing.checks_options import check_refused_options
from mtpeft.testing.wrong_values import wrong_values

WORDS = ("relu", "gelu")
Choice = Literal["kv", "qkv"]

GOOD: list[tuple[Any, Any, Any]] = [
    (Count, 8, 8),
    (Count, np.int32(8), 8),
    (Rate, 0, 0.0),
    (Rate, np.float32(0.5), 0.5),
    (Positive, 1, 1.0),
    (bool, True, True),
    (Choice, "kv", "kv"),
    (Literal[1, 2], 2, 2),
    (Annotated[str, OneOf(WORDS)], "gelu", "gelu"),
    (Count | None, None, None),
    (tuple[Name, ...], ["q", "v"], ("q", "v")),
    (Sequence[Count], [1, 2], (1, 2)),
    (tuple[OddSize, OddSize], [3, 1], (3, 1)),
    (int | float, 3, 3),
    (dict[str, Any], {"a": 1}, {"a": 1}),
    (Any, object, object),
]


@pytest.mark.parametrize(("annotation", "value", "taken"), GOOD, ids=str)
def test_what_is_taken_comes_as_it_is_declared(annotation: Any, value: Any, taken: Any) -> None:
    found = take(annotation, value, "x")
    assert found == taken and type(found) is type(taken)


BAD: list[tuple[Any, Any, str]] = [
    (Count, 0, "x is 0, expected a whole number from 1"),
    (Count, -1, "x is -1, expected a whole number from 1"),
    (Count, 8.0, "x is 8.0, expected a whole number from 1"),
    (Count, True, "x is True, expected a whole number from 1"),
    (Count, "8", "x is '8', expected a whole number from 1"),
    (Count, np.bool_(True), "expected a whole number from 1"),
    (Count, 10**400, "x is a huge number, expected a whole number from 1"),
    (Rate, 1, "x is 1, expected a number from 0 to below 1"),
    (Rate, math.nan, "x is nan, expected a number from 0 to below 1"),
    (Positive, math.inf, "x is inf, expected a number above 0"),
    (Positive, 10**400, "x is a huge number, expected a number above 0"),
    (Positive, Decimal("NaN"), "expected a number above 0"),
    (NotNegative, True, "x is True, expected a number from 0"),
    (Annotated[int, Range(at_most=3)], 4, "x is 4, expected a whole number up to 3"),
    (OddSize, 2, "x is 2, expected an odd whole number from 1"),
    (bool, 1, "x is 1, expected True or False"),
    (Name, "", "x is '', expected a name"),
    (Choice, "vk", "x is 'vk', expected one of kv, qkv. Did you mean"),
    (Literal[1, 2], True, "x is True, expected one of 1, 2"),
    (Annotated[str, OneOf(WORDS)], "relo", "x is 'relo', expected one of relu, gelu. Did you mean 'relu'"),
    (Count | None, 0, "x is 0, expected a whole number from 1 or None"),
    (Annotated[tuple[int, ...], Length(1)], [], "x is [], expected a list of one or more whole numbers"),
    (tuple[int, ...], [0.5], "x is [0.5], expected a list of whole numbers"),
    (tuple[Name, ...], "q", "x is 'q', expected a list of names"),
    (tuple[OddSize, OddSize], [3], "x is [3], expected a list of 2 odd whole numbers from 1"),
    (dict[str, Any], [1], "x is [1], expected a mapping"),
    (dict[str, Any], {1: 1}, "expected a mapping"),
]


@pytest.mark.parametrize(("annotation", "value", "message"), BAD, ids=str)
def test_what_is_not_taken_is_one_line(annotation: Any, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        take(annotation, value, "x")
    assert message in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("annotation", [a for a, _, _ in GOOD[:-1]], ids=str)
def test_wrong_values_reach_types_limits_and_words(annotation: Any) -> None:
    wrong = wrong_values(annotation)
    assert len(wrong) > 8
    for value in wrong:
        with pytest.raises(ConfigError):
            take(annotation, value, "x")


def test_wrong_values_lie_on_both_sides_of_every_limit() -> None:
    assert 0 in wrong_values(Count) and 2 in wrong_values(OddSize)
    assert {1.0, -1e-6} <= {value for value in wrong_values(Rate) if isinstance(value, (int, float))}


# whatever is registered ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_field_of_every_method_refuses_what_it_does_not_declare(name: str) -> None:
    check_refused_options(Case(name, "vit"))


def test_the_harness_finds_a_field_that_declares_nothing() -> None:
    @mtpeft.register("vague", VagueConfig, paper="none", taxonomy="adapter")
    class Vague(mtpeft.SiteModule):
        """Nothing."""

    try:
        with pytest.raises(AssertionError, match="the annotation of size says nothing"):
            check_refused_options(Case("vague", "vit"))
    finally:
        METHODS.discard("vague")


@dataclass(frozen=True, kw_only=True)
class VagueConfig(mtpeft.MethodConfig):
    sites: tuple[Name, ...] = ("proj",)
    size: Any = 1


def parts() -> list[tuple[str, str, Any, str]]:
    """Every option of every sharing, head and kind: what it belongs to, its name and annotation, and how it is given."""
    found = []
    for word, registry in (("sharing", SHARINGS), ("head", HEADS), ("kind", KINDS)):
        for name in registry:
            options = options_of(registry.get(name))
            skipped = 0 if word == "kind" else 1  # what the library fills in itself
            found += [(word, name, option, field) for field, option in list(options.items())[skipped:]]
    return found


@pytest.mark.parametrize(("word", "name", "option", "field"), parts(), ids=lambda v: v if isinstance(v, str) else "")
def test_every_option_of_sharings_heads_and_kinds_refuses_what_it_does_not_declare(
    word: str, name: str, option: Any, field: str, manager: mtpeft.TaskManager
) -> None:
    wrong = wrong_values(option.annotation)
    assert wrong
    for value in wrong:
        with pytest.raises(ConfigError) as error:
            if word == "sharing":
                check_sharing(name, {field: value})
            elif word == "kind":
                required = {k: 2 for k, o in options_of(KINDS.get(name)).items() if o.required}
                build_kind(name, **{**required, field: value})
            else:
                needed = {k for k, o in list(options_of(HEADS.get(name)).items())[1:] if o.required}
                required = {k: {} if k == "config" else 2 for k in needed - {"stride"}}
                manager.add_task("new", head={"name": name, **required, field: value})
        assert str(error.value).startswith(f"{word} {name!r}: {field} is ") and "\n" not in str(error.value)
    assert manager.tasks == []


@pytest.fixture(scope="module")
def manager() -> mtpeft.TaskManager:
    return mtpeft.attach(tiny_backbone("pvt_v2"), "linear_probe")


NAMED: list[tuple[str, dict[str, Any], str]] = [
    ("lora", {"rank": 0}, "method 'lora': rank is 0, expected a whole number from 1"),
    ("adaptformer", {"dropout": 1.5}, "method 'adaptformer': dropout is 1.5, expected a number from 0 to below 1"),
    ("vpt_deep", {"num_tokens": 0}, "method 'vpt_deep': num_tokens is 0"),
    ("lst", {"reduction": 0}, "method 'lst': reduction is 0"),
    ("lora", {"blocks": []}, "method 'lora': blocks is [], expected a list of one or more whole numbers or None"),
    ("lora", {"blocks": -1}, "method 'lora': blocks is -1"),
    ("lora", {"blocks": [0.5]}, "method 'lora': blocks is [0.5]"),
    ("lora", {"sites": ()}, "method 'lora': sites is (), expected a list of one or more names"),
    ("lora", {"sites": [""]}, "method 'lora': sites is ['']"),
    ("lora", {"exclude": [1]}, "method 'lora': exclude is [1], expected a list of names"),
    ("full", {"blocks": [0]}, "method 'full': blocks is [0], expected None"),
    ("linear_probe", {"sites": ["q"]}, "method 'linear_probe': sites is ['q'], expected nothing, an empty list"),
    ("lora", {"exclude": ["q", "v"]}, "it would train nothing: no site is left by sites=('q', 'v')"),
    ("vp", {"exclude": ["pixels"]}, "method 'vp' cannot be attached to VisionTransformer: it would train nothing"),
    (
        "vpt_shallow",
        {"blocks": [1], "exclude": ["tokens"]},
        "method 'vpt_shallow' cannot be attached to VisionTransformer: it would train",
    ),
    ("lst", {"exclude": ["side"]}, "method 'lst' cannot be attached to VisionTransformer: it would train nothing"),
    ("lora", {"sharing": 0}, "sharing is 0, expected a name, or a mapping with a 'name'"),
    ("lora", {"sharing": {"name": ["x"]}}, "unknown sharing ['x']"),
    ("lora", {"sharing": {"name": "shared", "rank": 3}}, "sharing 'shared' takes no option 'rank'"),
    ("lora", {"sharing": {"name": "polyhistor", "embeding_dim": 3}}, "Did you mean 'embedding_dim'"),
]


@pytest.mark.parametrize(("method", "options", "message"), NAMED, ids=[message[:60] for _, _, message in NAMED])
def test_wrong_options_name_method_field_value_and_what_is_expected(
    method: str, options: dict[str, Any], message: str
) -> None:
    backbone = tiny_backbone("vit")
    before = Snapshot(backbone, Case(method, "vit"))
    with pytest.raises(ConfigError) as error:
        mtpeft.attach(backbone, method, **options)
    assert message in str(error.value) and "\n" not in str(error.value)
    before.compare(backbone, "after a refused attach")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_without_a_site_left_is_refused_unless_it_claims_to_train_heads_only(name: str) -> None:
    spec = METHODS.get(name)
    sites = spec.build_config({}).sites
    anatomy = "swin" if spec.stream is not None else "vit"
    if not sites:
        attached = mtpeft.attach(tiny_backbone(anatomy), name)
        attached.add_task("birds", num_classes=2)
        assert (attached.num_trainable("birds", heads=False) == 0) is spec.properties.head_only
        return
    assert not spec.properties.head_only
    with pytest.raises(ConfigError, match=f"method '{name}' cannot be attached to \\w+: "):
        mtpeft.attach(tiny_backbone(anatomy), name, exclude=list(sites))


def test_numbers_are_kept_as_plain_ones() -> None:
    config = METHODS.get("lora").build_config({"rank": np.int64(4), "alpha": 8, "blocks": [np.int64(0), -1]})
    assert (config.rank, config.alpha, config.blocks) == (4, 8.0, (0, -1))  # type: ignore[attr-defined]
    assert type(config.rank) is int and type(config.alpha) is float  # type: ignore[attr-defined]


def test_a_constructor_that_hands_options_on_has_those_of_the_next_class() -> None:
    common = {"factory", "embedding_dim", "hidden_dim", "layer_norm"}
    assert set(options_of(SHARINGS.get("polyhistor"))) == {*common, "rank"}
    assert set(options_of(SHARINGS.get("hyperformer"))) == {*common, "generator_bias"}


def test_recipe_sections_check_values_by_the_dataclass_they_fill() -> None:
    section = Section({"rank": "8"}, "mine", "method.")
    with pytest.raises(ConfigError, match=r"recipe mine: method\.rank is '8', expected a whole number from 1"):
        section.fields(METHODS.get("lora").config)


def test_functions_are_entries_too() -> None:
    def crop(size: Count, flip: bool = False) -> None:
        """Nothing."""

    assert check_options("transform 'crop'", crop, {"size": np.int64(3)}) == {"size": 3}
    with pytest.raises(ConfigError, match="transform 'crop' needs the option 'size'"):
        check_options("transform 'crop'", crop, {})
    assert expected(Count | None) == "a whole number from 1 or None"
