"""What the results of every engine say of a run: what it was, what was trained, on what. No time and no path."""

from __future__ import annotations

import dataclasses
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import timm
import torch

from mtpeft._version import __version__
from mtpeft.backbones.fingerprint import fingerprint
from mtpeft.data.images import Images
from mtpeft.data.reading import decoder
from mtpeft.data.video.clips import Clips
from mtpeft.manager.counting import RULE, backbone_size
from mtpeft.manager.memory import RULE as BYTE_RULE
from mtpeft.manager.memory import backbone_bytes, measure_memory

if TYPE_CHECKING:
    from mtpeft.manager.manager import TaskManager


#: keys of a recipe that are no part of what a run finds: where it goes, what it says meanwhile
UNRELATED = ("device", "continue_from", "cache", "visualizer")


def run_facts(experiment: Any) -> dict[str, Any]:
    """Name, recipe, backbone, input, whether the backbone is as it was, environment; of an experiment of either engine."""
    manager, config = experiment.manager, experiment.data_config
    after = fingerprint(manager.backbone)
    return {
        "name": experiment.name,
        "seed": experiment.seed,
        "recipe": {k: v for k, v in experiment.recipe.items() if k not in UNRELATED},
        "backbone": {"name": experiment.backbone_name, "fingerprint": manager.fingerprint},
        "input": {
            "size": list(config["input_size"][1:]),
            "mean": list(config["mean"]),
            "std": list(config["std"]),
            "interpolation": config["interpolation"],
            **_images(getattr(experiment, "stream", ())),
            **_video(getattr(experiment, "stream", ())),
        },
        "curves": {"train_loss": experiment.curve.points},
        "frozen": {
            "fingerprint_before": manager.fingerprint,
            "fingerprint_after": after,
            "unchanged": after == manager.fingerprint,
        },
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "mtpeft": __version__,
            "threads": torch.get_num_threads(),
            "device": device_name(experiment.device),
        },
    }


def device_name(device: torch.device) -> str:
    """What is said of a device: its kind, of a CUDA device the card's name too."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def memory_facts(
    experiment: Any, shapes: Mapping[str, Sequence[int]], names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Bytes of each task in training, under the recipe's optimiser and precision; of an experiment of either engine.

    `shapes` are those of the tasks' images (C, H, W) or clips (C, T, H, W); `names` the manager's task behind each name of
    the results, where they are not the same.
    """
    manager, training = experiment.manager, experiment.training
    memories = measure_memory(
        manager,
        list(shapes),
        optimizer=training.optimizer_of,
        shapes=shapes,
        autocast=partial(training.autocast, experiment.device.type),
    )
    behind = {task: task for task in shapes} if names is None else names
    return {
        "backbone": backbone_bytes(manager),
        "optimizer": training.optimizer["type"],
        "precision": training.amp or "float32",
        "per_task": {
            name: {"trained": manager.num_trainable(task), **dataclasses.asdict(memories[task])}
            for name, task in behind.items()
        },
        "rule": BYTE_RULE,
    }


def _images(tasks: Iterable[Any]) -> dict[str, Any]:
    """What became of the images of a stream, in training and in test, and what read their files; nothing without images."""
    shown = [(task.train, task.test) for task in tasks if isinstance(task.train, Images) and task.train.text]
    if not shown:
        return {}
    train, test = (
        "; or ".join(dict.fromkeys(parts)) for parts in zip(*((a.text, b.text) for a, b in shown), strict=True)
    )
    read = any(images.files is not None for pair in shown for images in pair)
    return {"images": {"train": train, "test": test, **({"decoder": decoder()} if read else {})}}


def _video(tasks: Iterable[Any]) -> dict[str, Any]:
    """What read the clips of a stream; nothing for one of images."""
    tasks = list(tasks)
    clips = [task.train for task in tasks if isinstance(task.train, Clips)]
    facts = [found.facts for found in clips]
    if not facts:
        return {}
    skipped = len({name for found in clips for name in found.skipped})
    texts = {key: "; ".join(dict.fromkeys(found[key] for found in facts)) for key in ("decoder", "sampling")}
    shown = [*clips, *(task.test for task in tasks if isinstance(task.test, Clips))]
    readers = sum((Counter(found.readers) for found in shown), Counter())
    frames = max(found["frames"] for found in facts)
    return {"video": {**texts, "frames": frames, "skipped": skipped, "readers": dict(sorted(readers.items()))}}


def _buffers(manager: TaskManager) -> dict[int, int]:
    """Sizes of what is saved but not trained, each tensor once."""
    used = [m for a in manager.methods for task in manager.tasks for m in a.weights.modules_of(task)]
    return {id(b): b.numel() for module in [*used, manager.heads] for b in module.buffers()}


def parameter_facts(manager: TaskManager) -> dict[str, Any]:
    """Numbers of weights of all tasks together, by kind, each weight once, and the counting rule."""
    trained = sum(p.numel() for n, p in manager.trainable_parameters() if not n.startswith("heads."))
    norm_bias = sum(p.numel() for a in manager.methods if a.spec.properties.no_added_modules for p in a.parameters())
    return {
        "method": trained - norm_bias,
        "norm_bias": norm_bias,
        "head": sum(p.numel() for p in manager.heads.parameters() if p.requires_grad),
        "buffers": sum(size for size in _buffers(manager).values()),
        "backbone": backbone_size(manager),
        "rule": RULE,
    }
