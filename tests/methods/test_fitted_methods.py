"""Methods that see a task's data before they are trained: what they choose and compute, against plain tensor algebra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from naive import NaiveViT, assert_close, tokens
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mtpeft
from mtpeft.errors import ConfigError, DataError
from mtpeft.manager.manager import TaskManager
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import Case, clips, images, mixed_path, perturb
from mtpeft.testing.conformance import CHECKS, check_compile

D = 48
X = images(12, torch.float64, seed=7)
Y = torch.tensor([0, 1, 2, 0, 1, 2, 2, 1, 0, 0, 0, 1])
BATCHES = [(X[:5], Y[:5]), (X[5:9], Y[5:9]), (X[9:], Y[9:])]


def made(method: Any, anatomy: str = "vit", sharing: Any = None, **options: Any) -> TaskManager:
    backbone: Any = tiny_backbone(anatomy).double()
    manager = mtpeft.attach(backbone, method, sharing=sharing, **options)
    for task in ("birds", "cars"):
        manager.add_task(task, num_classes=3)
    return manager


def fitted(method: Any, anatomy: str = "vit", sharing: Any = None, **options: Any) -> tuple[Any, TaskManager, Any]:
    """A plain model, a manager on an equal one fitted to the first task's data, and its site modules by kind and block."""
    manager = made(method, anatomy, sharing, **options)
    manager.fit("birds", BATCHES)
    perturb(manager, std=0.2)
    bank: Any = manager.attachments[0].weights.bank("birds")
    sites = {(s.kind, s.block): bank.sites[s.key] for s in manager.attachments[0].selected}
    return tiny_backbone(anatomy).double(), manager.eval(), sites


# counts ---------------------------------------------------------------------------------------------------------------

COUNTS: list[tuple[str, dict[str, Any], int, int]] = [
    ("sct", {}, 111_744, 12 * 96),
    ("sct", {"num_channels": 192}, 444_672, 12 * 192),
    ("sct", {"num_channels": 32}, 12_672, 12 * 32),
    ("gps", {}, 167_424, 83_712),
    ("gps", {"connections": 2}, 251_136, 2 * 83_712),
    ("lst", {"init": "fisher"}, 2_376_492, 0),
]


@pytest.mark.parametrize(("method", "options", "expected", "chosen"), COUNTS)
def test_trained_weights_without_the_head(
    vit_b: nn.Module, method: str, options: dict[str, Any], expected: int, chosen: int
) -> None:
    manager = mtpeft.attach(vit_b, method, **options)
    try:
        manager.add_task("birds", num_classes=10)
        assert manager.num_trainable("birds", heads=False) == expected
        assert manager.counts("birds").buffers == chosen + 1  # and whether they are chosen
    finally:
        manager.detach()


# SCT ------------------------------------------------------------------------------------------------------------------


def salient(streams: list[torch.Tensor], count: int) -> list[int]:
    """The channels of (N, tokens, d) with the largest norm over a class's tokens, averaged over classes: in loops."""
    scores = []
    for j in range(streams[0].shape[-1]):
        norms = []
        for label in set(Y.tolist()):
            total = 0.0
            for stream, own in zip(streams, Y.tolist(), strict=True):
                total += float((stream[..., j] ** 2).sum()) if own == label else 0.0
            norms.append(total**0.5)
        scores.append(sum(norms) / len(norms))
    return sorted(sorted(range(len(scores)), key=lambda j: -scores[j])[:count])


@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
@torch.no_grad()
def test_sct_on_the_stream_after_attention(anatomy: str) -> None:
    model, manager, sites = fitted("sct", anatomy, num_channels=7, scale=0.3)
    seen: dict[int, torch.Tensor] = {}

    def note(y: torch.Tensor, x: torch.Tensor, u: torch.Tensor, i: int) -> torch.Tensor:
        seen[i] = (x + y)[:, model.num_prefix_tokens :]
        return y

    NaiveViT(model, attention_branch=note)(X)

    def change(y: torch.Tensor, x: torch.Tensor, u: torch.Tensor, i: int) -> torch.Tensor:
        site, y = sites["parallel_attn", i], y.clone()
        chosen = site.channels.tolist()
        assert chosen == salient(list(seen[i]), 7)
        y[..., chosen] += 0.3 * ((x + y)[..., chosen] @ site.map.weight.T + site.map.bias)
        return y

    assert_close(tokens(manager, X), NaiveViT(model, attention_branch=change)(X))


@torch.no_grad()
def test_sct_after_the_mlp_and_on_projections() -> None:
    model, manager, sites = fitted("sct", sites=("parallel_mlp", "q", "v"), num_channels=5)
    seen: dict[tuple[str, int], torch.Tensor] = {}

    def note(y: torch.Tensor, x: torch.Tensor, u: torch.Tensor, i: int) -> torch.Tensor:
        seen["parallel_mlp", i] = (x + y)[:, 1:]
        return y

    def note_qkv(y: torch.Tensor, u: torch.Tensor, i: int) -> torch.Tensor:
        seen["q", i], seen["v", i] = y[:, 1:, :D], y[:, 1:, 2 * D :]
        return y

    NaiveViT(model, mlp_branch=note, qkv=note_qkv)(X)

    def add(kind: str, i: int, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        site, y = sites[kind, i], y.clone()
        chosen = site.channels.tolist()
        assert chosen == salient(list(seen[kind, i]), 5)
        y[..., chosen] += z[..., chosen] @ site.map.weight.T + site.map.bias
        return y

    def change_qkv(y: torch.Tensor, u: torch.Tensor, i: int) -> torch.Tensor:
        q, k, v = y.chunk(3, dim=-1)
        return torch.cat([add("q", i, q, q), k, add("v", i, v, v)], dim=-1)

    plain = NaiveViT(model, mlp_branch=lambda y, x, u, i: add("parallel_mlp", i, x + y, y), qkv=change_qkv)
    assert_close(tokens(manager, X), plain(X))


def test_sct_starts_as_the_authors_code_or_at_the_backbone() -> None:
    module: Any = made("sct", num_channels=32).attachments[0].weights.bank("birds")
    for site in module.sites.values():
        assert float(site.map.weight.detach().std()) == pytest.approx(0.02, rel=0.1) and not site.map.bias.any()
    manager = made("sct", init="zero")
    manager.fit("birds", BATCHES)
    plain: Any = tiny_backbone("vit").double()
    assert torch.equal(tokens(manager, X[:2]), plain.forward_features(X[:2]))


def test_sct_of_labels_that_are_no_classes_takes_all_images_as_one() -> None:
    chosen = []
    for labels in (torch.rand(12, 8, 8), torch.zeros(12, dtype=torch.long)):
        manager = made("sct")
        manager.fit("birds", [(X, labels)])
        chosen.append([site.channels.tolist() for site in manager.attachments[0].weights.bank("birds").sites.values()])
    assert chosen[0] == chosen[1]


def test_sct_counts_all_frames_of_a_clip() -> None:
    """A clip of one image over and over chooses what the image does; windows and maps too."""
    for anatomy in ("vit", "swin"):
        kinds = ("parallel_attn", "q")
        still, moving = (made("sct", anatomy, sites=kinds) for _ in range(2))
        still.fit("birds", [(X, Y)])
        moving.fit("birds", [(X.unsqueeze(2).expand(-1, -1, 3, -1, -1), Y)])
        for key, site in still.attachments[0].weights.bank("birds").sites.items():  # type: ignore[union-attr, operator]
            other = moving.attachments[0].weights.bank("birds").sites[key]  # type: ignore[union-attr, operator]
            assert torch.equal(site.channels, other.channels)
    assert moving(clips(2).double(), "birds").shape == (2, 3)


# GPS ------------------------------------------------------------------------------------------------------------------


def contrastive(z: torch.Tensor, labels: list[int], temperature: float) -> torch.Tensor:
    """Khosla et al., equation 2, in loops."""
    z = z / (z * z).sum(1, keepdim=True).sqrt()
    total = z.new_zeros(())
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        same = [p for p in others if labels[p] == labels[i]]
        below = torch.stack([(z[i] @ z[a] / temperature).exp() for a in others]).sum()
        total = total - torch.stack([((z[i] @ z[p] / temperature).exp() / below).log() for p in same]).mean()
    return total / len(z)


def layers(model: Any) -> dict[tuple[str, int | None], Any]:
    found: dict[tuple[str, int | None], Any] = {("patch_embed", None): model.patch_embed.proj}
    for i, block in enumerate(model.blocks):
        found |= {("qkv", i): block.attn.qkv, ("proj", i): block.attn.proj}
        found |= {("fc1", i): block.mlp.fc1, ("fc2", i): block.mlp.fc2}
    return found


@pytest.mark.parametrize("selection", ["contrastive", "task"])
def test_gps_trains_the_connections_with_the_largest_gradient(selection: str) -> None:
    manager = made("gps", connections=3, selection=selection, temperature=0.2)
    head: Any = manager.head("birds").fc  # type: ignore[union-attr]
    model: Any = tiny_backbone("vit").double()
    for batch, labels in BATCHES:
        if selection == "contrastive":  # the second view by a pass of its own
            views = [model.forward_head(model.forward_features(batch), pre_logits=True) for _ in range(2)]
            loss = contrastive(torch.cat(views), labels.tolist() * 2, 0.2)
        else:
            logits = model.forward_features(batch)[:, 0] @ head.weight.detach().T + head.bias.detach()
            loss = -(logits.softmax(1)[range(len(batch)), labels]).log().mean()
        loss.backward()  # gradients of all batches add up
    manager.fit("birds", BATCHES)
    bank: Any = manager.attachments[0].weights.bank("birds")
    sites = {(s.kind, s.block): bank.sites[s.key] for s in manager.attachments[0].selected}
    assert sites.keys() == layers(model).keys()
    for place, layer in layers(model).items():
        for row, gradient in zip(sites[place].index.tolist(), layer.weight.grad.flatten(1).abs(), strict=True):
            assert row == sorted(sorted(range(len(gradient)), key=lambda j: -float(gradient[j]))[:3])
    perturb(manager, std=0.2)
    with torch.no_grad():
        for place, layer in layers(model).items():
            site, flat = sites[place], layer.weight.view(len(layer.weight), -1)
            for row in range(len(flat)):
                for k in range(3):
                    flat[row, site.index[row, k]] += site.values[row, k]
            layer.bias += site.bias
        assert_close(tokens(manager.eval(), X), model.forward_features(X))
        torch.testing.assert_close(
            manager.merge("birds").state_dict()["blocks.1.mlp.fc1.weight"], model.blocks[1].mlp.fc1.weight
        )


def test_gps_of_a_layer_with_few_inputs_takes_all_of_them() -> None:
    manager = made("gps", "pvt_v2", connections=16)
    bank: Any = manager.attachments[0].weights.bank("birds")
    depthwise = [site for site in bank.sites.values() if site.values is not None and site.shape[1:].numel() == 9]
    assert depthwise and all(site.values.shape[1] == 9 for site in depthwise)


def test_gps_never_decays() -> None:
    manager = made("gps")
    groups = torch.optim.AdamW(manager.parameter_groups(0.1, "birds"), weight_decay=0.5).param_groups
    heads = set(manager.head("birds").parameters())
    rules = {(p in heads, p.ndim): group["weight_decay"] for group in groups for p in group["params"]}
    assert rules == {(False, 2): 0.0, (False, 1): 0.0, (True, 2): 0.5, (True, 1): 0.0}


def test_gps_runs_few_tasks_by_slices_and_not_by_a_dense_matrix_of_every_image() -> None:
    """Whether weights are copied for every image is decided by what a call makes of them."""
    bank: Any = made("gps").attachments[0].weights.bank("birds")
    site = bank.sites["blocks-0-mlp-fc1"]
    assert site.made == 4 * D * D > sum(t.numel() for t in bank.tensors("blocks-0-mlp-fc1").values())


# LST ------------------------------------------------------------------------------------------------------------------


def test_lst_is_pruned_by_the_fisher_information_of_the_task() -> None:
    manager = made("lst", init="fisher", reduction=4, fisher_samples=7)
    head: Any = manager.head("birds").fc  # type: ignore[union-attr]
    model: Any = tiny_backbone("vit").double()
    fisher = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for image, label in zip(X[:7], Y[:7], strict=True):
        logits = model.forward_features(image[None])[0, 0] @ head.weight.detach().T + head.bias.detach()
        model.zero_grad()
        (-logits.log_softmax(0)[label]).backward()
        for name, parameter in model.named_parameters():
            fisher[name] += parameter.grad**2
    manager.fit("birds", BATCHES)
    side: Any = next(iter(manager.attachments[0].weights.bank("birds").sites.values()))  # type: ignore[union-attr, operator]

    def top(score: torch.Tensor, count: int) -> list[int]:
        return sorted(sorted(range(len(score)), key=lambda j: -float(score[j]))[:count])

    rows = top(fisher["patch_embed.proj.weight"].flatten(1).sum(1), 12)
    for i, (narrow, wide) in enumerate(zip(side.blocks, model.blocks, strict=True)):
        assert torch.equal(narrow.norm1.weight, wide.norm1.weight[rows])
        parts = fisher[f"blocks.{i}.attn.qkv.weight"][:, rows].chunk(3)
        heads = top((parts[0] * parts[1] * parts[2]).sum(1), 12)
        for part, weight in enumerate(wide.attn.qkv.weight.chunk(3)):
            assert torch.equal(narrow.attn.qkv.weight[12 * part : 12 * part + 12], weight[heads][:, rows])
        rows = heads
        for name, small, large in (
            ("attn.proj", narrow.attn.proj, wide.attn.proj),
            ("mlp.fc1", narrow.mlp.fc1, wide.mlp.fc1),
            ("mlp.fc2", narrow.mlp.fc2, wide.mlp.fc2),
        ):
            columns, rows = rows, top(fisher[f"blocks.{i}.{name}.weight"][:, rows].sum(1), len(small.weight))
            assert torch.equal(small.weight, large.weight[rows][:, columns])
            assert torch.equal(small.bias, large.bias[rows])
    assert torch.equal(side.norm.weight, model.norm.weight[rows])
    assert manager(X[:2], "birds").isfinite().all()


@pytest.mark.parametrize("anatomy", ["vit", "eva02"])
def test_lst_conforms_when_it_is_fitted(anatomy: str) -> None:
    case = Case("lst", anatomy, {"init": "fisher", "fisher_samples": 3})
    for check in CHECKS:
        check(case)


@pytest.mark.slow
def test_gps_of_chosen_sites_conforms() -> None:
    for anatomy, options in (
        ("swin", {"sites": ("q", "fc1", "reduction"), "connections": 2, "selection": "task"}),
        ("beit", {"sites": ("q", "k", "v", "proj"), "connections": 2}),
    ):
        case = Case("gps", anatomy, options)
        assert case.claimed()
        for check in CHECKS:
            check(case)


# the contract ---------------------------------------------------------------------------------------------------------


def test_a_task_is_used_only_when_it_has_seen_its_data() -> None:
    manager = made("sct")
    manager.fit("cars", BATCHES)
    assert manager.needs_fit("birds") and not manager.needs_fit("cars")
    manager.forward_tasks(X[:2], ["cars"])
    for use in (
        lambda: manager(X[:2], "birds"),
        lambda: manager(X[:2], ["cars", "birds"]),
        lambda: manager.forward_tasks(X[:2], ["cars", "birds"]),
        lambda: manager.features(X[:2], "birds"),
        lambda: manager.backbone(X[:2]),
    ):
        with pytest.raises(ConfigError) as caught:
            use()
        assert str(caught.value) == (
            "task 'birds': method 'sct' has to see its training data before it is used: manager.fit('birds', loader)"
        )
    assert "birds" in manager.table()  # sizes are known before
    manager.remove_task("cars")
    manager.add_task("cars", num_classes=3)
    assert manager.needs_fit("cars")


def test_fit_takes_a_loader_of_ones_own_and_a_loss_of_ones_own() -> None:
    manager = made("gps", selection="task")
    manager.add_task("depth", head="dense_linear", channels=2)
    loader = DataLoader(TensorDataset(X, Y, torch.arange(12)), batch_size=5)
    manager.fit("birds", loader)
    maps = [(X[:4], torch.rand(4, 2, 64, 64).double())]
    with pytest.raises(ConfigError, match="task 'depth': its labels are no class numbers; give fit a loss") as caught:
        manager.fit("depth", maps)
    assert "\n" not in str(caught.value) and manager.needs_fit("depth")
    manager.fit("depth", maps, loss=nn.functional.l1_loss)
    assert not manager.needs_fit("depth") and manager.needs_fit("cars")


WRONG: list[tuple[Any, type[Exception], str]] = [
    (None, ConfigError, "fit needs its training data, batches of \\(images, labels\\), got None"),
    ([], DataError, "the data of fit hold no batch"),
    ([X], DataError, "fit takes batches of \\(images, labels\\), got Tensor"),
    ([(X, None)], DataError, "fit takes batches of \\(images, labels\\), got tuple"),
    ([(X.flatten(1), Y)], DataError, "images have shape \\(12, 12288\\)"),
]


@pytest.mark.parametrize(("loader", "kind", "message"), WRONG)
def test_fit_without_data_is_one_line_and_leaves_all_as_it_was(
    loader: Any, kind: type[Exception], message: str
) -> None:
    manager = made("gps").train()
    before = {name: tensor.clone() for name, tensor in manager.state_dict().items()}
    with pytest.raises(kind, match=message) as caught:
        manager.fit("birds", loader)
    assert "\n" not in str(caught.value) and manager.needs_fit("birds")
    assert manager.training and not any(p.requires_grad for p in manager.backbone.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in manager.state_dict().items())
    manager.fit("birds", BATCHES)
    with pytest.raises(ConfigError, match="task 'birds' has nothing to fit"):
        manager.fit("birds", BATCHES)
    with pytest.raises(ConfigError, match="task 'birds' has nothing to fit"):
        made("lora").fit("birds", BATCHES)


def test_what_is_chosen_is_saved_and_loaded_and_so_is_what_is_not_yet_chosen(tmp_path: Path) -> None:
    manager = made("gps")
    manager.fit("birds", BATCHES)
    perturb(manager)
    manager.save(tmp_path / "half")
    loaded = mtpeft.load(tmp_path / "half", tiny_backbone("vit").double())
    assert not loaded.needs_fit("birds") and loaded.needs_fit("cars")
    assert torch.equal(loaded.eval()(X, "birds"), manager.eval()(X, "birds"))
    loaded.fit("cars", BATCHES)
    manager.fit("cars", BATCHES)
    assert torch.equal(loaded(X, "cars"), manager(X, "cars"))


def test_the_average_of_shared_weights_is_fitted_with_them() -> None:
    manager = made("sct", sharing="averaged")
    source: Any = manager.attachments[0].weights
    manager.fit("birds", BATCHES)
    assert not manager.needs_fit("cars")
    for key, site in source.common.sites.items():
        assert torch.equal(site.channels, source.average.sites[key].channels)
        assert not torch.equal(site.channels, torch.arange(len(site.channels)))
    source.begin()
    manager.eval()
    assert source.members == 2 and manager(X[:2], "cars").isfinite().all()


@pytest.mark.parametrize("sharing", ["hyperformer", "polyhistor"])
def test_generated_weights_are_not_fitted(sharing: str) -> None:
    with pytest.raises(ConfigError, match="'sct' is fitted to a task's data; generated weights are not") as caught:
        mtpeft.attach(tiny_backbone("vit"), "sct", sharing=sharing)
    assert "\n" not in str(caught.value)


def test_several_methods_are_fitted_to_the_same_plain_backbone() -> None:
    """Each chooses what it chooses alone, whatever is attached beside it, prompts among it."""
    alone = {name: made(name) for name in ("sct", "gps")}
    together = made(["vpt_deep", "sct", "gps"])
    for manager in (*alone.values(), together):
        manager.fit("birds", BATCHES)
    for position, (name, attribute) in enumerate((("sct", "channels"), ("gps", "index")), start=1):
        own: Any = alone[name].attachments[0].weights.bank("birds")
        beside: Any = together.attachments[position].weights.bank("birds")
        for key, site in own.sites.items():
            assert torch.equal(getattr(site, attribute), getattr(beside.sites[key], attribute))
    with mixed_path(float("inf")):
        together.fit("cars", [(X.flip(0), Y)])
        assert together(X[:2], ["birds", "cars"])["cars"][1].isfinite().all()


def test_a_fit_under_no_grad_and_half_trained_backbones_leaves_flags_alone() -> None:
    manager = made("gps")
    flags = [p.requires_grad for p in manager.parameters()]
    with torch.no_grad():
        manager.fit("birds", BATCHES)
    assert [p.requires_grad for p in manager.parameters()] == flags and not any(
        p.grad is not None for p in manager.parameters()
    )


@pytest.mark.parametrize("name", ["sct", "gps"])
def test_impossible_values_are_refused(name: str) -> None:
    backbone = tiny_backbone("vit")
    options = {"num_channels": 49} if name == "sct" else {"sites": ("norm1",)}
    message = "num_channels=49 is more than the 48 channels" if name == "sct" else "it would train nothing"
    with pytest.raises(ConfigError, match=message) as caught:
        mtpeft.attach(backbone, name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="is a map of a convolution"):
        mtpeft.attach(backbone, "sct", sites=("patch_embed",))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sct", "gps"])
def test_compiles_to_one_graph(name: str) -> None:
    check_compile(Case(name, "vit"))
