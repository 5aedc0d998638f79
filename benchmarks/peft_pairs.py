"""Methods that Hugging Face peft has too, on the same layers of the same backbone: training step and inference, mtpeft over peft.

Both train the same numbers of weights (checked); a step is forward, cross-entropy, backward and AdamW. peft adapts fused
layers, so the sites are qkv alone, and all four linear layers of a block. Beside them runs the backbone with no method and a
gradient through all its blocks, below which no step can come.
"""

from __future__ import annotations

import copy
from typing import Any

import peft
import torch
from _common import arguments, interleave, ratio, show, wake, write
from mixed_batch import inference
from single_task import CLASSES, Probed, step
from torch import nn
from written_out import through

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.manager.attach import create_backbone

SITES = {"qkv": ("qkv",), "all linear": ("qkv", "proj", "fc1", "fc2")}
#: method -> its options, peft's class of the same and its options
METHODS: dict[str, tuple[dict[str, Any], type[Any], dict[str, Any]]] = {
    "lora": ({"rank": 8}, peft.LoraConfig, {"r": 8, "lora_alpha": 8}),
    "dora": ({"rank": 8}, peft.LoraConfig, {"r": 8, "lora_alpha": 8, "use_dora": True}),
    "vera": ({"rank": 256}, peft.VeraConfig, {"r": 256}),
}


def pair(name: str, sites: tuple[str, ...], backbone: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The method of both libraries on copies of the backbone, with a linear head each."""
    ours, kind, theirs = METHODS[name]
    targets = ["attn.proj" if site == "proj" else site for site in sites]
    adapted = peft.get_peft_model(copy.deepcopy(backbone), kind(target_modules=targets, **theirs))
    other = Probed(adapted, backbone.num_features)  # type: ignore[arg-type]
    manager = mtpeft.attach(copy.deepcopy(backbone), name, sites=sites, **ours)
    manager.add_task("task", num_classes=CLASSES)
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (manager, other)]
    if counts[0] != counts[1]:
        raise ConfigError(f"{name}: mtpeft trains {counts[0]} weights and peft {counts[1]}")
    wake(manager.attachments)
    wake(other)
    return manager, other


def main() -> None:
    """All methods on all sites."""
    parser = arguments("peft_pairs", __doc__)
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="timm name; random weights")
    parser.add_argument("--batch", type=int, default=8, help="images")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    backbone = create_backbone(options.model, pretrained=False).requires_grad_(False)
    plain = Probed(copy.deepcopy(backbone), backbone.num_features).eval()  # type: ignore[arg-type]
    images, labels = torch.randn(options.batch, 3, 224, 224), torch.randint(CLASSES, (options.batch,))
    rows: dict[str, tuple[float, ...]] = {}
    for name in METHODS:
        for where, sites in SITES.items():
            ours, theirs = pair(name, sites, backbone)
            models = {"ours": ours.train(), "theirs": theirs.train(), "bare": through(copy.deepcopy(backbone))}
            steps = interleave({n: step(model, images, labels) for n, model in models.items()}, options.repeats)
            models = {"ours": ours.eval(), "theirs": theirs.eval(), "plain": plain}
            calls = interleave({n: inference(lambda m=m: m(images)) for n, m in models.items()}, options.repeats)
            rows[f"{name}, {where}"] = (
                ratio(steps, "ours", "theirs"),
                ratio(steps, "bare", "theirs"),
                ratio(calls, "ours", "theirs"),
                ratio(calls, "ours", "plain"),
            )
    show(
        f"{options.model}, batch {options.batch}",
        rows,
        ("step / peft", "no method / peft", "inference / peft", "x plain"),
    )
    write(options, {name: [round(value, 4) for value in row] for name, row in rows.items()})


if __name__ == "__main__":
    main()
