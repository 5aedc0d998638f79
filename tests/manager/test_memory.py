"""Bytes of a task in training, against counts made by hand and by watching every operation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mtpeft
from mtpeft.manager.manager import TaskManager
from mtpeft.manager.memory import backbone_bytes, measure_memory, optimizer_bytes, saved_bytes
from mtpeft.methods import METHODS
from mtpeft.runs.step_memory import StepMemory
from mtpeft.testing.backbones import tiny_backbone


def manager_of(method: str, **options: object) -> TaskManager:
    """One task of three classes on a ViT of two blocks, 16 tokens and a class token, 48 wide, ready to train."""
    manager = mtpeft.attach(tiny_backbone("vit"), method, **options)
    manager.add_task("birds", num_classes=3)
    return manager.train()


def kept(manager: TaskManager, batch: int) -> int:
    """What a forward pass leaves in memory beside its output, by watching every operation."""
    images = torch.zeros(batch, 3, 64, 64)
    with StepMemory() as seen:
        output = manager(images, "birds")
        left = seen.live
    return left - output.untyped_storage().nbytes()


def test_a_perceptron_by_hand() -> None:
    """Kept: the inputs of both layers and of the ReLU's backward (its output); the input itself is not counted."""
    net, x = nn.Sequential(nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 5)), torch.zeros(8, 10)
    assert saved_bytes(lambda: net(x), [x, *net.parameters()]) == 4 * 8 * 100
    assert saved_bytes(lambda: net(x).exp(), [x, *net.parameters()]) == 4 * 8 * (100 + 5)
    assert saved_bytes(lambda: net(x), net.parameters()) == 4 * 8 * (100 + 10)
    with torch.no_grad():
        assert saved_bytes(lambda: net(x.requires_grad_()), [x]) > 0  # training has gradients, whatever is around it


@pytest.mark.parametrize(
    "method",
    ["full", "lora", "adaptformer", "ssf", "vpt_deep", "prefix_tuning", "bitfit", "vqt", "lst", "linear_probe"],
)
def test_activations_are_what_the_forward_pass_leaves(method: str) -> None:
    """Hooks of autograd and the count of every storage that lives on agree."""
    manager = manager_of(method)
    memory = manager.memory("birds")
    for batch in (2, 5):
        assert memory.fixed + batch * memory.activations == pytest.approx(kept(manager, batch), rel=0.02)


def test_methods_that_claim_little_memory_have_it() -> None:
    """Those whose backbone runs without gradients keep a fraction of what LoRA keeps.

    Convolutions that see the image keep more than a tiny backbone's own.
    """
    lora = manager_of("lora").memory("birds").activations
    efficient = [name for name in METHODS if METHODS.get(name).properties.memory_efficient]
    assert "lst" in efficient
    for name in efficient:
        if "pixels" in METHODS.get(name).build_config({}).sites:
            continue
        assert manager_of(name).memory("birds").activations < 0.6 * lora, name


def test_gradient_checkpointing_keeps_the_inputs_of_blocks_alone() -> None:
    manager = manager_of("lora")
    plain = manager.memory("birds")
    manager.backbone.set_grad_checkpointing(True)
    memory = manager.memory("birds")
    assert memory.activations < 0.2 * plain.activations
    assert memory.activations >= 2 * 4 * 17 * 48  # two blocks
    assert memory.fixed + 3 * memory.activations == pytest.approx(kept(manager, 3), rel=0.1)


def test_half_precision_halves_activations() -> None:
    manager = manager_of("lora")
    found = measure_memory(manager, autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16))["birds"]
    plain = manager.memory("birds")
    assert 0.45 * plain.activations < found.activations < 0.75 * plain.activations
    assert found.fixed > plain.fixed  # the weights' copies in bfloat16


def test_weights_gradients_and_the_optimizer() -> None:
    manager = manager_of("lora", rank=2)
    memory, counts = manager.memory("birds"), manager.counts("birds")
    assert (memory.method, memory.head) == (4 * counts.method, 4 * counts.head)
    assert memory.gradients == 4 * counts.total
    tensors = len(list(manager.trainable_parameters("birds")))
    assert memory.optimizer == 8 * counts.total + 4 * tensors
    assert backbone_bytes(manager) == 4 * counts.frozen
    full = manager_of("full")
    assert full.memory("birds").gradients == 4 * full.num_trainable("birds") > 4 * full.counts("birds").backbone


@pytest.mark.parametrize(
    ("make", "copies", "single"),
    [
        (lambda p: torch.optim.AdamW(p), 2, 4),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), 3, 4),
        (lambda p: torch.optim.SGD(p, lr=0.1), 0, 0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 1, 0),
    ],
)
def test_the_state_of_optimizers(make: object, copies: int, single: int) -> None:
    """As the optimiser itself has it after a step."""
    weights = [nn.Parameter(torch.zeros(3, 5)), nn.Parameter(torch.zeros(7))]
    assert optimizer_bytes(weights, make) == copies * 4 * 22 + 2 * single
    optimizer = make(weights)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    state = [t for own in optimizer.state.values() for t in own.values() if isinstance(t, torch.Tensor)]
    assert optimizer_bytes(weights, make) == sum(t.numel() * t.element_size() for t in state)


def test_measuring_leaves_everything_as_it_was() -> None:
    """Mode, random numbers, statistics of batch norm; a batch norm needs two images, and gets them."""
    manager = mtpeft.attach(tiny_backbone("vit"), "lora", dropout=0.5)
    manager.add_task("birds", head=nn.Sequential(nn.BatchNorm1d(48), nn.Linear(48, 3)))
    manager.eval()
    random, state = torch.get_rng_state(), {k: v.clone() for k, v in manager.state_dict().items()}
    assert manager.memory("birds").activations > 0
    assert not manager.training and torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(v, state[k]) for k, v in manager.state_dict().items())
    assert all(p.grad is None for p in manager.parameters())


def test_tasks_that_are_alike_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), "lora")
    for number in range(5):
        manager.add_task(f"task{number}", num_classes=3)
    manager.add_task("other", num_classes=7)
    manager.freeze_task("task4")
    runs = []
    forward = TaskManager.forward
    monkeypatch.setattr(TaskManager, "forward", lambda *args: runs.append(args[2]) or forward(*args))
    found = measure_memory(manager)
    assert len({(m.method, m.activations) for name, m in found.items() if name in ("task0", "task3")}) == 1
    assert dict.fromkeys(runs) == dict.fromkeys(["task0", "task4", "other"])
    assert found["task4"].gradients == found["task4"].optimizer == found["task4"].activations == 0  # frozen


def test_clips_keep_as_many_times_what_an_image_keeps() -> None:
    manager = manager_of("lora")
    clip = measure_memory(manager, shapes={"birds": (3, 4, 64, 64)})["birds"]
    assert clip.activations == pytest.approx(4 * manager.memory("birds").activations, rel=0.05)


def test_the_table_is_80_columns_wide() -> None:
    table = manager_of("adaptformer").table()
    assert "optimiser" in table and "(AdamW)" in table and "Bytes per task while it is trained" in table
    assert max(map(len, table.splitlines())) <= 80
    assert "birds" not in mtpeft.attach(tiny_backbone("vit"), "lora").table()
