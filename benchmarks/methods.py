"""What every method costs: memory, operations and time against the plain backbone and LoRA; exactness of merging.

Each method is run with its default options on the first of `MODELS` that it attaches to, by turns with the plain backbone
(a forward pass of frozen weights with a linear head) and with LoRA (a training step: forward, cross-entropy, backward, AdamW),
so that ratios are of one run. Methods for clips see the images as the frames of one clip. The figures replace those that
`mtpeft methods NAME` and METHODS.md show (`mtpeft methods --page` writes the latter); a method that is not named
on the command line keeps its own.
"""

from __future__ import annotations

import copy
import gc
import json
import platform
from collections.abc import Callable
from typing import Any

import torch
from _common import arguments, interleave, ratio, wake
from mixed_batch import inference
from single_task import Probed, step
from torch import nn

import mtpeft
from mtpeft.cli.method_costs import COSTS, FILE
from mtpeft.errors import ConfigError
from mtpeft.files import write_atomic
from mtpeft.manager.attach import create_backbone
from mtpeft.manager.flops import forward_flops
from mtpeft.manager.manager import TaskManager
from mtpeft.manager.memory import measure_memory
from mtpeft.methods import METHODS
from mtpeft.options import options_of
from mtpeft.testing.checks_claims import gradient_flows

CLASSES = 100
MODELS = ("vit_small_patch16_224", "swin_tiny_patch4_window7_224")
CIRCUMSTANCES = (
    "ViT-S/16 (Swin-T where a plain ViT will not do) at 224 px, {batch} images or one clip of as many frames, float32, {threads} "
    "thread(s) of an {machine} CPU, torch {torch}; default options; every ratio within one run."
)


class Taken:
    """A method on the first model that takes it, and what it is measured on."""

    def __init__(self, name: str, backbones: dict[str, nn.Module], batch: int) -> None:
        """Raises `ConfigError` where none of the backbones takes it."""
        self.model, self.manager = self._attached(name, backbones, batch)
        self.backbone = backbones[self.model]
        self.images = torch.randn(batch, *self.manager.anatomy.input_size)
        self.labels = torch.randint(CLASSES, (batch,))
        self.inputs, self.targets = self.images, self.labels
        if METHODS.get(name).for_clips:
            self.inputs, self.targets = self.images.transpose(0, 1)[None], self.labels[:1]
        self.manager.add_task("task", num_classes=CLASSES)
        if self.manager.needs_fit("task"):
            self.manager.fit("task", [(self.inputs, self.targets)])
        wake(self.manager.attachments)

    @staticmethod
    def _attached(name: str, backbones: dict[str, nn.Module], frames: int) -> tuple[str, TaskManager]:
        options = {"num_frames": frames} if "num_frames" in options_of(METHODS.get(name).config) else {}
        for model, backbone in backbones.items():
            try:
                return model, mtpeft.attach(copy.deepcopy(backbone), name, **options)
            except ConfigError as error:
                refused = error
        raise refused

    def step(self) -> Callable[[], object]:
        """A training step."""
        self.manager.train()
        return step(_OneTask(self.manager), self.inputs, self.targets)

    def memory(self) -> int:
        """Bytes that one more image or clip keeps for backward."""
        shape = tuple(self.inputs.shape[1:])
        return measure_memory(self.manager, ["task"], shapes={"task": shape})["task"].activations


class _OneTask(nn.Module):
    """The manager as a plain model."""

    def __init__(self, manager: TaskManager) -> None:
        super().__init__()
        self.manager = manager

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.manager(inputs, "task")


def costs(name: str, backbones: dict[str, nn.Module], batch: int, repeats: int) -> dict[str, Any]:
    """The figures of one method, by the keys of `COSTS`."""
    taken = Taken(name, backbones, batch)
    lora = Taken("lora", {taken.model: taken.backbone}, batch)
    lora.inputs, lora.targets = taken.inputs, taken.targets
    manager, blocks = taken.manager, taken.manager.anatomy.blocks
    manager.train()
    flows = gradient_flows(
        manager.backbone, [manager.backbone.get_submodule(b) for b in blocks], lambda: manager(taken.inputs, "task")
    )
    memory = taken.memory() / lora.memory()
    times = interleave({"lora": lora.step(), "method": taken.step()}, repeats)
    stepped = ratio(times, "method", "lora")
    manager.eval()
    plain = Probed(copy.deepcopy(taken.backbone), taken.backbone.num_features).requires_grad_(False).eval()  # type: ignore[arg-type]
    calls = {"plain": lambda: plain(taken.images), "method": lambda: manager(taken.inputs, "task")}
    inferred = ratio(interleave({n: inference(call) for n, call in calls.items()}, 2 * repeats), "method", "plain")
    one = mtpeft.attach(copy.deepcopy(taken.backbone), "linear_probe")
    one.add_task("task", num_classes=CLASSES)
    flops = forward_flops(manager, taken.inputs, "task") / forward_flops(one, taken.images, "task")
    return {
        "model": taken.model,
        "activations": round(memory, 3),
        "flops": round(flops, 4),
        "inference": round(inferred, 3),
        "step": round(stepped, 3),
        "gradient": flows,
        "merge": merge_error(manager, taken.images) if METHODS.get(name).folds else None,
    }


@torch.no_grad()
def merge_error(manager: TaskManager, images: torch.Tensor) -> float:
    """How far the merged model is from the manager on images, in float64, as a share of the largest output."""
    manager.double()
    expected = manager(images.double(), "task")
    merged: Any = manager.merge("task")
    found = merged(images.double())
    return float(f"{((found - expected).abs().max() / expected.abs().max()).item():.1e}")


def main() -> None:
    """Measure the methods named, or all, and write the file they are shown from."""
    parser = arguments("methods", __doc__)
    parser.set_defaults(json=FILE, repeats=3)
    parser.add_argument("methods", nargs="*", help="all by default")
    parser.add_argument("--batch", type=int, default=4, help="images, or frames of a clip")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    backbones = {name: create_backbone(name, pretrained=False) for name in MODELS}
    said = CIRCUMSTANCES.format(
        batch=options.batch,
        threads=options.threads,
        machine=platform.machine().replace("_", "-"),
        torch=torch.__version__.partition("+")[0],
    )
    before = json.loads(options.json.read_text()) if options.methods and options.json.exists() else {}
    if before.get("circumstances", said) != said:
        raise ConfigError(f"{options.json} is of other circumstances: name no method, or give another --json")
    kept = before.get("methods", {})
    found: dict[str, dict[str, Any]] = {}
    print(f"{'':20}" + "".join(f"{cost.title:>14}" for cost in COSTS.values()), flush=True)
    for name in options.methods or METHODS:
        found[name] = costs(name, backbones, options.batch, options.repeats)
        gc.collect()  # what hooks tie into rings keeps whole models
        print(f"{name:20}" + "".join(f"{COSTS[k].shown(found[name][k]):>14}" for k in COSTS), flush=True)
        everything = {name: row for name in METHODS if (row := found.get(name) or kept.get(name)) is not None}
        write_atomic(options.json, json.dumps({"circumstances": said, "methods": everything}, indent=1) + "\n")
    print(f"written: {options.json}")


if __name__ == "__main__":
    main()
