"""The task manager as users see it: tasks, mixed batches, freezing, counting, combining methods, errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import mtpeft
from mtpeft.errors import ConfigError, MtpeftError, UnknownNameError
from mtpeft.manager.attach import create_backbone
from mtpeft.manager.manager import TaskManager
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import Case, Snapshot, gradients, images, perturb, scalar


def two_tasks(method: Any = "lora", anatomy: str = "vit", **options: Any) -> TaskManager:
    manager = mtpeft.attach(tiny_backbone(anatomy), method, **options)
    manager.add_task("birds", num_classes=3)
    manager.add_task("cars", num_classes=5)
    perturb(manager)
    return manager


def train(manager: TaskManager, task: str, steps: int = 3) -> None:
    """AdamW with momentum and weight decay over everything trainable, whatever task it belongs to."""
    manager.train()
    optimizer = torch.optim.AdamW([p for _, p in manager.trainable_parameters()], lr=0.05, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(manager(images(), task), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()


def weights_of(manager: TaskManager, task: str) -> dict[str, bytes]:
    own = {n: p for n, p in manager.trained_state().items() if f"task={task}." in n}
    assert own
    return {name: tensor.numpy().tobytes() for name, tensor in own.items()}


def test_a_task_is_added_used_and_removed() -> None:
    manager = two_tasks()
    assert manager.tasks == ["birds", "cars"]
    assert manager(images(2), "birds").shape == (2, 3)
    assert manager(images(2), "cars").shape == (2, 5)
    torch.testing.assert_close(
        manager(images(2)), manager(images(2), "birds")
    )  # the first task serves calls without one
    cars = manager(images(2), "cars")
    manager.remove_task("birds")
    assert manager.tasks == ["cars"]
    assert not any("birds" in name for name in manager.state_dict())
    torch.testing.assert_close(manager(images(2)), cars, atol=0, rtol=0)
    with pytest.raises(UnknownNameError, match="unknown task 'birds'"):
        manager(images(2), "birds")
    manager.remove_task("cars")
    with pytest.raises(ConfigError, match="no task has been added yet"):
        manager(images(2))


def test_without_a_task_the_backbone_is_itself() -> None:
    backbone: Any = tiny_backbone("vit")
    expected = backbone(images(2))
    mtpeft.attach(backbone, "vpt_deep")
    torch.testing.assert_close(backbone(images(2)), expected, atol=0, rtol=0)


def test_the_backbone_called_directly_uses_the_chosen_task() -> None:
    manager = two_tasks()
    backbone: Any = manager.backbone
    for task in ("birds", "cars"):
        manager.set_task(task)
        torch.testing.assert_close(backbone(images(2)), manager.features(images(2), task), atol=0, rtol=0)
    other = "birds"
    manager(images(2), other)
    torch.testing.assert_close(backbone(images(2)), manager.features(images(2), "cars"), atol=0, rtol=0)


def test_training_one_task_leaves_isolated_tasks_as_they_are() -> None:
    manager = two_tasks()
    assert manager.isolated and manager.backbone_unchanged()
    # an optimiser that never saw a gradient of cars must not move it: no momentum, no decay
    before, outputs = weights_of(manager, "cars"), manager(images(), "cars")
    train(manager, "birds")
    assert weights_of(manager, "cars") == before
    torch.testing.assert_close(manager(images(), "cars"), outputs, atol=0, rtol=0)
    assert manager.backbone_unchanged()


def test_shared_weights_are_not_isolated() -> None:
    assert not two_tasks(sharing="shared").isolated
    assert not mtpeft.attach(tiny_backbone("vit"), "full").isolated
    assert mtpeft.attach(tiny_backbone("vit"), "linear_probe", sharing="shared").isolated  # nothing there to share
    manager = two_tasks(sharing="shared")
    before = manager(images(), "cars")
    train(manager, "birds")
    assert not torch.equal(manager(images(), "cars"), before)


@pytest.mark.parametrize("sharing", ["per_task", "shared"])
def test_a_frozen_task_gets_no_gradient_and_keeps_its_bytes(sharing: str) -> None:
    manager = two_tasks(sharing=sharing)
    manager.freeze_task("cars")
    before = weights_of(manager, "cars")
    outputs = manager(images(), ["birds", "cars", "birds", "cars"])
    found = gradients(manager, scalar(outputs["birds"][1]) + scalar(outputs["cars"][1]))
    assert found and not any("cars" in name for name in found)
    train(manager, "birds")
    assert weights_of(manager, "cars") == before
    assert "cars (frozen)" in manager.table()
    manager.freeze_task("cars", frozen=False)
    assert any("cars" in name for name in gradients(manager, scalar(manager(images(), "cars"))))


def test_a_task_added_after_freezing_is_trainable() -> None:
    manager = two_tasks()
    manager.freeze_task("birds")
    manager.add_task("dogs", num_classes=2)
    assert manager.num_trainable("birds") == 0
    assert manager.num_trainable("dogs") > 0


def test_growing_head() -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), "lora")
    manager.add_task("first", num_classes=3, head="growing")
    old = manager(images(2), "first")
    manager.add_task("second", num_classes=2, head="growing")
    head: Any = manager.head("first")
    assert head is manager.head("second")
    assert head.classes("first") == range(3) and head.classes("second") == range(3, 5)
    logits = manager(images(2), "first")
    assert logits.shape == (2, 5)
    torch.testing.assert_close(logits[:, :3], old, atol=0, rtol=0)
    masked = head.masked(logits, "second")
    assert torch.isinf(masked[:, :3]).all() and torch.equal(masked[:, 3:], logits[:, 3:])
    assert set(masked.argmax(dim=1).tolist()) <= {3, 4}
    rows, part = manager(images(3), ["second", "first", "second"])["second"]
    assert rows.tolist() == [0, 2] and part.shape == (2, 5)
    manager.freeze_task("first")
    found = gradients(manager, scalar(manager(images(2), "second")))
    assert not any("task=first" in name for name in found) and any("task=second" in name for name in found)
    with pytest.raises(ConfigError, match="task 'first' cannot leave the growing head before the tasks added after it"):
        manager.remove_task("first")
    assert manager.tasks == ["first", "second"]
    manager.remove_task("second")
    torch.testing.assert_close(manager(images(2), "first"), old, atol=0, rtol=0)
    manager.remove_task("first")
    assert len(manager.heads) == 0
    with pytest.raises(ConfigError, match="head 'growing' needs the option 'num_classes'"):
        manager.add_task("third", head="growing")


def test_mixed_outputs_keep_the_order_of_first_appearance() -> None:
    manager = two_tasks()
    manager.add_task("depth", head="dense_linear", channels=2)
    outputs = manager(images(6), ["depth", "cars", "cars", "birds", "depth", "cars"])
    assert list(outputs) == ["depth", "cars", "birds"]
    assert [rows.tolist() for rows, _ in outputs.values()] == [[0, 4], [1, 2, 5], [3]]
    assert [tuple(out.shape) for _, out in outputs.values()] == [(2, 2, 64, 64), (3, 5), (1, 3)]
    alone = manager(images(6), ["cars"] * 6)
    assert list(alone) == ["cars"] and alone["cars"][0].tolist() == list(range(6))
    torch.testing.assert_close(alone["cars"][1], manager(images(6), "cars"))


def test_forward_indexed_allows_tasks_without_a_sample() -> None:
    manager = two_tasks()
    outputs = manager.forward_indexed(images(2), ["birds", "cars"], torch.tensor([1, 1]))
    assert outputs["birds"][1].shape == (0, 3)
    torch.testing.assert_close(outputs["cars"][1], manager(images(2), "cars"))


@pytest.mark.parametrize("sharing", ["per_task", "shared"])
def test_forward_tasks_serves_every_image_to_every_task(sharing: str) -> None:
    manager = two_tasks(sharing=sharing)
    manager.add_task("depth", head="dense_linear", channels=1)
    passes: list[int] = []
    manager.backbone.patch_embed.register_forward_hook(lambda *_: passes.append(1))  # type: ignore[union-attr]
    outputs = manager.forward_tasks(images(2), ["cars", "depth"])
    assert len(passes) == (1 if sharing == "shared" else 2)
    assert list(outputs) == ["cars", "depth"]
    for task, output in outputs.items():
        torch.testing.assert_close(output, manager(images(2), task))


def test_custom_heads_and_head_configs() -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), "lora")
    manager.add_task("own", head=nn.Sequential(nn.Linear(48, 4), nn.ReLU()))
    manager.add_task("config", head={"name": "linear", "num_classes": 6})
    manager.add_task("stride", head="dense_linear", channels=1, stride=2)
    assert manager(images(2), "own").shape == (2, 4)
    assert manager(images(2), "config").shape == (2, 6)
    assert manager(images(2), "stride").shape == (2, 1, 8, 8)


def test_train_keeps_the_frozen_backbone_in_eval_mode() -> None:
    manager = two_tasks(dropout=0.5)
    manager.train()
    assert manager.training and manager.attachments[0].training
    assert not any(module.training for module in manager.backbone.modules())
    manager.eval()
    manager.add_task("dogs", num_classes=2)
    assert not any(module.training for module in manager.modules())  # a new task follows the manager's mode
    asked = mtpeft.attach(tiny_backbone("vit"), "lora", backbone_train_mode=True).train()
    assert all(module.training for module in asked.backbone.modules())
    assert mtpeft.attach(tiny_backbone("vit"), "full").train().backbone.training


class NormedBatch(nn.Module):
    """A batch norm over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_statistics_of_a_frozen_batch_norm_stay_as_pre_trained(method: str) -> None:
    backbone: Any = tiny_backbone("vit")
    backbone.patch_embed.norm = NormedBatch()
    manager = mtpeft.attach(backbone, method, backbone_train_mode=True)
    manager.add_task("birds", num_classes=2)
    manager.train()(images(4), "birds").sum().backward()
    assert backbone.blocks[0].training and backbone.patch_embed.norm.norm.training == (method == "full")
    assert manager.backbone_unchanged() == (method == "lora")


def test_half_precision_follows_the_backbone() -> None:
    manager = two_tasks_on(tiny_backbone("vit").to(torch.bfloat16))
    assert {p.dtype for p in manager.parameters()} == {torch.bfloat16}
    assert manager(images(2, torch.bfloat16), ["birds", "cars"])["cars"][1].dtype == torch.bfloat16


def two_tasks_on(backbone: nn.Module) -> TaskManager:
    manager = mtpeft.attach(backbone, "adaptformer")
    manager.add_task("birds", num_classes=3)
    manager.add_task("cars", num_classes=5)
    return manager


def test_counts_and_table() -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), ["lora", "bitfit"])
    manager.add_task("birds", num_classes=3)
    manager.add_task("cars", num_classes=5)
    counts = manager.counts("birds")
    assert (counts.method, counts.head) == (2 * 2 * 2 * 8 * 48, 3 * 49)
    assert counts.norm_bias == 2 * 11 * 48 + 2 * 48
    assert counts.total == counts.method + counts.norm_bias + counts.head == manager.num_trainable("birds")
    assert manager.num_trainable() == counts.total + manager.num_trainable("cars")
    assert manager.num_trainable(heads=False) == 2 * (counts.method + counts.norm_bias)
    table = manager.table()
    assert "VisionTransformer" in table and "lora (per_task) + bitfit (per_task)" in table
    row = next(line for line in table.splitlines() if "birds" in line)
    percent = f"{100 * counts.total / counts.frozen:.2f} %"
    for cell in (f"{counts.method:,}", f"{counts.norm_bias:,}", f"{counts.total:,}", percent):
        assert cell in row
    assert f"{manager.num_trainable():,}" in table and "Counted per task" in table


def test_shared_weights_count_once() -> None:
    manager = two_tasks(sharing="shared")
    heads = 49 * (3 + 5)
    assert manager.num_trainable() == manager.num_trainable("birds", heads=False) + heads


COMBINATIONS = [
    ["lora", "vpt_deep"],
    ["adaptformer", "vqt"],
    ["ssf", "prefix_tuning", "houlsby"],
    ["vpt_shallow", "vpt_deep"],
]


@pytest.mark.parametrize("methods", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("anatomy", ["vit", "eva"])
def test_methods_combine(methods: list[str], anatomy: str, tmp_path: Any) -> None:
    backbone = tiny_backbone(anatomy)
    before = Snapshot(backbone, Case("lora", anatomy))
    manager = mtpeft.attach(backbone, methods)
    manager.add_task("birds", num_classes=3)
    manager.add_task("cars", num_classes=5)
    perturb(manager)
    manager.eval()
    for rows, part, task in ((r, p, t) for t, (r, p) in manager(images(3), ["birds", "cars", "birds"]).items()):
        torch.testing.assert_close(part, manager(images(3)[rows], task), atol=1e-5, rtol=1e-4)
    found = gradients(manager, scalar(manager(images(2), "cars")))
    assert found.keys() == {name for name, _ in manager.trainable_parameters("cars")}
    manager.save(tmp_path)
    loaded = mtpeft.load(tmp_path, tiny_backbone(anatomy)).eval()
    torch.testing.assert_close(loaded(images(2), "cars"), manager(images(2), "cars"), atol=0, rtol=0)
    before.compare(manager.detach(), "after detach")


def test_a_list_carries_options_and_sharing_per_method() -> None:
    manager = two_tasks([{"name": "lora", "rank": 2, "sharing": "shared"}, {"name": "bitfit"}])
    assert [a.sharing_name for a in manager.attachments] == ["shared", "per_task"]
    assert manager.attachments[0].config.rank == 2  # type: ignore[union-attr]
    assert not manager.isolated


def test_deep_copy_of_two_methods_is_independent() -> None:
    manager = two_tasks(["lora", "vqt"]).eval()
    twin = copy.deepcopy(manager)
    train(twin, "birds")
    twin.eval()
    assert not torch.equal(twin.features(images(2), "birds"), manager.features(images(2), "birds"))
    twin.detach()
    assert manager(images(2), "birds").shape == (2, 3)


def test_merge_of_several_methods_and_refusal_by_name() -> None:
    manager = two_tasks(["lora", "ssf", "bitfit"]).eval()
    plain: Any = manager.merge("cars")
    torch.testing.assert_close(plain(images(2)), manager(images(2), "cars"), atol=1e-4, rtol=1e-4)
    assert type(plain) is type(manager.backbone) and plain.get_classifier().out_features == 5
    with pytest.raises(ConfigError, match="method 'vpt_deep' does not fold into the backbone"):
        two_tasks(["lora", "vpt_deep"]).merge("cars")


ERRORS: list[tuple[Any, str]] = [
    (lambda m: m(images(2), "bird"), "unknown task 'bird'. Did you mean 'birds'?"),
    (lambda m: m(images(2), ["birds", "car"]), "unknown task 'car'. Did you mean 'cars'?"),
    (lambda m: m(images(2), ["birds"]), "1 task names for a batch of 2 images; give one name per image"),
    (lambda m: m(images(2)[:, :, :32], "birds"), "images are 32 x 64; the backbone takes 64 x 64: resize them"),
    (lambda m: m(images(2)[:, :1], "birds"), "images have shape (2, 1, 64, 64); the backbone takes (B, 3, H, W)"),
    (lambda m: m(images(2)[0], "birds"), "images have shape (3, 64, 64); the backbone takes (B, 3, H, W)"),
    (lambda m: m.add_task("birds", num_classes=2), "task 'birds' exists already"),
    (lambda m: m.add_task("a.b", num_classes=2), "task name 'a.b': use letters, digits, spaces, '_' and '-'"),
    (lambda m: m.add_task("dogs", num_classes=0), "head 'linear': num_classes is 0, expected a whole number from 1"),
    (lambda m: m.add_task("dogs"), "head 'linear' needs the option 'num_classes'"),
    (lambda m: m.add_task("dogs", head="lineal", num_classes=2), "unknown head 'lineal'. Did you mean 'linear'"),
    (
        lambda m: m.add_task("dogs", num_classes=2, clases=3),
        "head 'linear' takes no option 'clases'",
    ),
    (lambda m: m.freeze_task("dog"), "unknown task 'dog'"),
    (lambda m: m.set_task("dog"), "unknown task 'dog'"),
    (lambda m: m.merge("dog"), "unknown task 'dog'"),
    (lambda m: m.forward_tasks(images(2), ["birds", "dog"]), "unknown task 'dog'"),
    (lambda m: mtpeft.attach(m.backbone, "lora"), "this backbone has methods attached already; detach() it first"),
    (lambda m: mtpeft.attach(m.backbone, "linear_probe"), "this backbone has methods attached already"),
]


@pytest.mark.parametrize(("mistake", "message"), ERRORS, ids=[message[:30] for _, message in ERRORS])
def test_mistakes_are_one_line_and_change_nothing(mistake: Any, message: str) -> None:
    manager = two_tasks().eval()
    before, tasks = manager(images(2), "birds"), manager.tasks
    with pytest.raises(MtpeftError) as error:
        mistake(manager)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert manager.tasks == tasks
    torch.testing.assert_close(manager(images(2), "birds"), before, atol=0, rtol=0)


ATTACH_ERRORS: list[tuple[Any, dict[str, Any], str]] = [
    ("lorra", {}, "unknown method 'lorra'. Did you mean 'lora'"),
    ("lora", {"ranks": 4}, "method 'lora' takes no option 'ranks'. Did you mean 'rank' or 'rank_stabilized'?"),
    ("lora", {"sharing": "shard"}, "unknown sharing 'shard'. Did you mean 'shared'?"),
    ("full", {"sharing": "per_task"}, "method 'full' trains the backbone's own weights, which all tasks share"),
    ("lora", {"sites": ["qq"]}, "method 'lora' cannot be attached to VisionTransformer: unknown site 'qq'"),
    (
        "lora",
        {"blocks": [5]},
        "method 'lora' cannot be attached to VisionTransformer: blocks [5] are out of range: the backbone has 2 blocks",
    ),
    ("lst", {"reduction": 5}, "method 'lst' cannot be attached to VisionTransformer: reduction=5 gives a width of 9.6"),
    ("vp", {"prompt_size": 40}, "prompt_size=40 does not fit images of 64 x 64; give 1 to 31"),
    ("vp", {"template": "ring"}, "template is 'ring', expected one of padding, fixed_patch, random_patch"),
    ("adaptformer", {"adapter_ln": "both"}, "adapter_ln is 'both', expected one of none, in, out"),
    ("houlsby", {"activation": "tanh"}, "activation is 'tanh', expected one of relu, gelu, silu"),
    ("convpass", {"conv_init": "zero"}, "conv_init is 'zero', expected one of identity, xavier"),
    ("lst", {"init": "zero"}, "init is 'zero', expected one of prune, fisher, random"),
    (
        "fact_tt",
        {"sites": ["norm1"]},
        "method 'fact_tt' cannot be attached to VisionTransformer: it acts on q, k, v, proj, fc1, fc2, not on 'norm1'",
    ),
    (["lora", {"rank": 3}], {}, "method is {'rank': 3}, expected a name, or a mapping with a 'name'"),
    (["lora", "ssf"], {"rank": 3}, "options ['rank'] belong to one method"),
    (["lora", "no_such"], {}, "unknown method 'no_such'"),
]


@pytest.mark.parametrize(
    ("method", "options", "message"), ATTACH_ERRORS, ids=[message[:40] for _, _, message in ATTACH_ERRORS]
)
def test_a_failed_attach_is_one_line_and_leaves_the_backbone_as_it_was(
    method: Any, options: dict[str, Any], message: str
) -> None:
    backbone = tiny_backbone("vit").train()
    next(backbone.parameters()).requires_grad_(False)
    before = Snapshot(backbone, Case("lora", "vit"))
    with pytest.raises(MtpeftError) as error:
        mtpeft.attach(backbone, method, **options)
    assert message in str(error.value) and "\n" not in str(error.value)
    before.compare(backbone, "after a failed attach")


def test_a_config_object_serves_as_a_method() -> None:
    from mtpeft.methods.reparameter.lora import LoRAConfig

    manager = mtpeft.attach(tiny_backbone("vit"), LoRAConfig(rank=2))
    assert manager.attachments[0].config.rank == 2  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"options \['rank'\] beside a config object"):
        mtpeft.attach(tiny_backbone("vit"), LoRAConfig(rank=2), rank=3)


def test_backbones_by_name() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown model 'vit_base_patch16_225'\. Did you mean .*vit_base_patch16_224"
    ):
        mtpeft.attach("vit_base_patch16_225", "lora")
    manager = mtpeft.attach("vit_tiny_patch16_224", "lora", pretrained=False)
    assert manager.feature_dim == 192


def test_detach_and_attach_again() -> None:
    backbone = two_tasks().detach()
    manager = mtpeft.attach(backbone, "adaptformer")
    manager.add_task("birds", num_classes=3)
    assert manager(images(2), "birds").shape == (2, 3)


def test_a_task_whose_weights_cannot_be_built_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = two_tasks(["lora", "bitfit"])
    keys = list(manager.state_dict())

    def fails() -> Any:
        raise ConfigError("no room")

    monkeypatch.setattr(manager.attachments[1].weights, "factory", fails)
    for head in ("linear", "growing"):
        with pytest.raises(ConfigError, match="no room"):
            manager.add_task("dogs", num_classes=2, head=head)
    assert list(manager.state_dict()) == keys and manager.tasks == ["birds", "cars"]
    monkeypatch.undo()
    manager.add_task("dogs", num_classes=2)
    assert manager(images(2), "dogs").shape == (2, 2)


def test_an_option_the_model_does_not_have_is_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"'vit_mini_patch4_32' cannot be created: got an unexpected keyword .*'depht'"
    ) as error:
        create_backbone("vit_mini_patch4_32", pretrained=False, depht=1)
    assert "\n" not in str(error.value)
