"""Serve many tasks by one ONNX trunk: numpy, onnxruntime and safetensors are all it takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file


class Runner:
    """`Runner(folder)(images, tasks)`: a task for every image, in one pass."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        described = json.loads((folder / "export.json").read_text())
        self.tasks = described["tasks"]
        self.trunk = onnxruntime.InferenceSession(str(folder / described["file"]))
        self.inputs = [taken.name for taken in self.trunk.get_inputs() if taken.name != "images"]
        self.weights = {task: load_file(folder / facts["weights"]) for task, facts in self.tasks.items()}

    def add(self, task: str, file: str | Path, outputs: int | None = None) -> None:
        """A task whose weights come later, or in place of others."""
        self.weights[task], self.tasks[task] = load_file(file), {"outputs": outputs}

    def __call__(self, images: np.ndarray, tasks: Sequence[str]) -> list[np.ndarray]:
        """Normalised images (B, C, H, W), float32, and B names -> a list of B outputs."""
        feeds = {name: np.stack([self.weights[task][name] for task in tasks]) for name in self.inputs}
        rows = self.trunk.run(None, {"images": images, **feeds})[0]
        return [row[: self.tasks[task]["outputs"]] for row, task in zip(rows, tasks, strict=True)]
