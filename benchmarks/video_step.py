"""A training step on clips: AIM and ST-Adapter against the frozen backbone with a trained head, and against each other.

Every case is a manager on a copy of one backbone with a linear head over the mean frame; a step is forward,
cross-entropy, backward and AdamW on what is trained. Inference of the same cases stands beside it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from _common import arguments, interleave, milliseconds, ratio, show, wake, write
from single_task import step

import mtpeft
from mtpeft.manager.attach import create_backbone
from mtpeft.manager.manager import TaskManager

CLASSES = 100
FROZEN, TASK = "frozen, linear head", "clips"


def models(name: str, frames: int) -> dict[str, TaskManager]:
    """Every case, each on a copy of the same backbone with random weights."""
    backbone = create_backbone(name, pretrained=False)
    methods: dict[str, dict[str, Any]] = {
        FROZEN: {"name": "linear_probe"},
        "lora q, v": {"name": "lora"},
        "st_adapter, pre_mlp": {"name": "st_adapter"},
        "st_adapter, both": {"name": "st_adapter", "position": "both"},
        "aim": {"name": "aim", "num_frames": frames},
        "full": {"name": "full"},
    }
    built = {}
    for label, method in methods.items():
        manager = built[label] = mtpeft.attach(copy.deepcopy(backbone), method)
        manager.add_task(TASK, num_classes=CLASSES)
        wake(manager.attachments)
    return built


def main() -> None:
    """Inference first, then training steps."""
    parser = arguments("video_step", __doc__)
    parser.add_argument("--model", default="vit_small_patch16_224", help="timm name; random weights")
    parser.add_argument("--batch", type=int, default=2, help="clips")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    built = models(options.model, options.frames)
    size = next(iter(built.values())).anatomy.input_size
    clips = torch.randn(options.batch, size[0], options.frames, *size[1:])
    labels = torch.arange(options.batch) % CLASSES

    @torch.no_grad()
    def infer(manager: TaskManager) -> None:
        manager(clips, TASK)

    inference = interleave({k: lambda m=m: infer(m.eval()) for k, m in built.items()}, options.repeats)  # type: ignore[misc]
    training = interleave({k: step(m.train(), clips, labels) for k, m in built.items()}, options.repeats)
    rows = {k: (ratio(inference, k, FROZEN), ratio(training, k, FROZEN), ratio(training, k, "full")) for k in built}
    show("Clips", rows, ("inference", "training step", "step x full"))
    between = ratio(training, "aim", "st_adapter, pre_mlp")
    print(f"training step, aim : st_adapter : frozen = {rows['aim'][1]:.2f} : {rows['st_adapter, pre_mlp'][1]:.2f} : 1")
    results = {
        "ratios": {k: [round(v, 4) for v in values] for k, values in rows.items()},
        "aim_to_st_adapter": round(between, 4),
        "ms": {"inference": milliseconds(inference), "training": milliseconds(training)},
    }
    write(options, results)


if __name__ == "__main__":
    main()
