"""Weights chosen by the image: what is chosen and mixed, and what is learned, against formulas written out one by one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pools import EXACT, alone, cosine, images, pooled, queries, source, states

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.manager.manager import TaskManager
from mtpeft.testing import tiny_backbone


def keys(manager: TaskManager, group: int = 0) -> list[torch.Tensor]:
    return [made.keys[group].detach() for made in source(manager)._sets()]


def likeness(manager: TaskManager, x: torch.Tensor, anatomy: str = "vit") -> list[list[float]]:
    """By image and set."""
    return [[float(cosine(q, k)) for k in keys(manager)] for q in queries(x, anatomy)]


def ranked(row: list[float]) -> list[int]:
    return sorted(range(len(row)), key=lambda m: -row[m])


def mean(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: sum(p[name] for p in parts) / len(parts) for name in parts[0]}  # type: ignore[misc]


@pytest.mark.parametrize("anatomy", ["vit", "swin", "convnext"])
def test_every_image_runs_under_the_mean_of_the_sets_nearest_to_it(anatomy: str) -> None:
    manager, x = pooled(anatomy=anatomy, size=5, top_k=2).eval(), images()
    found, sets = manager.features(x, "t0"), states(manager)
    chosen = [ranked(row)[:2] for row in likeness(manager, x, anatomy)]
    assert len(set(map(tuple, chosen))) > 1, "the images are to choose differently"
    for i, (one, two) in enumerate(chosen):
        expected = alone(x[i : i + 1], mean([sets[one], sets[two]]), anatomy=anatomy)
        torch.testing.assert_close(found[i : i + 1], expected, **EXACT)


@pytest.mark.parametrize("method", ["vpt_shallow", "vpt_deep"])
def test_prompts_of_several_sets_stand_behind_each_other(method: str) -> None:
    options = {"num_tokens": 2, "dropout": 0.0}
    manager, x = pooled(method, size=4, top_k=3, options=options).eval(), images()
    found, sets = manager.features(x, "t0"), states(manager)
    for i, row in enumerate(likeness(manager, x)):
        parts = [sets[m] for m in ranked(row)[:3]]
        joined = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
        expected = alone(x[i : i + 1], joined, method, num_tokens=6, dropout=0.0)
        torch.testing.assert_close(found[i : i + 1], expected, **EXACT)


def test_ranks_of_several_sets_stand_beside_each_other() -> None:
    options = {"rank": 2, "dropout": 0.0, "alpha": 4.0}
    manager, x = pooled("lora", size=4, top_k=2, options=options).eval(), images()
    found, sets = manager.features(x, "t0"), states(manager)
    for i, row in enumerate(likeness(manager, x)):
        one, two = (sets[m] for m in ranked(row)[:2])
        joined = {n: torch.cat([one[n], two[n]], dim=int(one[n].shape[0] != 2)) for n in one}
        expected = alone(x[i : i + 1], joined, "lora", rank=4, dropout=0.0, alpha=8.0)
        torch.testing.assert_close(found[i : i + 1], expected, **EXACT)


@pytest.mark.parametrize("by", ["pool", "block"])
def test_a_mix_is_the_sum_of_all_sets_by_attended_cosines(by: str) -> None:
    options = {"num_tokens": 3}
    manager = pooled("prefix_tuning", tasks=1, size=4, choose="mix", keys=by, options=options).eval()
    x, sets = images(), states(manager)
    found = manager.features(x, "t0")
    names = list(sets[0])
    for i, q in enumerate(queries(x)):
        summed = dict.fromkeys(names, torch.zeros(()))
        for m, made in enumerate(source(manager)._sets()):
            for name in names:
                group = 0 if by == "pool" else int("1" in name.split("blocks")[1][:2])
                weight = cosine(q * made.attention[group].detach(), made.keys[group].detach())
                summed[name] = summed[name] + weight * sets[m][name]
        expected = alone(x[i : i + 1], summed, "prefix_tuning", num_tokens=3)
        torch.testing.assert_close(found[i : i + 1], expected, **EXACT)
    assert (source(manager)._sets()[0].keys.shape[0] == 2) == (by == "block")


def test_own_sets_in_training_and_the_nearest_of_all_at_test_time() -> None:
    manager, x = pooled(tasks=3, choose="own"), images()
    sets = states(manager)
    manager.train()
    torch.testing.assert_close(manager.features(x, "t1"), alone(x, sets[1]), **EXACT)
    mixed = manager(x, ["t2", "t0", "t1", "t2"])
    for task, rows in (("t0", [1]), ("t1", [2]), ("t2", [0, 3])):
        torch.testing.assert_close(mixed[task][1], manager.head(task)(alone(x[rows], sets[int(task[1])])), **EXACT)
    manager.eval()
    found, table = manager.features(x, "t2"), likeness(manager, x)
    assert len({ranked(row)[0] for row in table}) > 1
    for i, row in enumerate(table):
        torch.testing.assert_close(found[i : i + 1], alone(x[i : i + 1], sets[ranked(row)[0]]), **EXACT)
    two = manager.features(x, "t1")  # a task sees what there was when it was added
    for i, row in enumerate(table):
        torch.testing.assert_close(two[i : i + 1], alone(x[i : i + 1], sets[ranked(row[:2])[0]]), **EXACT)


@pytest.mark.parametrize("choose", ["top", "mix"])
def test_tasks_train_their_own_sets_alone_and_see_earlier_ones(choose: str) -> None:
    manager, x = pooled(tasks=3, per_task=2, choose=choose).train(), images()
    single = manager(x, "t1")
    (single.square().sum() + manager.penalty()).backward()
    sets = source(manager)._sets()
    touched = [any(p.grad is not None for p in made.parameters()) for made in sets]
    assert touched == [False, False, True, True, False, False]
    expected = {n: p.grad.clone() for n, p in manager.named_parameters() if p.grad is not None}
    manager.zero_grad()
    # the same gradients in a batch with other tasks
    names = ["t1"] * 4 + ["t2", "t0"]
    _, output = manager(torch.cat([x, images(2, seed=7)]), names)["t1"]
    torch.testing.assert_close(output, single, **EXACT)
    output.square().sum().backward()
    for name, parameter in manager.named_parameters():
        if parameter.grad is not None and "keys" not in name:
            own = expected.get(name, torch.zeros_like(parameter))
            torch.testing.assert_close(parameter.grad, own, **EXACT)
    manager.forward_tasks(x, ["t0", "t2"])


def test_the_key_loss_draws_chosen_keys_to_the_queries() -> None:
    manager, x = pooled(size=4, top_k=2, key_loss=0.3).train(), images()
    manager(x, "t0")
    table, q = likeness(manager, x), queries(x)
    expected = -0.3 * sum(row[m] for row in table for m in ranked(row)[:2]) / len(x)
    assert manager.penalty().item() == pytest.approx(expected, abs=1e-12)
    assert list(manager.penalties()) == ["keys"]
    manager.penalty().backward()
    own = [made.keys for made in source(manager)._sets()]
    twin = [k.detach().clone().requires_grad_() for k in own]
    naive = sum(cosine(q[i], twin[m][0]) for i, row in enumerate(table) for m in ranked(row)[:2])
    (-0.3 * naive / len(x)).backward()  # type: ignore[union-attr]
    for key, other in zip(own, twin, strict=True):
        gradient = torch.zeros_like(other) if other.grad is None else other.grad
        torch.testing.assert_close(key.grad, gradient, **EXACT)
    manager.eval()(x, "t0")
    assert not manager.penalties() and manager.penalty().item() == 0.0
    manager.train()
    with torch.no_grad():
        manager(x, "t0")
    assert not manager.penalties()
    manager.forward_tasks(x, ["t0", "t1"])
    assert manager.penalty().item() == pytest.approx(expected, abs=1e-12)


def test_the_orthogonality_penalty() -> None:
    manager = pooled(
        "prefix_tuning", 1, choose="mix", size=3, keys="block", orthogonality=0.7, options={"num_tokens": 2}
    )
    manager.train()(images(), "t0")
    sets = source(manager)._sets()
    expected = 0.0
    for group in (0, 1):
        rows = [[made.keys[group] for made in sets], [made.attention[group] for made in sets]]
        flat = [[p for n, p in made.bank.named_parameters() if f"blocks-{group}" in n] for made in sets]
        assert all(len(parts) == 2 for parts in flat), [n for n, _ in sets[0].bank.named_parameters()]
        rows.append([torch.cat([p.flatten() for p in parts]) for parts in flat])
        for vectors in rows:
            for i, one in enumerate(vectors):
                for j, two in enumerate(vectors):
                    expected += 0.7 * ((one * two).sum().item() - (i == j)) ** 2 / len(vectors) ** 2
    assert manager.penalty().item() == pytest.approx(expected, rel=1e-9)


def gram_schmidt(vectors: list[torch.Tensor], earlier: list[torch.Tensor]) -> list[torch.Tensor]:
    """As it is taught."""
    basis: list[torch.Tensor] = []
    for vector in [*earlier, *vectors]:
        rest = vector.clone()
        for _ in range(2):
            for one in basis:
                rest = rest - (rest @ one) * one
        basis.append(rest / rest.norm())
    return basis[len(earlier) :]


def test_new_sets_start_orthogonal_to_trained_ones() -> None:
    from mtpeft.sharing.choosing import orthonormal

    generator = torch.Generator().manual_seed(0)
    vectors, earlier = (torch.randn(n, 12, generator=generator, dtype=torch.float64) for n in (3, 4))
    expected = torch.stack(gram_schmidt(list(vectors), list(earlier)))
    torch.testing.assert_close(orthonormal(vectors, earlier), expected, **EXACT)
    manager = pooled("prefix_tuning", 1, choose="mix", per_task=2, start="orthogonal", options={"num_tokens": 2})
    before = {name: tensor.clone() for name, tensor in manager.trained_state().items()}
    manager.add_task("t1", num_classes=3)
    after = manager.trained_state()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    sets = source(manager)._sets()
    for pick in (
        lambda s: s.keys.flatten(),
        lambda s: s.attention.flatten(),
        lambda s: torch.cat([p.flatten() for p in s.bank.parameters()]),
    ):
        rows = [pick(made).detach() for made in sets]
        for i in (2, 3):
            for j in range(4):
                assert float(rows[i] @ rows[j]) == pytest.approx(float(i == j), abs=1e-12)
    with pytest.raises(ConfigError, match=r"sharing 'pool': 50 sets cannot be orthogonal, .* have 48 numbers"):
        pooled(tasks=1, choose="mix", size=50, start="orthogonal")


def test_a_task_may_start_with_the_sets_of_the_one_before() -> None:
    manager = pooled(tasks=1, choose="own", start="uniform", from_previous=True)
    manager.add_task("t1", num_classes=3)
    one, two = states(manager)
    assert all(torch.equal(one[name], two[name]) for name in one)
    first, second = keys(manager)
    assert not torch.equal(first, second) and float(second.abs().max()) <= 1


def test_sets_that_earlier_tasks_chose_often_count_as_farther() -> None:
    manager = pooled(tasks=2, size=4, top_k=1, frequency=True).train()
    x, pool = images(6), source(manager)
    first = [ranked(row)[0] for row in likeness(manager, x)]
    sets = states(manager)
    torch.testing.assert_close(
        manager.features(x, "t0"), torch.cat([alone(x[i : i + 1], sets[m]) for i, m in enumerate(first)]), **EXACT
    )
    counts = [first.count(m) for m in range(4)]
    assert pool.tasks["task=t0"].counts.tolist() == [counts]
    share = [n / 6 for n in counts]
    second = []
    for row in likeness(manager, x):
        order = sorted(range(4), key=lambda m: ((1 - row[m]) * share[m], -row[m]))
        second.append(order[0])
    assert second != first
    torch.testing.assert_close(
        manager.features(x, "t1"), torch.cat([alone(x[i : i + 1], sets[m]) for i, m in enumerate(second)]), **EXACT
    )
    assert pool.tasks["task=t1"].counts.tolist() == [[second.count(m) for m in range(4)]]
    with torch.no_grad():
        manager.features(x, "t1")
    plain = manager.eval().features(x, "t1")
    torch.testing.assert_close(plain, torch.cat([alone(x[i : i + 1], sets[m]) for i, m in enumerate(first)]), **EXACT)
    assert int(pool.tasks["task=t1"].counts.sum()) == 6


def test_the_majority_chooses_for_the_batch() -> None:
    manager, x = pooled(size=5, top_k=2, batchwise=True).eval(), images(6)
    votes = [m for row in likeness(manager, x) for m in ranked(row)[:2]]
    one, two = sorted(range(5), key=lambda m: -votes.count(m))[:2]
    expected = alone(x, mean([states(manager)[m] for m in (one, two)]))
    torch.testing.assert_close(manager.features(x, "t0"), expected, **EXACT)


def test_checkpointing_copies_saving_and_leaving(tmp_path: Path) -> None:
    for options in ({"size": 4, "top_k": 2}, {"choose": "own"}, {"choose": "mix", "per_task": 2, "keys": "block"}):
        manager, x = pooled(**options).train(), images()  # type: ignore[arg-type]
        found = []
        for twice in (False, True):
            manager.backbone.set_grad_checkpointing(twice)  # type: ignore[operator]
            manager.zero_grad()
            outputs = manager(x, ["t0", "t1", "t1", "t0"])
            (torch.stack([o.square().sum() for _, o in outputs.values()]).sum() + manager.penalty()).backward()
            found.append({n: p.grad.clone() for n, p in manager.named_parameters() if p.grad is not None})
        torch.testing.assert_close(found[1], found[0], **EXACT)
        manager.eval()
        twin = copy.deepcopy(manager)
        manager.save(tmp_path / str(options.get("choose", "top")))
        loaded = mtpeft.load(tmp_path / str(options.get("choose", "top")), tiny_backbone("vit").double()).eval()
        for other in (twin, loaded):
            assert torch.equal(other(x, "t1"), manager(x, "t1"))
        manager.remove_task("t0")
        manager.add_task("t2", num_classes=3)
        assert torch.isfinite(manager(x, "t2")).all() and manager.num_trainable("t2") > 0
        manager.detach()


def test_freezing_a_task_freezes_its_sets() -> None:
    manager = pooled(choose="own")
    manager.freeze_task("t0")
    frozen = [all(not p.requires_grad for p in made.parameters()) for made in source(manager)._sets()]
    assert frozen == [True, False]
    assert "(frozen)" in manager.table()


def test_clips_ask_by_the_mean_of_their_frames() -> None:
    manager = pooled(size=4, top_k=1).eval()
    clips = images(6).unflatten(0, (2, 3)).transpose(1, 2)
    found = manager.features(clips, "t0")
    for i, clip in enumerate(clips):
        q = queries(clip.transpose(0, 1)).mean(0)
        nearest = ranked([float(cosine(q, k)) for k in keys(manager)])[0]
        expected = alone(clip[None], states(manager)[nearest])
        torch.testing.assert_close(found[i : i + 1], expected, **EXACT)


BAD: list[tuple[Any, dict[str, Any], str]] = [
    ("ssf", {"size": 3, "top_k": 4}, "top_k is 4, but there are 3 sets"),
    ("ssf", {"per_task": 2, "top_k": 3}, "top_k is 3, but there are 2 sets when the first task is trained"),
    ("ssf", {"per_task": 2, "size": 3}, "leave one out"),
    ("ssf", {"choose": "own", "size": 3}, "per_task in place of size"),
    ("ssf", {"choose": "mix", "top_k": 2}, "choose='mix' uses all"),
    ("ssf", {"choose": "mix", "key_loss": 1.0}, "choose='mix' uses all"),
    ("ssf", {"choose": "mix", "batchwise": True}, "choose='mix' uses all"),
    ("ssf", {"from_previous": True}, "it needs per_task"),
    ("ssf", {"per_task": 1, "frequency": True}, "choose='top' with size"),
    ("ssf", {"per_task": 1, "from_previous": True, "start": "orthogonal"}, "exclude each other"),
    ("ssf", {"chose": "own"}, "Did you mean 'choose'"),
    ("ssf", {"size": 0}, "size is 0"),
    ("linear_probe", {}, "'linear_probe' has no weights of its own"),
    ("full", {}, "trains the backbone's own weights"),
    ("sct", {}, "'sct' is fitted to a task's data"),
    ("idpt", {}, "batch norm"),
    ("faar", {}, "faar"),
    ("fact_tt", {"keys": "block"}, "weights at model level"),
]


@pytest.mark.parametrize(("method", "sharing", "message"), BAD)
def test_what_cannot_be_is_one_line(method: str, sharing: dict[str, Any], message: str) -> None:
    backbone = tiny_backbone("vit")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(ConfigError) as error:
        mtpeft.attach(backbone, method, sharing={"name": "pool", **sharing})
    assert message in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    assert all(p.requires_grad for p in backbone.parameters())


def test_what_a_pool_cannot_serve_is_refused() -> None:
    manager = pooled("lora", choose="own")
    for use in (
        lambda: manager.backbone(images()),
        lambda: manager.merge("t0"),
        lambda: source(manager).bank("t0"),
    ):
        with pytest.raises(ConfigError, match=r"^sharing 'pool'"):
            use()
    with pytest.raises(ConfigError, match="asks the frozen backbone about each image, and method 'full'"):
        mtpeft.attach(
            tiny_backbone("vit"), [{"name": "lora", "sharing": "pool"}, {"name": "full", "sharing": "shared"}]
        )


@pytest.mark.slow
@pytest.mark.parametrize("sharing", [{"size": 4, "top_k": 2}, {"choose": "mix", "per_task": 2}])
def test_compiles_to_one_graph(sharing: dict[str, Any]) -> None:
    manager, x = pooled(**sharing).train(), images()
    expected = manager(x, "t1")
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: manager(x, "t1"), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, **EXACT)
