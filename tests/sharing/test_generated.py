"""Weights made by hypernetworks: formulas, identity, batches, freezing, saving."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.manager.manager import TaskManager
from mtpeft.testing import tiny_backbone

SOURCES = ("hyperformer", "polyhistor", "polyhistor_lite")
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("houlsby", {"reduction": 4}),
    ("houlsby", {"reduction": 4, "adapter_ln": "out"}),
    ("adaptformer", {"reduction": 4}),
    ("lora", {}),
]


def images(count: int = 4, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(dtype)


def manager(
    anatomy: str, method: str, sharing: Any, double: bool = False, moved: bool = True, **options: Any
) -> TaskManager:
    backbone = tiny_backbone(anatomy)
    made = mtpeft.attach(backbone.double() if double else backbone, method, sharing=sharing, **options)
    for task in ("birds", "cars"):
        made.add_task(task, num_classes=3)
    if moved:
        for parameter in made.attachments.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


@pytest.mark.parametrize("sharing", SOURCES)
@pytest.mark.parametrize("anatomy", ["vit", "swin", "pvt_v2"])
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_generated_weights_start_at_the_backbone_and_serve_every_kind_of_batch(
    anatomy: str, method: str, options: dict[str, Any], sharing: str
) -> None:
    fresh = manager(anatomy, method, sharing, moved=False, **options)
    plain: Any = tiny_backbone(anatomy).eval()
    with torch.no_grad():
        expected = plain.forward_head(plain.forward_features(images()), pre_logits=True)
        torch.testing.assert_close(fresh.features(images(), "birds"), expected, rtol=0, atol=1e-6)
    moved = manager(anatomy, method, sharing, **options)
    with torch.no_grad():
        birds, cars = moved(images(), "birds"), moved(images(), "cars")
        mixed = moved(images(), ["cars", "birds", "birds", "cars"])
        both = moved.forward_tasks(images(), ["cars", "birds"])
    assert (moved.features(images(), "birds") - moved.features(images(), "cars")).abs().max() > 1e-3
    torch.testing.assert_close(mixed["birds"][1], birds[[1, 2]], rtol=1e-4, atol=3e-5)
    torch.testing.assert_close(mixed["cars"][1], cars[[0, 3]], rtol=1e-4, atol=3e-5)
    torch.testing.assert_close(both["birds"], birds, rtol=1e-4, atol=3e-5)
    torch.testing.assert_close(both["cars"], cars, rtol=1e-4, atol=3e-5)


def embedding(source: Any, task: str, key: str) -> torch.Tensor:
    """z of one task and layer, by hand."""
    pair = torch.cat([source.tasks[f"task={task}"].vector, source.layers[key].vector])
    first, _, second, *norms = source.project
    z = second.weight @ torch.relu(first.weight @ pair + first.bias) + second.bias
    for norm in norms:
        z = (z - z.mean()) / (z.var(correction=0) + 1e-6).sqrt() * norm.weight + norm.bias
    return z


@pytest.mark.parametrize("authors", [True, False])
def test_hyperformer_makes_each_weight_by_one_matrix(authors: bool) -> None:
    """As the authors do of a normalised z and with a bias, those of the norm after the adapter too; or of z alone."""
    sharing = "hyperformer" if authors else {"name": "hyperformer", "generator_bias": False, "layer_norm": False}
    made = manager("vit", "houlsby", sharing, double=True, bottleneck_dim=5, adapter_ln="out")
    source: Any = made.attachments[0].weights
    assert len(source.project) == (4 if authors else 3)
    for key in source.layers:
        z = embedding(source, "cars", key)
        kind = "after_attention" if "drop_path1" in key else "after_mlp"
        site = source.bank("cars").sites[key]
        for name, tensor in {
            "adapter-down-weight": site.adapter.down.weight,
            "adapter-down-bias": site.adapter.down.bias,
            "adapter-up-weight": site.adapter.up.weight,
            "norm-weight": site.norm.weight - 1,  # what is made is added to the start of the method's own
            "norm-bias": site.norm.bias,
        }.items():
            shape = "x".join(map(str, tensor.shape))
            made_by = source.generators[f"{kind}_{name}_{shape}"].map
            assert (made_by.bias is not None) is authors
            expected = made_by.weight @ z + (made_by.bias if authors else 0.0)
            torch.testing.assert_close(tensor, expected.view_as(tensor), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_what_is_generated_starts_with_the_spread_of_the_method_s_own_weights(layer_norm: bool) -> None:
    torch.manual_seed(0)
    made = manager("vit", "lora", {"name": "hyperformer", "layer_norm": layer_norm}, moved=False, rank=16)
    source: Any = made.attachments[0].weights
    spread = torch.cat([source.bank("cars").sites[key].lora_A.flatten() for key in source.layers]).std()
    assert 0.6 < spread * (3 * 48) ** 0.5 < 1.6  # uniform in +- 1 / sqrt(48)


def test_polyhistor_multiplies_two_factors() -> None:
    made = manager("swin", "houlsby", {"name": "polyhistor", "rank": 3}, double=True, reduction=4)
    source: Any = made.attachments[0].weights
    for key in source.layers:
        z = embedding(source, "birds", key)
        down = source.bank("birds").sites[key].adapter.down.weight  # (n, d)
        kind = "after_attention" if "drop_path1" in key else "after_mlp"
        maps = source.generators[f"{kind}_adapter-down-weight_{down.shape[0]}x{down.shape[1]}"]
        left, right = (maps.left.weight @ z).view(-1, 3), (maps.right.weight @ z).view(-1, 3)
        torch.testing.assert_close(down, left @ right.T, rtol=0, atol=1e-12)


def test_polyhistor_lite_scales_one_template_by_a_kernel_of_each_layer() -> None:
    made = manager("swin", "houlsby", {"name": "polyhistor_lite", "rank": 3}, double=True, reduction=4)
    source: Any = made.attachments[0].weights
    widths = set()
    for position, key in enumerate(k for k in source.layers if "drop_path2" in k):
        z = embedding(source, "birds", key)
        up = source.bank("birds").sites[key].adapter.up.weight  # (d, n)
        widths.add(up.shape)
        maps = source.generators["after_mlp_adapter-up-weight"]
        template = (maps.left.weight @ z).view(24, 3) @ (maps.right.weight @ z).view(6, 3).T
        torch.testing.assert_close(up, torch.kron(maps.kernels[position], template), rtol=0, atol=1e-12)
    assert len(widths) == 2


def test_the_adapter_runs_under_the_generated_weights() -> None:
    made = manager("vit", "adaptformer", "polyhistor_lite", double=True, bottleneck_dim=6)
    source: Any = made.attachments[0].weights
    key = next(iter(source.layers))
    weights = source.prepare(["birds"])["birds"][key]
    down, up = weights[f"sites.{key}.adapter.down.weight"], weights[f"sites.{key}.adapter.up.weight"]
    bias = [weights[f"sites.{key}.adapter.{part}.bias"] for part in ("down", "up")]
    x, y = torch.randn(2, 2, 7, 48, dtype=torch.float64)
    expected = y + 0.1 * F.linear(F.relu(F.linear(x, down, bias[0])), up, bias[1])
    torch.testing.assert_close(source.call(key, ["birds"], None, (x, y), {}), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sharing", SOURCES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_loss_on_one_task_moves_every_generator_and_that_task_s_embedding_alone(
    sharing: str, checkpointing: bool
) -> None:
    made = manager("swin", "houlsby", sharing, reduction=4).train()
    made.backbone.set_grad_checkpointing(checkpointing)  # type: ignore[operator]
    made.forward_tasks(images(), ["cars"])["cars"].square().sum().backward()
    found = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    expected = {name for name, _ in made.trainable_parameters("cars")}
    assert found == expected
    assert not any("task=birds" in name for name in found)


def test_gradients_are_the_same_with_checkpointing() -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        made = manager("swin", "houlsby", "polyhistor", double=True, reduction=4).train()
        made.backbone.set_grad_checkpointing(checkpointing)  # type: ignore[operator]
        mixed = made(images(dtype=torch.float64), ["cars", "birds", "birds", "cars"])
        torch.stack([out.square().sum() for _, out in mixed.values()]).sum().backward()
        found.append({n: p.grad for n, p in made.attachments.named_parameters()})
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-10)


def test_frozen_to_plain_weights_outputs_stay_and_save_and_load(tmp_path: Path) -> None:
    made = manager("swin", "houlsby", "polyhistor_lite", reduction=4)
    twin = copy.deepcopy(made)
    with torch.no_grad():
        before = made(images(), "cars")
        made.to_per_task()
        torch.testing.assert_close(made(images(), "cars"), before, rtol=1e-5, atol=1e-6)
        assert made.isolated and made.attachments[0].sharing_name == "per_task"
        made.save(tmp_path / "plain")
        twin.save(tmp_path / "generated")
        for folder in ("plain", "generated"):
            loaded = mtpeft.load(tmp_path / folder, tiny_backbone("swin")).eval()
            torch.testing.assert_close(loaded(images(), "cars"), before, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="nothing is generated"):
        made.to_per_task()


def test_options_of_a_source_are_saved_and_a_wrong_one_is_an_error(tmp_path: Path) -> None:
    for options in (
        {"name": "polyhistor", "rank": 2, "embedding_dim": 8, "layer_norm": True},
        {"name": "hyperformer", "generator_bias": False, "layer_norm": False},
    ):
        made = manager("vit", "lora", options)
        made.save(tmp_path / "run")
        loaded = mtpeft.load(tmp_path / "run", tiny_backbone("vit"))
        assert {"name": options["name"], **loaded.attachments[0].sharing_options} == options
        with torch.no_grad():
            torch.testing.assert_close(loaded.eval()(images(), "cars"), made(images(), "cars"), rtol=0, atol=0)
    with pytest.raises(ConfigError, match=r"sharing 'polyhistor'.*'ranks'"):
        mtpeft.attach(tiny_backbone("vit"), "lora", sharing={"name": "polyhistor", "ranks": 2})


@pytest.mark.parametrize(
    ("method", "sharing", "options", "message"),
    [
        ("convpass", "polyhistor", {}, "low-rank hypernetworks make matrices"),
        ("fact_tt", "hyperformer", {}, "weights at model level"),
        ("houlsby", "polyhistor_lite", {"bottleneck_dim": 8}, None),
        ("vmt_adapter", "per_task", {}, "sharing='split', not 'per_task'"),
        ("lora", "split", {}, "has no task stream"),
    ],
)
def test_what_a_source_cannot_make_is_refused_in_one_line(
    method: str, sharing: str, options: dict[str, Any], message: str | None
) -> None:
    backbone: nn.Module = tiny_backbone("vit")
    if message is None:
        assert mtpeft.attach(backbone, method, sharing=sharing, **options)
        return
    with pytest.raises(ConfigError, match=message) as error:
        mtpeft.attach(backbone, method, sharing=sharing, **options)
    assert "\n" not in str(error.value)


def test_hypernetworks_learn_two_opposite_tasks() -> None:
    made = manager("vit", "adaptformer", "polyhistor", moved=False, bottleneck_dim=8).train()
    for head in made.heads.values():
        nn.init.normal_(head.fc.weight, std=0.5)  # type: ignore[union-attr, arg-type]
    target = {"birds": torch.tensor([0, 0, 1, 1]), "cars": torch.tensor([1, 1, 0, 0])}
    optimizer = torch.optim.Adam(made.attachments.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        outputs = made.forward_tasks(images(), ["birds", "cars"])
        loss = torch.stack([F.cross_entropy(outputs[t], target[t]) for t in target]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
