"""`--to onnx --adapters separate`: one ONNX trunk whose adapter weights are inputs, and a small file for each task."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

import mtpeft.exports.runner
from mtpeft.exports.copies import copied, inputs
from mtpeft.exports.graph import LARGE, SMALL, OnnxModel, difference, needs, program_of, write_onnx
from mtpeft.exports.onnx_model import IMAGES, OUTPUT
from mtpeft.exports.request import Request, Written
from mtpeft.exports.trunk import Trunk

TRUNK = "trunk.onnx"


@torch.no_grad()
def to_separate(request: Request, folder: Path) -> Written:
    """trunk.onnx, TASK.safetensors for each task and runner.py, compared in onnxruntime on batches of mixed tasks."""
    needs("onnx", "onnxscript", "onnxruntime")
    tasks = list(request.tasks)
    trunk = Trunk(copied(request.manager), tasks)
    mixed = [tasks[position % len(tasks)] for position in range(LARGE)]
    example = [inputs(request.manager, LARGE, frames=request.frames), *trunk.stacked(mixed)]
    program = program_of(trunk, example, request.what)
    write_onnx(program, [IMAGES, *trunk.names], OUTPUT, folder / TRUNK, request.what)
    model = OnnxModel(folder / TRUNK, request.what)
    found = []
    for chosen in ([task] * SMALL for task in tasks):
        found.append(_compare(request, trunk, model, chosen))
    found.append(_compare(request, trunk, model, mixed))
    for task in tasks:
        own = {name: tensor.contiguous() for name, tensor in trunk.own[task].items() if name in model.taken}
        save_file(own, folder / weights_file(task))
    shutil.copyfile(mtpeft.exports.runner.__file__, folder / "runner.py")
    return Written(TRUNK, max(found), "separate")


def weights_file(task: str) -> str:
    """Where a task's weights are."""
    return f"{task}.safetensors"


def _compare(request: Request, trunk: Trunk, model: OnnxModel, tasks: list[str]) -> float:
    images = inputs(request.manager, len(tasks), seed=len(tasks), frames=request.frames)
    rows = model({IMAGES: images, **dict(zip(trunk.names, trunk.stacked(tasks), strict=True))})
    found = []
    for position, task in enumerate(tasks):
        expected = request.manager(images[position : position + 1], task)
        row = rows[position : position + 1]
        found.append(difference(expected, row[:, : request.outputs(task)], request.what))
    return max(found)
