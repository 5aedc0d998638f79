"""Strips of test clips for the report: their frames, what the model takes them for, and which frames it looks at.

The folder gets a PNG file per clip and an index.json: {"tasks": {task: [strip, ...]}} with strip =
{"sample": name, "image": file, "frames": T, "truth": class, "predicted": class, "right": whether they are the same,
"probability": of the predicted class (null where the prediction is that of an ensemble), "temporal": T x T, which frame
(row) attends to which, mean over blocks, "weights": T, the shares of the frames in the pooled features}; the last two are
null where the model has none.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mtpeft.continual.confusion import class_names
from mtpeft.continual.model import ContinualModel
from mtpeft.data.dense.stream import DenseStream
from mtpeft.data.streams import TASK_KNOWN, Stream
from mtpeft.data.video.clips import Clips
from mtpeft.errors import ConfigError
from mtpeft.files import write_atomic

PICTURES = "pictures"  # the folder of the strips in a run's folder
PER_TASK = 4
SIDE = 80  # pixels of a frame's longer side, at most
MARGIN = 1  # transparent pixels left and right of a frame


def strips_per_task(key: Any, stream: Stream | DenseStream, recipe: str) -> int:
    """The recipe's key `strips`: clips shown of each task, 0 for none; without it 4, and none for images."""
    clips = not isinstance(stream, DenseStream) and any(isinstance(task.test, Clips) for task in stream)
    if key is None:
        return PER_TASK if clips else 0
    if not isinstance(key, int) or isinstance(key, bool) or key < 0:
        raise ConfigError(f"recipe {recipe}: strips is {key!r}, expected a number of clips per task, 0 for none")
    if key and not clips:
        raise ConfigError(
            f"recipe {recipe}: strips shows frames of clips, but no task of the stream has clips: leave it out"
        )
    return key


def write_strips(
    model: ContinualModel,
    stream: Stream,
    predictions: Mapping[str, Sequence[int]],
    folder: Path,
    number: int,
) -> None:
    """Write at most `number` strips of each task that has clips. `predictions` are of whole test sets, by task."""
    index: dict[str, list[dict[str, Any]]] = {}
    model.eval()
    for position, task in enumerate(stream):
        predicted = predictions.get(task.name)
        if isinstance(task.test, Clips) and predicted is not None:
            label = position if stream.kind in TASK_KNOWN else 0
            index[task.name] = []
            for k, sample in enumerate(choose(task.test.targets, predicted, number)):
                file = f"{task.name}_{k}.png"
                entry, shown = _strip(model, label, task.test, sample, predicted[sample])
                names = class_names(stream, task)
                entry |= {"image": file, "truth": names[entry["truth"]], "predicted": names[entry["predicted"]]}
                index[task.name].append(entry)
                write_atomic(folder / file, _png(_frames(shown, task.test.describe())))
    write_atomic(folder / "index.json", json.dumps({"tasks": index}, indent=1, sort_keys=True) + "\n")


def choose(targets: Sequence[int], predicted: Sequence[int], number: int) -> list[int]:
    """Indices of at most `number` samples, by class: the first right and the first wrong one of classes.

    Half of them wrong, as far as there are such.
    """
    right: dict[int, int] = {}
    wrong: dict[int, int] = {}
    for index, (true, found) in enumerate(zip(targets, predicted, strict=True)):
        (right if true == found else wrong).setdefault(true, index)
    rights, wrongs = ([kind[label] for label in sorted(kind)] for kind in (right, wrong))
    fewest = min(number // 2, len(wrongs))
    taken = rights[: number - fewest]
    taken += wrongs[: number - len(taken)]
    return sorted(taken, key=lambda index: (targets[index], index))


@torch.no_grad()
def _strip(
    model: ContinualModel, label: int, clips: Clips, sample: int, predicted: int
) -> tuple[dict[str, Any], Tensor]:
    """What is said of one clip, its classes as numbers, and its frames (3, T, H, W)."""
    x, target = clips.batch([sample])
    x = x.to(next(model.manager.parameters()).device)
    probability = None
    if all(a.weights.members == 1 for a in model.manager.methods):  # what is larger of two does not sum to 1
        probability = round(float(model(x, label).float().softmax(dim=1)[0, predicted]), 4)
    shown = x[:, x.shape[1] // 2] if x.ndim == 6 else x  # of several views the middle one
    name = model.task_of(label)
    temporal = list(model.manager.temporal_attention(shown, name).values())
    weights = model.manager.frame_weights(shown, name)  # the share of each frame, where the head weighs them
    entry = {
        "sample": clips.dataset.records[sample].name,
        "frames": shown.shape[2],
        "truth": int(target),
        "predicted": predicted,
        "right": predicted == int(target),
        "probability": probability,
        "temporal": _rounded(torch.stack(temporal).float().mean(dim=0)[0]) if temporal else None,
        "weights": None if weights is None else _rounded(weights[0]),
    }
    return entry, shown[0]


def _rounded(values: Tensor) -> Any:
    """Four decimals, as lists."""
    return np.round(values.detach().cpu().double().numpy(), 4).tolist()


def _frames(clip: Tensor, shown: Mapping[str, Any]) -> Image.Image:
    """A normalised clip (3, T, H, W) as one picture, the frames side by side."""
    mean, std = (torch.tensor(shown[key]).view(3, 1, 1, 1) for key in ("mean", "std"))
    plain = ((clip.cpu().float() * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 3, 0).numpy()
    height, width = plain.shape[1:3]
    factor = min(1.0, SIDE / max(height, width))
    size = (round(width * factor), round(height * factor))
    step = size[0] + 2 * MARGIN
    strip = Image.new("RGBA", (step * len(plain), size[1]))
    for k, pixels in enumerate(plain):
        strip.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), (k * step + MARGIN, 0))
    return strip


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
