"""The data set `scenes`: rendered rooms with simple objects and robots, seven labels from one render."""

from __future__ import annotations

import numpy as np

from mtpeft.data.dense.registry import DENSE_DATASETS
from mtpeft.data.dense.sample import Sample, TaskInfo
from mtpeft.data.dense.scenes.cache import load_scenes
from mtpeft.data.dense.scenes.catalogue import CLASSES, PARTS
from mtpeft.data.dense.scenes.render import draw_scenes, focal_length
from mtpeft.errors import ConfigError

SCENES_TASKS = {
    "semseg": TaskInfo("semseg", {"classes": len(CLASSES)}, CLASSES),
    "parts": TaskInfo("parts", {"classes": len(PARTS)}, PARTS),
    "depth": TaskInfo("depth"),
    "normals": TaskInfo("normals"),
    "saliency": TaskInfo("saliency"),
    "edges": TaskInfo("edges"),
    "distance": TaskInfo("distance"),
}


class Scenes:
    """A floor and one or two walls with 2 to 5 objects: boxes, spheres, cylinders, capsules, random objects of pybullet,
    and in 85 % of the scenes one robot (arm, quadruped or vehicle), under a random camera and light.

    Seven tasks from one render. `semseg`: 9 classes. `parts`: the links of robots in 8 classes, and 0 where there is no
    robot, as the background of human parts. `depth`: metres along the optical axis. `normals`: x right, y down, z
    towards the camera; zero where surfaces meet too sharply to tell. `saliency`: every object against the room, a rule
    without ties that holds for unseen objects as well. `edges`: borders of objects and walls and steps in depth, one
    pixel wide. `distance`: 1 in the middle of an object, falling to 0 at its border and outside. Objects, robot models
    and textures of the validation split are never seen in training.
    """

    tasks = SCENES_TASKS

    def __init__(
        self,
        split: str,
        train_size: int = 2000,
        val_size: int = 400,
        size: int = 64,
        seed: int = 0,
        cache: str = "~/.cache/mtpeft",
        workers: int | None = None,
        generated: int = 0,
    ) -> None:
        """`size` is the side of the images in pixels, `workers` the number of rendering processes (None: all cores).

        `generated` scenes, in turn, take the place of all others, and nothing is kept on disk: for plans. Raises
        `ConfigError` for numbers that cannot be, `DataError` when pybullet is missing.
        """
        count = train_size if split == "train" else val_size
        for name, value in (("train_size", train_size), ("val_size", val_size), ("size", size)):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"data set 'scenes': {name} is {value!r}, expected a whole number from 1")
        self.split, self.size, self.seed = split, size, seed
        self.focal = focal_length(size)
        self._length = count
        if generated:
            self._arrays = draw_scenes(seed, split, range(min(generated, count)), size)
        else:
            self._arrays = load_scenes(cache, seed, split, count, size, workers)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not -self._length <= index < self._length:
            raise IndexError(f"scene {index} of {self._length}")
        index %= self._length
        arrays = {key: values[index % len(values)] for key, values in self._arrays.items()}
        labels = {
            "semseg": arrays["semseg"],
            "parts": arrays["parts"],
            "depth": arrays["depth"],
            "normals": arrays["normals"].astype(np.float32),
            "saliency": (arrays["semseg"] > 0).astype(np.uint8),
            "edges": arrays["edges"],
            "distance": arrays["distance"].astype(np.float32),
        }
        return Sample(arrays["image"], labels, f"scenes {self.split} {index}")


DENSE_DATASETS.add("scenes", Scenes)
