"""One task: inference and training step of four methods against the plain backbone, and LoRA against HF peft.

Inference is compared with the plain backbone and a linear head; a training step (forward, cross-entropy, backward,
AdamW on what is trained) with a linear probe's and with full fine-tuning's. For LoRA, peft adapts the fused qkv layer;
the pair on the same layer is `mtpeft lora qkv` and `peft lora qkv`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import mixed_batch
import torch
from _common import arguments, interleave, milliseconds, ratio, show, wake, write
from torch import nn

import mtpeft
from mtpeft.manager.attach import create_backbone

CLASSES = 100
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "mtpeft lora q, v": ("lora", {"rank": 8}),
    "mtpeft lora qkv": ("lora", {"rank": 8, "sites": ("qkv",)}),
    "mtpeft adaptformer 64": ("adaptformer", {"bottleneck_dim": 64}),
    "mtpeft ssf": ("ssf", {}),
    "mtpeft vpt_deep 50": ("vpt_deep", {"num_tokens": 50}),
}


class Probed(nn.Module):
    """A backbone and a linear head."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        """`width` of the pooled features."""
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(width, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.head(self.backbone(images))


def models(name: str) -> dict[str, nn.Module]:
    """Every contestant, each on a copy of the same backbone."""
    backbone = create_backbone(name, pretrained=False)
    width = backbone.num_features
    built: dict[str, nn.Module] = {
        "plain, linear probe": Probed(copy.deepcopy(backbone), width),
        "plain, full fine-tuning": Probed(copy.deepcopy(backbone), width),
        "peft lora qkv": Probed(mixed_batch.theirs(backbone, ("qkv",), 1), width),
    }
    built["plain, linear probe"].backbone.requires_grad_(False)
    for label, (method, values) in METHODS.items():
        manager = built[label] = mtpeft.attach(copy.deepcopy(backbone), method, **values)
        manager.add_task("task", num_classes=CLASSES)
        wake(manager.attachments)
    return built


def step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """One training step of what the model trains."""
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()

    return run


def main() -> None:
    """Inference first, then training steps."""
    parser = arguments("single_task", __doc__)
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="timm name; random weights")
    parser.add_argument("--batch", type=int, default=8, help="images")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    built = models(options.model)
    size = built["mtpeft ssf"].anatomy.input_size
    images, labels = torch.randn(options.batch, *size), torch.randint(CLASSES, (options.batch,))
    results: dict[str, Any] = {}

    once = {name: model for name, model in built.items() if name != "plain, full fine-tuning"}  # both plain infer alike
    calls = {name: mixed_batch.inference(lambda m=model: m(images)) for name, model in once.items()}
    for model in built.values():
        model.eval()
    times = interleave(calls, 2 * options.repeats)
    rows = {n: (milliseconds(times)[n], ratio(times, n, "plain, linear probe")) for n in calls}
    show(f"{options.model}, batch {options.batch}, inference", rows, ("ms", "x plain"))
    results["inference_ms"] = milliseconds(times)
    results["inference_x_plain"] = {name: round(row[1], 4) for name, row in rows.items()}
    pair = results["inference_mtpeft_x_peft_lora_qkv"] = round(ratio(times, "mtpeft lora qkv", "peft lora qkv"), 4)
    print(f"lora on qkv, mtpeft / peft: {pair}")

    for model in built.values():
        model.train()
    times = interleave({n: step(m, images, labels) for n, m in built.items()}, options.repeats)
    references = ("plain, full fine-tuning", "plain, linear probe")
    rows = {n: (milliseconds(times)[n], *(ratio(times, n, r) for r in references)) for n in built}
    show(f"{options.model}, batch {options.batch}, training step", rows, ("ms", "x full", "x linear probe"))
    results["training_ms"] = milliseconds(times)
    results["training_x_full"] = {name: round(row[1], 4) for name, row in rows.items()}
    results["training_x_linear_probe"] = {name: round(row[2], 4) for name, row in rows.items()}
    pair = results["training_mtpeft_x_peft_lora_qkv"] = round(ratio(times, "mtpeft lora qkv", "peft lora qkv"), 4)
    print(f"lora on qkv, mtpeft / peft: {pair}")
    write(options, results)


if __name__ == "__main__":
    main()
