"""Pictures of the best and worst validation samples of every task, for the report.

The folder gets PNG files (input, truth, prediction) and an index.json:
{"tasks": {task: {"best": [case, ...], "worst": [case, ...]}}} with case =
{"sample": name, "score": the sample's own main metric, "image": file, "truth": file, "prediction": file}.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mtpeft.files import write_atomic
from mtpeft.joint.data import JointData
from mtpeft.joint.evaluation import predictions
from mtpeft.joint.model import JointModel

FOLDER = "pictures"


def write_pictures(
    model: JointModel, data: JointData, folder: Path, number: int, batch_size: int, device: torch.device
) -> None:
    """Write `number` best and worst samples of each task, ranked by their loss, into `folder`."""
    keep: dict[str, list[dict[str, Any]]] = {task: [] for task in model.kinds}
    for batch, found in predictions(model, data, batch_size, device):
        for task, (rows, output, label) in found.items():
            for k, row in enumerate(rows.tolist()):
                case = _case(model, task, output[k : k + 1], label[k : k + 1])
                if case is not None:
                    place = batch["source"], int(batch["index"][row])
                    keep[task].append({**case, "place": place, "sample": str(batch["names"][row])})
            keep[task] = _ends(keep[task], number)
    index: dict[str, Any] = {}
    for task, cases in keep.items():
        ranked = sorted(cases, key=lambda case: case["loss"])
        best = min(number, (len(ranked) + 1) // 2)
        chosen = {"best": ranked[:best], "worst": ranked[best:][::-1][:number]}
        index[task] = {
            kind: [_write(model, data, task, case, folder, f"{task}_{kind}_{k}") for k, case in enumerate(found)]
            for kind, found in chosen.items()
        }
    write_atomic(folder / "index.json", json.dumps({"tasks": index}, indent=1, sort_keys=True) + "\n")


def _case(model: JointModel, task: str, output: torch.Tensor, label: torch.Tensor) -> dict[str, Any] | None:
    kind = model.kinds[task]
    if not bool(kind.valid(label).any()):
        return None
    return {"loss": float(kind.loss(output, label)), "output": output.cpu(), "label": label.cpu()}


def _ends(cases: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The `number` lowest and highest losses: the rest need not be kept."""
    ranked = sorted(cases, key=lambda case: case["loss"])
    return ranked if len(ranked) <= 2 * number else ranked[:number] + ranked[-number:]


def _write(
    model: JointModel, data: JointData, task: str, case: dict[str, Any], folder: Path, stem: str
) -> dict[str, Any]:
    kind = model.kinds[task]
    measure = kind.measure()
    measure.update(case["output"], case["label"])
    source, index = case["place"]
    pictures = {
        "image": _image(data.val[source].picture(index), data.mean, data.std),
        "truth": kind.picture(case["label"][0]),
        "prediction": kind.picture(case["output"][0], case["label"][0]),
    }
    files = {}
    for part, picture in pictures.items():
        files[part] = f"{stem}_{part}.png"
        write_atomic(folder / files[part], _png(picture))
    return {"sample": case["sample"], "score": measure.compute()[kind.metric], **files}


def _image(image: torch.Tensor, mean: list[float], std: list[float]) -> np.ndarray:
    """A normalised image (3, H, W) as uint8 (H, W, 3)."""
    shape = (3, 1, 1)
    plain = image.cpu() * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    return (plain.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def _png(picture: Any) -> bytes:
    array = picture.cpu().numpy() if isinstance(picture, torch.Tensor) else np.asarray(picture)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()
