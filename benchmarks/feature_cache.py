"""What the feature cache saves: an epoch that reads rows against one that computes them, and the same losses in both.

A linear probe and LST on ViT-Ti/16 at 224 pixels with random weights and generated images. The two epochs take turns in one
process, so that the ratio holds on a busy machine; the first epoch fills the cache and counts apart.
Command:  python benchmarks/feature_cache.py
"""

from __future__ import annotations

import statistics
import tempfile
from typing import Any

import torch
from _common import arguments, clock, goal, show, write
from torch.nn import functional as F

import mtpeft
from mtpeft.data.images import Images, TensorImages
from mtpeft.data.loader import ResumableLoader
from mtpeft.data.row_images import RowImages
from mtpeft.data.transforms import InputTransform

METHODS: dict[str, dict[str, Any]] = {"linear_probe": {}, "lst": {"sharing": "per_task"}}


def images(number: int) -> Images:
    """Noise of ten classes at 224 pixels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, 3, 224, 224), generator=generator, dtype=torch.uint8)
    transform = InputTransform((224, 224), (0.5,) * 3, (0.5,) * 3)
    return TensorImages("noise", pixels, [i % 10 for i in range(number)], [str(i) for i in range(10)], transform)


def epoch(manager: mtpeft.TaskManager, data: Images, batch: int, number: int) -> list[float]:
    """One epoch of AdamW; the losses of its steps."""
    optimizer = torch.optim.AdamW([p for _, p in manager.trainable_parameters()], lr=1e-3)
    losses = []
    for x, y in ResumableLoader(data, batch, seed=0, epoch=number):
        loss = F.cross_entropy(manager(x, "noise"), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def measure(method: str, options: Any, data: Images) -> dict[str, Any]:
    """Seconds of the epochs, their ratio, and whether the losses are the same bits."""
    managers = []
    for _ in range(2):
        torch.manual_seed(0)
        manager = mtpeft.attach(mtpeft.create_backbone("vit_tiny_patch16_224", False), method, **METHODS[method])
        manager.add_task("noise", num_classes=10)
        managers.append(manager)
    plain, cached = managers
    now = clock(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        cache = mtpeft.FeatureCache(cached, folder)
        rows = RowImages(data, cache)
        start = now()
        rows.fill()
        first = epoch(cached, rows, options.batch, 0)
        filled = now() - start
        same = first == epoch(plain, data, options.batch, 0)
        seconds: dict[str, list[float]] = {"without": [], "with": []}
        for number in range(1, options.repeats + 1):
            losses = []
            for name, manager, shown in (("without", plain, data), ("with", cached, rows)):
                start = now()
                losses.append(epoch(manager, shown, options.batch, number))
                seconds[name].append(now() - start)
            same &= losses[0] == losses[1]
    found = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = statistics.median(a / b for a, b in zip(seconds["without"], seconds["with"], strict=True))
    return {"row_kib": cache.row_bytes / 1024, "first": filled, **found, "ratio": ratio, "same_losses": same}


def main() -> None:
    """Measure both methods and print the ratios."""
    parser = arguments("feature_cache", __doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = images(options.images)
    found = {method: measure(method, options, data) for method in METHODS}
    columns = ("KiB of a row", "first epoch s", "without s", "with s", "ratio")
    show("an epoch", {m: tuple(list(f.values())[:5]) for m, f in found.items()}, columns)
    for method, values in found.items():
        print(f"{method}: the same losses: {values['same_losses']}")
    goals = [goal(f"{method}: with / without", 1 / values["ratio"], 0.1) for method, values in found.items()]
    write(options, {"cases": found, "goals": goals})


if __name__ == "__main__":
    main()
