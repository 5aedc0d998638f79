"""Methods whose shifts, scales and linear adapters fold into the backbone's layers: AdapterBias, DiffFit, ARC."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from counted import trained
from naive import NaiveViT, T, assert_close, attached, linear, tokens
from timm.models.swin_transformer import SwinTransformer

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, perturb

X = images(2, torch.float64)
VIT_B, SWIN_T, SWIN_B = "vit_base_patch16_224", "swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224"


@pytest.mark.parametrize(
    ("model", "method", "options", "expected"),
    [
        ("vit_tiny_patch16_224", "adapter_bias", {}, 11_532),
        ("vit_small_patch16_224", "adapter_bias", {}, 23_052),
        (VIT_B, "adapter_bias", {}, 46_092),
        (VIT_B, "adapter_bias", {"share_alpha": True}, 12_289),
        (VIT_B, "adapter_bias", {"train_norm": True}, 66_060),  # as BERT-base by the authors' code
        (SWIN_T, "adapter_bias", {}, 22_092),
        (SWIN_B, "adapter_bias", {}, 60_184),
        (VIT_B, "difffit", {}, 149_760),
        (VIT_B, "difffit", {"gamma_blocks": "all"}, 177_408),
        (VIT_B, "difffit", {"gamma_blocks": "all", "gammas": "branches"}, 140_544),
        ("vit_small_patch16_224", "difffit", {}, 74_880),
        (SWIN_T, "difffit", {"gamma_blocks": "all"}, 64_608 + 26_496),
        (SWIN_B, "difffit", {"gamma_blocks": "all", "gammas": "branches"}, 166_016 + 24_064),
        (VIT_B, "arc", {}, 96_432),
        (VIT_B, "arc", {"sites": ("attention_in",)}, 48_216),
        (VIT_B, "arc", {"rank": 10}, 2 * 768 * 10 + 24 * (10 + 768)),
    ],
)
def test_trained_weights(model: str, method: str, options: dict[str, Any], expected: int) -> None:
    assert trained(model, method, **options) == expected


def bank_of(manager: Any) -> Any:
    return manager.attachments[0].weights.bank("birds")


def renormed(own: Any, other: Any, u: T) -> T:
    """What a norm gives -> what it gives with the scale and shift of another one."""
    return (u - own.bias) / own.weight * other.weight + other.bias


@pytest.mark.parametrize("share_alpha", [False, True])
@torch.no_grad()
def test_adapter_bias_shifts_every_token_along_one_direction(share_alpha: bool) -> None:
    model, manager, sites = attached("dinov2", "adapter_bias", share_alpha=share_alpha)

    def fc2(y: T, hidden: T, i: int) -> T:
        site = sites["fc2", i]
        alpha = bank_of(manager).model if share_alpha else site.alpha
        strengths = (hidden * alpha.weight[0]).sum(dim=-1) + alpha.bias[0]  # (B, N)
        return y + strengths[..., None] * site.vector

    assert_close(tokens(manager, X), NaiveViT(model, fc2=fc2)(X))


@torch.no_grad()
def test_adapter_bias_with_the_norms_behind_the_mlps() -> None:
    model, manager, sites = attached("vit", "adapter_bias", train_norm=True)
    assert {kind for kind, _ in sites} == {"fc2", "norm1", "final_norm"}
    plain = NaiveViT(
        model,
        fc2=lambda y, hidden, i: y + linear(sites["fc2", i].alpha, hidden) * sites["fc2", i].vector,
        norm1=lambda u, i: renormed(model.blocks[i].norm1, sites["norm1", i].norm, u),
        final_norm=lambda u, x: renormed(model.norm, sites["final_norm", None].norm, u),
    )
    assert_close(tokens(manager, X), plain(X))


def fresh(anatomy: str, method: str, **options: Any) -> Any:
    manager = mtpeft.attach(tiny_backbone(anatomy), method, **options)
    manager.add_task("birds", num_classes=3)
    return manager


def test_adapter_bias_starts_without_a_shift_and_can_leave() -> None:
    manager = fresh("vit", "adapter_bias")
    for site in bank_of(manager).sites.values():
        assert not site.vector.any() and not site.alpha.bias.any()
        assert 0.014 < site.alpha.weight.std() < 0.026
    manager(images(2), "birds").sum().backward()
    assert all(site.vector.grad.any() for site in bank_of(manager).sites.values())


def test_adapter_bias_can_be_generated_unless_blocks_share_the_strength() -> None:
    backbone = tiny_backbone("vit")
    manager = mtpeft.attach(backbone, "adapter_bias", sharing="hyperformer")
    manager.add_task("birds", num_classes=3)
    assert manager(images(2), "birds").shape == (2, 3)
    manager.detach()
    with pytest.raises(ConfigError, match="adapter_bias"):
        mtpeft.attach(backbone, "adapter_bias", sharing="hyperformer", share_alpha=True)


@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
@pytest.mark.parametrize("options", [{}, {"gamma_blocks": "all"}, {"gamma_blocks": "all", "gammas": "branches"}])
@torch.no_grad()
def test_difffit_scales_what_layers_and_branches_give(anatomy: str, options: dict[str, str]) -> None:
    model, manager, sites = attached(anatomy, "difffit", **options)
    scaled = (0,) if not options else (0, 1)  # the first half of two blocks

    def gammas(kind: str, i: int, count: int) -> T | float:
        found = list(sites[kind, i].gammas)
        assert len(found) == (count if i in scaled else 0)
        return math.prod(found) if found else 1.0  # type: ignore[arg-type]

    def layer(kind: str, count: int) -> Any:
        def change(y: T, x: T, i: int) -> T:
            own = getattr(model.blocks[i].attn if kind in ("qkv", "proj") else model.blocks[i].mlp, kind)
            return gammas(kind, i, count) * (x @ own.weight.T + sites[kind, i].bias)

        return change

    def norm(kind: str) -> Any:
        return lambda u, i: renormed(getattr(model.blocks[i], kind), sites[kind, i].norm, u)

    whole = options.get("gammas") != "branches"
    plain = NaiveViT(
        model,
        patch_embed=lambda y: y - model.patch_embed.proj.bias + sites["patch_embed", None].bias,
        norm1=norm("norm1"),
        norm2=norm("norm2"),
        final_norm=lambda u, x: renormed(model.norm, sites["final_norm", None].norm, u),
        qkv=layer("qkv", 1 if whole else 0),
        proj=layer("proj", 2 if whole else 1),
        fc1=layer("fc1", 0),
        fc2=layer("fc2", 1),
    )
    assert_close(tokens(manager, X), plain(X))


@pytest.mark.parametrize(
    ("anatomy", "expected"),
    [
        ("vit", {"qkv": 1, "proj": 2, "fc2": 1}),
        ("swin", {"qkv": 1, "proj": 2, "fc2": 1}),
        ("beit", {"q": 1, "k": 1, "v": 1, "proj": 2, "fc2": 1}),  # biases of q and v are applied apart
        ("eva02", {"q": 1, "k": 1, "v": 1, "proj": 2, "fc2": 1}),
        ("pvt_v2", {"q": 1, "k": 1, "v": 1, "proj": 2, "fc2": 1}),
        ("swinv2", {"q": 1, "k": 1, "v": 1, "proj": 1, "norm1": 1, "norm2": 1}),  # branches end in norms
    ],
)
def test_difffit_scales_stand_at_projections_and_where_branches_end(anatomy: str, expected: dict[str, int]) -> None:
    manager = fresh(anatomy, "difffit", blocks=[0])
    selected = manager.attachments[0].selected
    sites = bank_of(manager).sites
    found = {s.kind: len(sites[s.key].gammas) for s in selected if s.block == 0 and len(sites[s.key].gammas)}
    assert found == expected
    assert all(g.eq(1).all() and g.shape == (s.dim_out,) for s in selected for g in sites[s.key].gammas)
    rows: dict[Any, list[Any]] = {}
    for site in selected:
        if sites[site.key].bias is not None:
            rows.setdefault(site.bias, []).append(site.rows)
    for found_rows in rows.values():  # k and v of one layer are two parts of it; none is trained twice
        assert found_rows == [None] or (None not in found_rows and len(set(found_rows)) == len(found_rows))


@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
@torch.no_grad()
def test_arc_re_composes_one_projection_in_every_block(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "arc", rank=4, dropout=0.0)
    shared = bank_of(manager).model.U
    assert {name: tuple(u.shape) for name, u in shared.items()} == {"attention_in_48": (48, 4), "mlp_in_48": (48, 4)}

    def adapted(kind: str) -> Any:
        def change(u: T, i: int) -> T:
            site, projection = sites[kind, i], shared[f"{kind}_48"]
            return u + u @ (projection @ torch.diag(site.coefficients) @ projection.T) + site.bias

        return change

    plain = NaiveViT(model, norm1=adapted("attention_in"), norm2=adapted("mlp_in"))
    assert_close(tokens(manager, X), plain(X))


@torch.no_grad()
def test_arc_starts_at_the_backbone_but_before_the_mlp() -> None:
    for init in ("xavier", "zeros"):
        manager = fresh("swin", "arc", mlp_init=init)
        bank = bank_of(manager)
        assert set(bank.model.U) == {"attention_in_24", "attention_in_48", "mlp_in_24", "mlp_in_48"}  # one per width
        for site in manager.attachments[0].selected:
            found = bank.sites[site.key].coefficients
            if site.kind == "attention_in" or init == "zeros":
                assert not found.any()
            else:
                assert 0.6 * math.sqrt(6 / 51) < found.abs().max() <= math.sqrt(6 / 51)
            assert not bank.sites[site.key].bias.any()


@torch.no_grad()
def test_arc_folds_where_windows_are_padded() -> None:
    """The bias reaches the padding too, as that of a folded layer does."""
    torch.manual_seed(0)
    backbone: Any = SwinTransformer(
        img_size=72, patch_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=0
    )
    manager = mtpeft.attach(backbone.double(), "arc", rank=4)
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.2)
    x = torch.randn(2, 3, 72, 72, dtype=torch.float64)
    assert_close(manager.merge("birds")(x), manager.eval()(x, "birds"))


@torch.no_grad()
def test_arc_folds_beside_lora_on_the_same_layer() -> None:
    """LoRA reads what ARC made of the input."""
    manager = mtpeft.attach(
        tiny_backbone("beit").double(), [{"name": "lora", "sites": ["qkv", "fc1"]}, {"name": "arc", "rank": 4}]
    )
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.2)
    assert_close(manager.merge("birds")(X), manager.eval()(X, "birds"))


@pytest.mark.parametrize(
    ("anatomy", "method", "options", "message"),
    [
        ("vit", "adapter_bias", {"sites": ("after_mlp",)}, "cannot act at the sites after_mlp"),
        ("vit", "adapter_bias", {"sites": ("norm1",)}, "not a linear layer"),
        ("swin", "adapter_bias", {"share_alpha": True}, "one width in all blocks, and these have 96, 192"),
        ("vit", "difffit", {"sites": ("block",), "gammas": "branches"}, "would train nothing"),
        ("vit", "arc", {"sites": ("proj",)}, "cannot act at the sites proj"),
        ("vit", "arc", {"sites": ("after_mlp",)}, "only at attention_in and mlp_in"),
        ("pvt_v2", "arc", {}, "they are not all that reads what enters attention"),
    ],
)
def test_refusals(anatomy: str, method: str, options: dict[str, Any], message: str) -> None:
    backbone = tiny_backbone(anatomy)
    with pytest.raises(ConfigError, match=message) as error:
        mtpeft.attach(backbone, method, **options)
    assert method in str(error.value) and "\n" not in str(error.value)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())
