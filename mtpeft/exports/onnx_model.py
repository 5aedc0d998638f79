"""`--to onnx` and `--to torch`: one task as a graph with a dynamic batch."""

from __future__ import annotations

from pathlib import Path

import torch

from mtpeft.exports.copies import OneTask, copied, folded, folds, inputs
from mtpeft.exports.graph import LARGE, SMALL, OnnxModel, difference, needs, program_of, write_onnx
from mtpeft.exports.request import Request, Written

ONNX, PROGRAM = "model.onnx", "model.pt2"
#: names of the graph's ends
IMAGES, OUTPUT = "images", "output"


def to_onnx(request: Request, folder: Path) -> Written:
    """model.onnx, compared in onnxruntime."""
    needs("onnx", "onnxscript", "onnxruntime")
    program = _program(request)
    write_onnx(program, [IMAGES], OUTPUT, folder / ONNX, request.what)
    model = OnnxModel(folder / ONNX, request.what)
    return Written(ONNX, _compare(request, lambda images: model({IMAGES: images})), _how(request))


def to_torch(request: Request, folder: Path) -> Written:
    """model.pt2, which `torch.export.load` reads without mtpeft."""
    torch.export.save(_program(request), folder / PROGRAM)
    loaded = torch.export.load(folder / PROGRAM).module()
    return Written(PROGRAM, _compare(request, loaded), _how(request))


def _how(request: Request) -> str:
    return "merged" if _merges(request) else "kept"


def _merges(request: Request) -> bool:
    """Whether the weights go into the backbone: as asked for, else where that is possible."""
    refused = folds(request.manager)
    if request.adapters == "merge" and refused is not None:
        raise request.refusal(f"{refused} does not fold into the backbone; --adapters keep exports it as it is")
    return refused is None and request.adapters != "keep"


def _program(request: Request) -> torch.export.ExportedProgram:
    # a copy: tracing leaves tensors of its own in what a bank knows of its modules, and the original is compared with
    manager = folded(request.manager, request.task) if _merges(request) else copied(request.manager)
    example = inputs(manager, LARGE, frames=request.frames)
    return program_of(OneTask(manager, request.task), [example], request.what)


@torch.no_grad()
def _compare(request: Request, model: object) -> float:
    found = []
    for count in (SMALL, LARGE):
        images = inputs(request.manager, count, seed=count, frames=request.frames)
        expected = request.manager(images, request.task)
        found.append(difference(expected, model(images), request.what))  # type: ignore[operator]
    return max(found)
