"""NOAH's subnets: published counts, the forward written out token by token, leading rows of a supernet, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from counted import trained
from naive import NaiveViT, assert_close, linear
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.search import Elastic
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, perturb

D = 48
X = images(2, torch.float64)
#: the subnet published for CIFAR-100 of VTAB-1k
CIFAR = {
    "prompts": (10, 5, 10, 1, 5, 1, 10, 1, 10, 5, 1, 10),
    "ranks": (10, 1, 5, 5, 1, 10, 1, 1, 1, 10, 1, 1),
    "widths": (5, 10, 10, 10, 5, 1, 1, 1, 10, 10, 10, 1),
}
SUPER = {"prompts": 100, "ranks": 100, "widths": 100}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (SUPER, 921_600 + 3_686_400 + 1_853_616),
        (CIFAR, 52_992 + 144_384 + 122_954),
        ({"prompts": 0, "ranks": 0, "widths": 8}, 156_768),
        ({"prompts": 0, "ranks": 8, "widths": 0}, 294_912),
    ],
)
def test_trained_weights(sizes: dict[str, Any], expected: int) -> None:
    assert trained("vit_base_patch16_224", "noah", **sizes) == expected


def test_a_supernet_counts_its_subnets_without_building_them(vit_b: nn.Module) -> None:
    manager = mtpeft.attach(vit_b, "noah", **SUPER)
    try:
        elastic = Elastic(manager)
        assert elastic.weights(CIFAR) == 320_330
        assert elastic.weights(elastic.space([100], [12]).smallest()) == 6_461_616
        assert elastic.space([1, 5, 10]).depths == (3, 6, 9, 12)
        assert elastic.weights(elastic.space([5, 10, 50, 100]).smallest()) == 3 * (5 * D * 16 * 7 + 5 + 768)
    finally:
        manager.detach()


def backbone(seed: int = 0, **options: Any) -> Any:
    """A ViT of four blocks, in double precision."""
    torch.manual_seed(seed)
    model = VisionTransformer(img_size=64, patch_size=16, embed_dim=D, depth=4, num_heads=3, num_classes=0, **options)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval().double()


def with_sizes(model: nn.Module, **options: Any) -> tuple[Any, dict[tuple[str, int], Any]]:
    """A manager with perturbed weights, and its modules by part and block."""
    manager = mtpeft.attach(model, "noah", **options)
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.3)
    bank: Any = manager.methods[0].weights.bank("birds")
    modules = {(bank.sites[s.key].part, s.block): bank.sites[s.key] for s in manager.methods[0].selected}
    return manager.eval(), modules  # type: ignore[return-value]


def written_out(model: Any, modules: dict[tuple[str, int], Any]) -> torch.Tensor:
    """Prompts stand at the end of the sequence: the last p are dropped and new ones appended, or the old ones stay."""
    length = 17
    standing = 0

    def enter(x: torch.Tensor, i: int) -> torch.Tensor:
        nonlocal standing
        if ("prompts", i) not in modules:
            return x
        prompts = modules["prompts", i].prompts
        x = torch.cat([x[:, : x.shape[1] - standing], prompts.expand(len(x), -1, -1)], dim=1)
        standing = len(prompts)
        return x

    def update(y: torch.Tensor, u: torch.Tensor, i: int) -> torch.Tensor:
        if ("ranks", i) not in modules:
            return y
        site = modules["ranks", i]
        return y + u @ site.lora_A.T @ site.lora_B.T

    def adapter(y: torch.Tensor, x: torch.Tensor, u: torch.Tensor, i: int) -> torch.Tensor:
        if ("widths", i) not in modules:
            return y
        site = modules["widths", i]
        z = linear(site.down, y)
        return y + linear(site.up, z / (1 + (-1.702 * z).exp()))

    plain = NaiveViT(
        model, tokens=enter, qkv=update, mlp_branch=adapter, final_norm=lambda y, x: y[:, : y.shape[1] - standing]
    )
    out = plain(X)
    assert out.shape[1] == length
    return out


SUBNETS: list[dict[str, Any]] = [
    {"prompts": 3, "ranks": 2, "widths": 4},
    {"prompts": (3, 1, 0, 0), "ranks": (2, 0, 0, 0), "widths": (0, 0, 0, 5)},
    {"prompts": (3, 0, 0, 2), "ranks": 0, "widths": (0, 1, 0, 0)},
    {"prompts": (0, 4, 0, 0), "ranks": (1, 2, 3, 4), "widths": 0},
]


@pytest.mark.parametrize("sizes", SUBNETS)
@torch.no_grad()
def test_subnets_written_out(sizes: dict[str, Any]) -> None:
    manager, modules = with_sizes(backbone(), **sizes)
    expected = {
        (part, i)
        for part, given in sizes.items()
        for i, n in enumerate([given] * 4 if isinstance(given, int) else given)
        if n
    }
    assert modules.keys() == expected
    assert_close(manager.backbone.forward_features(X), written_out(backbone(), modules))


def lists(sizes: dict[str, Any], blocks: int) -> dict[str, tuple[int, ...]]:
    return {part: (given,) * blocks if isinstance(given, int) else given for part, given in sizes.items()}


@torch.no_grad()
def leading_rows(whole: dict[tuple[str, int], Any], part: dict[tuple[str, int], Any]) -> None:
    """Give a subnet's modules the leading rows of a supernet's."""
    for place, module in part.items():
        for name, parameter in module.named_parameters():
            parameter.copy_(whole[place].get_parameter(name)[tuple(slice(n) for n in parameter.shape)])


@pytest.mark.parametrize("sizes", SUBNETS)
def test_a_subnet_is_the_leading_rows_of_its_supernet(sizes: dict[str, Any]) -> None:
    manager, whole = with_sizes(backbone(), prompts=5, ranks=5, widths=5)
    other, part = with_sizes(backbone(), **sizes)
    leading_rows(whole, part)
    other.head("birds").load_state_dict(manager.head("birds").state_dict())
    elastic, subnet = Elastic(manager), lists(sizes, 4)
    elastic.use(subnet)
    assert elastic.weights(subnet) == other.num_trainable("birds", heads=False)
    assert_close(manager(X, "birds"), other(X, "birds"))
    mixed = manager(X, ["birds", "birds"])["birds"][1]
    assert_close(mixed, other(X, "birds"))

    manager(X, "birds").square().sum().backward()
    other(X, "birds").square().sum().backward()
    for place, module in whole.items():
        for name, parameter in module.named_parameters():
            if place not in part:
                assert parameter.grad is None or not parameter.grad.any()
                continue
            expected = torch.zeros_like(parameter)
            small = part[place].get_parameter(name).grad
            expected[tuple(slice(n) for n in small.shape)] = small
            assert_close(parameter.grad, expected)
    elastic.use(None)
    assert not torch.allclose(manager(X, "birds"), other(X, "birds"))


def test_prompts_go_through_the_stages_of_swin() -> None:
    """Prompts of the first block that stop there go on as those of `vpt_shallow` do; a supernet cut so does the same."""

    def swin() -> Any:
        torch.manual_seed(1)
        return (
            SwinTransformer(
                img_size=64, patch_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=0
            )
            .eval()
            .double()
        )

    sizes = {"prompts": (3, 0, 0, 0), "ranks": 0, "widths": 0}
    manager, part = with_sizes(swin(), **sizes)
    shallow = mtpeft.attach(swin(), "vpt_shallow", num_tokens=3, pool_prompts=False)
    shallow.add_task("birds", num_classes=3)
    bank: Any = shallow.methods[0].weights.bank("birds")
    with torch.no_grad():
        next(iter(bank.sites.values())).prompts.copy_(part["prompts", 0].prompts)
    found = manager.backbone.forward_features(X)
    assert_close(found, shallow.eval().backbone.forward_features(X))  # type: ignore[operator]
    whole, modules = with_sizes(swin(), prompts=4, ranks=4, widths=4)
    modules["prompts", 0].prompts.data[:3] = part["prompts", 0].prompts.data
    Elastic(whole).use(lists(sizes, 4))
    assert_close(whole.backbone.forward_features(X), found)


@torch.no_grad()
def test_shallow_prompts_of_two_blocks_go_on_beside_each_other() -> None:
    """Where nothing is replaced, what several blocks add is carried apart."""
    manager = mtpeft.attach(backbone(), "vpt_shallow", blocks=(0, 2), num_tokens=2)
    manager.add_task("birds", num_classes=3)
    bank: Any = manager.methods[0].weights.bank("birds")
    first, later = (module.prompts for module in bank.sites.values())

    def enter(x: torch.Tensor, i: int) -> torch.Tensor:
        rows = {0: first, 2: later}.get(i)
        return x if rows is None else torch.cat([x, rows.expand(len(x), -1, -1)], dim=1)

    plain = NaiveViT(backbone(), tokens=enter, final_norm=lambda y, x: y[:, :17])
    assert_close(manager.eval().backbone.forward_features(X), plain(X))  # type: ignore[operator]


def test_weights_start_as_in_the_authors_code() -> None:
    torch.manual_seed(0)
    for zero in (False, True):
        manager = mtpeft.attach(tiny_backbone("vit"), "noah", prompts=7, ranks=30, widths=20, zero_init=zero)
        manager.add_task("birds", num_classes=3)
        bank: Any = manager.methods[0].weights.bank("birds")
        for site in bank.sites.values():
            if site.part == "prompts":
                limit = math.sqrt(6 / (7 * D + D))
                assert 0.9 * limit < site.prompts.abs().max() <= limit
                continue
            first, second = (site.lora_A, site.lora_B) if site.part == "ranks" else (site.down.weight, site.up.weight)
            for tensor, nothing in ((first, False), (second, zero)):
                assert not tensor.any() if nothing else abs(tensor.std().item() - 0.02) < 0.002
            if site.part == "widths":
                assert not site.down.bias.any() and not site.up.bias.any()


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("vit", {"prompts": (1, 2, 3)}, "prompts has 3 sizes, and the model 2 blocks"),
    ("vit", {"widths": -1}, "widths is -1, expected"),
    ("vit", {"ranks": (1, -1)}, "ranks is .*, expected"),
    ("vit", {"prompts": 0, "ranks": 0, "widths": (0, 0)}, "it would train nothing"),
    ("vit", {"sites": ("tokens", "proj")}, "it acts at tokens, qkv, after_mlp, not at 'proj'"),
    ("eva02", {}, "it needs one fused projection qkv"),
    ("pvt_v2", {}, "it needs one flat token sequence"),
]


@pytest.mark.parametrize(("anatomy", "options", "message"), REFUSED)
def test_refusals(anatomy: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"noah.*{message}"):
        mtpeft.attach(tiny_backbone(anatomy), "noah", **options)


def test_parts_can_be_left_out_by_their_sites() -> None:
    manager = mtpeft.attach(tiny_backbone("pvt_v2"), "noah", sites=("after_mlp",))
    assert {site.kind for site in manager.methods[0].selected} == {"after_mlp"}


def test_what_a_supernet_refuses() -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), "noah", prompts=4, ranks=(4, 2), widths=4)
    elastic = Elastic(manager)
    with pytest.raises(ConfigError, match="ranks of block 1 is 4, and the supernet has 2"):
        elastic.space([4])
    assert elastic.space([1, 2]).depths == (1, 2)
    with pytest.raises(ConfigError, match="widths of block 0 is 5, and the supernet has 4"):
        elastic.use({"prompts": (1, 0), "ranks": (1, 0), "widths": (5, 0)})
    with pytest.raises(ConfigError, match=r"a supernet is of one elastic method \(noah\), not of 'lora'"):
        Elastic(mtpeft.attach(tiny_backbone("vit"), "lora"))
