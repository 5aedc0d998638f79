"""A batch of many tasks in one pass, against the plain backbone, one task, and peft's `adapter_names`.

Two settings, inference: a tiny ViT at 32 px (4 patches: nearly all overhead), LoRA on qkv, fc1 and fc2, batch 32, with
1 to 32 tasks; and ViT-S at 224 px, batch 16, 16 tasks, LoRA on q and v and AdaptFormer of width 8.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peft
import torch
from _common import arguments, goal, interleave, milliseconds, ratio, show, wake, write
from torch import nn

import mtpeft
from mtpeft.manager.attach import create_backbone

SITES = ("qkv", "fc1", "fc2")
CLASSES = 10
Rows = dict[str, tuple[float, float]]  # case -> milliseconds, ratio


def inference(call: Callable[[], object]) -> Callable[[], object]:
    """`call` without autograd."""

    def run() -> object:
        with torch.inference_mode():
            return call()

    return run


def ours(backbone: nn.Module, method: str, tasks: int, **options: Any) -> mtpeft.TaskManager:
    """A manager on a copy of the backbone, with `tasks` tasks of `CLASSES` classes."""
    manager = mtpeft.attach(copy.deepcopy(backbone), method, **options)
    for task in range(tasks):
        manager.add_task(f"t{task}", num_classes=CLASSES)
    wake(manager.attachments)
    return manager.eval()


def theirs(backbone: nn.Module, targets: tuple[str, ...], tasks: int) -> nn.Module:
    """A peft model with one LoRA of rank 8 per task on the modules named `targets`."""
    config = peft.LoraConfig(r=8, lora_alpha=8, target_modules=list(targets))
    model = peft.get_peft_model(copy.deepcopy(backbone), config, adapter_name="t0")
    for task in range(1, tasks):
        model.add_adapter(f"t{task}", config)
    wake(model)
    return model.eval()


def spread(tasks: int, batch: int) -> list[str]:
    """Task names of a batch: t0 t1 ... t0 t1 ..."""
    return [f"t{position % tasks}" for position in range(batch)]


def tiny(counts: tuple[int, ...], repeats: int) -> tuple[Rows, list[dict[str, Any]]]:
    """ViT-Ti at 32 px: overhead per site decides."""
    backbone = create_backbone("vit_tiny_patch16_224", pretrained=False, img_size=32).eval()
    images = torch.randn(32, 3, 32, 32)
    manager, model = ours(backbone, "lora", max(counts), sites=SITES), theirs(backbone, SITES, max(counts))
    cases: dict[str, Callable[[], object]] = {
        "plain": lambda: backbone(images),
        "mtpeft one task": lambda: manager(images, "t0"),
        "peft one task": lambda: model(images),
    }
    for count in counts:
        names = spread(count, 32)
        cases[f"mtpeft mixed {count}"] = lambda names=names: manager(images, names)
        cases[f"peft mixed {count}"] = lambda names=names: model(images, adapter_names=names)
    times = interleave({name: inference(call) for name, call in cases.items()}, repeats, warmup=2)
    rows = {n: (milliseconds(times)[n], ratio(times, n, f"{n.split()[0]} one task")) for n in cases if n != "plain"}
    show("ViT-Ti at 32 px, batch 32, LoRA r=8 on qkv, fc1, fc2, inference", rows, ("ms", "x one task"))
    last = max(counts)
    return rows, [
        goal(f"ViT-Ti 32 px, mixed batch of {last} tasks / one task", rows[f"mtpeft mixed {last}"][1], 2.0),
        goal(
            f"ViT-Ti 32 px, that ratio / peft's own ratio at {last} tasks",
            rows[f"mtpeft mixed {last}"][1] / rows[f"peft mixed {last}"][1],
            1.0,
        ),
    ]


def small(repeats: int) -> tuple[Rows, list[dict[str, Any]]]:
    """ViT-S at 224 px: arithmetic decides."""
    backbone = create_backbone("vit_small_patch16_224", pretrained=False).eval()
    images, names = torch.randn(16, 3, 224, 224), spread(16, 16)
    head = nn.Linear(384, CLASSES)
    lora, adapter = ours(backbone, "lora", 16), ours(backbone, "adaptformer", 16, bottleneck_dim=8)
    like_peft, model = ours(backbone, "lora", 16, sites=("qkv",)), theirs(backbone, ("qkv",), 16)
    cases: dict[str, Callable[[], object]] = {
        "plain": lambda: head(backbone(images)),
        "mtpeft lora q, v: one task": lambda: lora(images, "t0"),
        "mtpeft lora q, v: 16 tasks": lambda: lora(images, names),
        "mtpeft adaptformer 8: one task": lambda: adapter(images, "t0"),
        "mtpeft adaptformer 8: 16 tasks": lambda: adapter(images, names),
        "mtpeft lora qkv: 16 tasks": lambda: like_peft(images, names),
        "peft lora qkv: 16 tasks": lambda: model(images, adapter_names=names),
    }
    times = interleave({name: inference(call) for name, call in cases.items()}, repeats)
    rows = {name: (milliseconds(times)[name], ratio(times, name, "plain")) for name in cases}
    show("ViT-S at 224 px, batch 16, inference", rows, ("ms", "x plain"))
    kinds = ("lora q, v", "adaptformer 8")
    return rows, [goal(f"ViT-S 224 px, {k}, 16 tasks / plain", rows[f"mtpeft {k}: 16 tasks"][1], 1.05) for k in kinds]


def main() -> None:
    """Run both settings."""
    parser = arguments("mixed_batch", __doc__)
    parser.add_argument("--only", choices=("tiny", "small"), help="one setting alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    results: dict[str, Any] = {"goals": []}
    if options.only != "small":
        rows, goals = tiny((1, 4, 16, 32), 5 * options.repeats)
        results["vit_tiny_32px"] = {name: {"ms": ms, "x_one_task": round(x, 4)} for name, (ms, x) in rows.items()}
        results["goals"] += goals
    if options.only != "tiny":
        rows, goals = small(options.repeats)
        results["vit_small_224px"] = {name: {"ms": ms, "x_plain": round(x, 4)} for name, (ms, x) in rows.items()}
        results["goals"] += goals
    write(options, results)


if __name__ == "__main__":
    main()
