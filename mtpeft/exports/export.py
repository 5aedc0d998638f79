"""`mtpeft.export`: one call from a manager's task to a folder for another tool."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch

from mtpeft._version import __version__
from mtpeft.backbones.site import FRAME_STYLES
from mtpeft.errors import ConfigError, UnknownNameError
from mtpeft.exports.card import card
from mtpeft.exports.copies import copied
from mtpeft.exports.facts import Facts
from mtpeft.exports.folder import EXPORT, new_folder
from mtpeft.exports.onnx_model import to_onnx, to_torch
from mtpeft.exports.peft_folder import to_peft
from mtpeft.exports.request import Request, Written
from mtpeft.exports.separate import to_separate, weights_file
from mtpeft.exports.timm_checkpoint import to_timm
from mtpeft.manager.manager import TaskManager

To = Literal["timm", "onnx", "torch", "peft"]
Adapters = Literal["merge", "keep", "separate"]
WRITERS: dict[str, Callable[[Request, Path], Written]] = {
    "timm": to_timm,
    "onnx": to_onnx,
    "torch": to_torch,
    "peft": to_peft,
}
#: what `adapters` may be, by target
CHOICES: dict[str, tuple[str, ...]] = {"onnx": get_args(Adapters), "torch": ("merge", "keep")}


@torch.no_grad()
def export(
    manager: TaskManager,
    task: str | Sequence[str] | None = None,
    *,
    to: To,
    path: str | os.PathLike[str],
    adapters: Adapters | None = None,
    frames: int | None = None,
    facts: Facts | None = None,
    force: bool = False,
) -> Written:
    """Write a task of `manager` into the folder `path` for another tool, compared with the manager's outputs before.

    `to`: "timm" (merged, for `timm.create_model("local-dir:PATH", pretrained=True)`), "onnx" (model.onnx) or "torch" (model.pt2
    for `torch.export.load`), both with a dynamic batch and without need of mtpeft, or "peft" (LoRA alone). `adapters`, for
    graphs: "merge" folds them into the backbone, "keep" does not; by default what the method allows. "separate" writes one
    ONNX trunk for several tasks, all by default, whose adapters and heads are inputs. `frames`: those of a clip, for tasks of
    clips. `facts` go into config, export.json and the card.

    The manager stays as it is. Raises `ConfigError` with one line for what cannot be exported that way, and for a folder that
    is not empty unless `force` replaces an earlier export; then nothing is written.
    """
    if to not in WRITERS:
        raise UnknownNameError("target", to, WRITERS)
    if adapters is not None and adapters not in CHOICES.get(to, ()):
        works = [name for name, choices in CHOICES.items() if adapters in choices]
        raise ConfigError(
            f"adapters={adapters!r} has no meaning for {to!r}" + (f"; it has for {', '.join(works)}" if works else "")
        )
    tasks = _tasks(manager, task, adapters == "separate")
    frames = frames or _frames(manager)
    with new_folder(path, force) as folder, torch.random.fork_rng(devices=[]):
        counts = {name: manager.counts(name).total for name in tasks}
        request = Request(copied(manager), tasks, to, adapters, frames, facts or Facts(), counts)
        written = (to_separate if adapters == "separate" else WRITERS[to])(request, folder)
        described = _described(request, written)
        (folder / EXPORT).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card(request, written), encoding="utf-8")
    return written


def _tasks(manager: TaskManager, task: str | Sequence[str] | None, several: bool) -> tuple[str, ...]:
    names = [task] if isinstance(task, str) else manager.tasks if task is None else list(task)
    for name in names:
        if name not in manager.tasks:
            raise UnknownNameError("task", name, manager.tasks)
    if not names:
        raise ConfigError("no task has been added yet; there is nothing to export")
    if len(names) > 1 and not several:
        raise ConfigError(
            f"one task is exported at a time; name one of {', '.join(names)} (several: adapters='separate')"
        )
    return tuple(dict.fromkeys(names))


def _frames(manager: TaskManager) -> int | None:
    """The frames of a clip where a method sees them together and says how many."""
    for attachment in manager.methods:
        if any(site.style in FRAME_STYLES for site in attachment.selected):
            found = getattr(attachment.config, "num_frames", None)
            if found is None:
                raise ConfigError(f"method {attachment.spec.name!r} takes clips of any length; give frames=")
            return cast(int, found)
    return None


def _described(request: Request, written: Written) -> dict[str, Any]:
    """export.json: what the folder holds, for programs."""
    tasks = {}
    for task in request.tasks:
        tasks[task] = {
            "outputs": request.outputs(task),
            "classes": list(request.facts.classes.get(task, ())),
            **({"weights": weights_file(task)} if written.adapters == "separate" else {}),
        }
    return {
        "mtpeft": __version__,
        "to": request.to,
        **dataclasses.asdict(written),
        "backbone": request.facts.name_of(request.manager),
        "frames": request.frames,
        "input": request.facts.shown(request.manager),
        "tasks": tasks,
    }
