"""A manager given rows does what it does with the images: the same bits, in outputs and gradients, for every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mtpeft
from mtpeft.errors import ConfigError, DataError
from mtpeft.manager.manager import TaskManager
from mtpeft.manager.rows import take_rows
from mtpeft.testing.backbones import IMAGE_SIZE, TINY, tiny_backbone

#: method -> options; of those in blocks, the last one
METHODS: dict[str, dict[str, Any]] = {
    "linear_probe": {},
    "lst": {"sharing": "per_task"},
    "vqt": {"sharing": "per_task"},
    "lora": {"blocks": [-1]},
    "vpt_deep": {"blocks": [-1]},
    "adaptformer": {"blocks": [-1]},
}
FLAT = [name for name in TINY if name not in ("swin", "swinv2", "pvt_v2", "pvt", "convnext", "hiera")]
CASES = [
    (anatomy, method)
    for anatomy in TINY
    for method in METHODS
    if (anatomy in FLAT and method != "adaptformer")
    or method == "linear_probe"  # a side network and queries need one flat sequence
    or (method == "lora" and anatomy != "convnext")
    or (anatomy, method) in (("swin", "vpt_deep"), ("convnext", "adaptformer"))
]


def images(number: int = 3) -> torch.Tensor:
    return torch.randn(number, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(5))


def trained(anatomy: str, method: Any, heads: dict[str, Any] | None = None, **options: Any) -> TaskManager:
    """A manager whose weights are all away from where they start."""
    torch.manual_seed(1)
    manager = mtpeft.attach(tiny_backbone(anatomy), method, **options)
    for task, head in (heads or {"a": {"num_classes": 3}, "b": {"num_classes": 2}}).items():
        manager.add_task(task, **head)
    with torch.no_grad():
        for _, parameter in manager.trainable_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return manager


def both(manager: TaskManager, run: Callable[[torch.Tensor], Any]) -> None:
    """Outputs and gradients of `run` on images and on rows; they must be the same bits."""
    x = images()
    assert manager.frozen_part is not None
    found = []
    for given in (x, manager.frozen_part.rows(x)):
        manager.train().zero_grad()
        torch.manual_seed(3)  # dropout
        output = run(given)
        tensors = [output] if isinstance(output, torch.Tensor) else list(output.values())
        sum(t.square().sum() for t in tensors).backward()
        gradients = {n: p.grad for n, p in manager.trainable_parameters() if p.grad is not None}
        found.append((tensors, gradients))
    (given, own), (made, theirs) = found
    assert all(torch.equal(a, b) for a, b in zip(given, made, strict=True))
    assert own.keys() == theirs.keys() and own
    assert all(torch.equal(own[name], theirs[name]) for name in own)


@pytest.mark.parametrize(("anatomy", "method"), CASES)
def test_same_bits(anatomy: str, method: str) -> None:
    manager = trained(anatomy, method, **METHODS[method])
    before = {name: vars(module).get("forward") for name, module in manager.backbone.named_modules()}
    take_rows(manager)
    both(manager, lambda x: manager(x, "a"))
    assert before == {name: vars(module).get("forward") for name, module in manager.backbone.named_modules()}


@pytest.mark.parametrize(
    ("anatomy", "head"),
    [
        ("vit", "dense_linear"),
        *((pyramid, "segformer") for pyramid in ("swin", "pvt_v2", "pvt")),
        *((pyramid, "stage_linear") for pyramid in ("convnext", "hiera")),
    ],
)
def test_maps_of_all_stages(anatomy: str, head: str) -> None:
    heads = {"maps": {"head": head, "channels": 2}, "labels": {"num_classes": 3}}
    manager = trained(anatomy, {"name": "adaptformer" if anatomy == "convnext" else "lora", "blocks": [-1]}, heads)
    take_rows(manager)
    both(manager, lambda x: manager(x, "maps"))
    both(manager, lambda x: manager(x, "labels"))


def test_images_of_another_size() -> None:
    manager = mtpeft.attach(mtpeft.create_backbone("vit_mini_patch4_32", False, dynamic_img_size=True), "lst")
    manager.add_task("a", num_classes=3)
    part = take_rows(manager, image_size=(40, 24))
    x = torch.randn(3, 3, 40, 24)
    assert torch.equal(manager.eval()(x, "a"), manager(part.rows(x), "a"))
    with pytest.raises(DataError, match="rows are made for 40 x 24"):
        part.rows(torch.randn(3, 3, 32, 32))


def test_several_tasks_in_a_batch() -> None:
    manager = trained("vit", {"name": "lora", "blocks": [1]}, sharing="per_task")
    take_rows(manager)
    tasks = ["a", "b", "a"]
    both(manager, lambda x: {name: output for name, (_, output) in manager(x, tasks).items()})
    both(manager, lambda x: manager.forward_tasks(x, ["a", "b"]))


def test_the_earliest_site_of_several_methods() -> None:
    manager = trained("vit", ["vqt", {"name": "adaptformer", "blocks": [1]}], sharing="shared")
    part = take_rows(manager)
    assert part.words == "what enters the first block, what leaves block 0, keys and values of block 0"
    both(manager, lambda x: manager(x, "a"))


def test_a_norm_behind_the_blocks() -> None:
    manager = trained("vit", {"name": "ln_tune", "exclude": ["norm1", "norm2"]})
    part = take_rows(manager)
    assert part.words == "what leaves block 1"
    both(manager, lambda x: manager(x, "a"))


def test_gradient_checkpointing() -> None:
    manager = trained("vit", {"name": "lora", "blocks": [1]})
    manager.backbone.set_grad_checkpointing(True)
    take_rows(manager)
    both(manager, lambda x: manager(x, "a"))


def test_half_precision() -> None:
    """Rows made under autocast are those of its forwards; others have a layout of their own."""
    manager = trained("vit", {"name": "lora", "blocks": [1]})
    part = take_rows(manager)
    plain, x = part.layout, images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(manager(x, "a"), manager(part.rows(x), "a"))
        assert part.precision == "torch.bfloat16" and part.layout is not plain
    assert part.layout is plain and part.precision == "torch.float32"


@pytest.mark.parametrize(
    ("method", "options", "why"),
    [
        ("lora", {}, "'blocks-0-attn-qkv-q' is trained, in or before the first block"),
        ("vp", {}, "nothing of the backbone precedes what is trained: 'patch_embed-pixels'"),
        ("full", {}, "no part of it is frozen"),
        ("linear_probe", {"backbone_train_mode": True}, "drops at random"),
    ],
)
def test_nothing_to_keep(method: str, options: dict[str, Any], why: str) -> None:
    manager = trained("vit", method, **options)
    with pytest.raises(ConfigError, match=why):
        take_rows(manager)
    assert manager.frozen_part is None


def test_wrong_rows() -> None:
    manager = trained("vit", "linear_probe")
    with pytest.raises(DataError, match="images have shape"):
        manager(torch.zeros(2, 48), "a")
    take_rows(manager)
    with pytest.raises(DataError, match="rows have 47 numbers, expected 48: pooled features"):
        manager(torch.zeros(2, 47), "a")
    manager.add_task("maps", head="dense_linear", channels=2)
    with pytest.raises(DataError, match="rows hold pooled features"):
        manager(torch.zeros(2, 48), "maps")


def test_a_model_that_has_its_own_way_is_refused() -> None:
    """The trial on noise sees that the blocks' outputs are not all that features depend on."""
    backbone: Any = tiny_backbone("vit")
    native = backbone.forward_features
    backbone.forward_features = lambda x: native(x) + x.mean()
    manager = mtpeft.attach(backbone, {"name": "lora", "blocks": [1]})
    manager.add_task("a", num_classes=3)
    with pytest.raises(ConfigError, match="cannot go on from the middle"):
        take_rows(manager)
