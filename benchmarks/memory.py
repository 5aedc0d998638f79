"""Peak activation memory of a training step: LST against full fine-tuning and LoRA, and other methods beside them.

How it is measured (`mtpeft.manager.memory.saved_bytes`): `torch.autograd.graph.saved_tensors_hooks` sees every tensor
autograd keeps for the backward pass. All of them are alive when the forward ends, so their sum is the peak of what backward
needs. Every storage counts once, however many views of it are saved; parameters and buffers (of backbone, method and head)
and the input images do not count. Passing buffers of single operations are not in it. The figure depends on shapes alone,
not on the machine.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from _common import arguments, goal, show, write
from torch import nn

import mtpeft
from mtpeft.manager.attach import create_backbone
from mtpeft.manager.memory import saved_bytes

METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"rank": 8},
    "adaptformer": {"bottleneck_dim": 64},
    "vqt": {"num_tokens": 1},
    "lst": {"reduction": 8},
    "linear_probe": {},
}
MIB = 2**20


def measure(backbone: nn.Module, method: str, options: dict[str, Any], batch: int) -> int:
    """Activation bytes of one training step of `method`."""
    manager = mtpeft.attach(copy.deepcopy(backbone), method, **options)
    manager.add_task("task", num_classes=100)
    manager.train()
    images, labels = torch.randn(batch, *manager.anatomy.input_size), torch.randint(100, (batch,))
    tensors = [*manager.parameters(), *manager.buffers(), images, labels]
    return saved_bytes(lambda: nn.functional.cross_entropy(manager(images, "task"), labels), tensors)


def main() -> None:
    """Measure every method once; nothing here is a matter of time, so once is enough."""
    parser = arguments("memory", __doc__)
    parser.set_defaults(repeats=1)
    parser.add_argument("--model", default="vit_base_patch16_224", help="timm name; random weights")
    parser.add_argument("--batch", type=int, default=8, help="images")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    backbone = create_backbone(options.model, pretrained=False)
    sizes = {method: measure(backbone, method, values, options.batch) for method, values in METHODS.items()}
    rows = {m: (size / MIB, size / sizes["full"], size / sizes["lora"]) for m, size in sizes.items()}
    show(f"{options.model}, batch {options.batch}: saved for backward", rows, ("MiB", "x full", "x lora"))
    goals = [
        goal("LST / full fine-tuning", rows["lst"][1], 0.35),
        goal("LST / LoRA", rows["lst"][2], 0.5),
    ]
    write(options, {"activation_mib": {m: round(size / MIB, 2) for m, size in sizes.items()}, "goals": goals})


if __name__ == "__main__":
    main()
