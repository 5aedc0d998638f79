"""The data set `Objects`: rendered things, named by what they are, under changing view, light and background."""

from __future__ import annotations

import zlib
from typing import Annotated

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from mtpeft.data.objects.backgrounds import BACKGROUNDS, draw_background
from mtpeft.data.objects.cache import load_views
from mtpeft.data.objects.catalogue import FILES
from mtpeft.data.objects.lights import ANY, LIGHTS, pick
from mtpeft.data.objects.render import PARTS
from mtpeft.data.palette import to_uint8
from mtpeft.options import Count, Name, OneOf, Range, WholeNumber

Array = np.ndarray


class Objects(Dataset[tuple[Image.Image, int]]):
    """Objects of pybullet_data that no embedded backbone saw in its training, from directions of the part's own.

    Every image has its own view, light and background, and a shade of the object's paint. `data` is uint8
    (N, size, size, 3), `targets` N ints, `classes` the names in alphabetical order.
    """

    numbered = True

    def __init__(
        self,
        train: bool,
        objects: Annotated[int, Range(at_least=1, at_most=len(FILES))] = 50,
        train_per_class: Count = 60,
        test_per_class: Count = 20,
        size: Annotated[int, Range(at_least=8)] = 32,
        background: Annotated[str, OneOf((ANY, *BACKGROUNDS))] = ANY,
        light: Annotated[str, OneOf((ANY, *LIGHTS))] = ANY,
        seed: WholeNumber = 0,
        cache: Name = "~/.cache/mtpeft",
        generated: WholeNumber = 0,
    ) -> None:
        """The first `objects` of the catalogue, each in so many views of `size` pixels.

        `background` and `light` are names, or "any" for another one in each image; `seed` draws all that is drawn.
        Views are rendered once, into the folder `cache`. `generated` images of noise of each class, in turn, take their
        place, and nothing is looked for on disk: for plans. Raises `DataError` when pybullet is missing.
        """
        names = sorted(list(FILES)[:objects])
        self.classes = tuple(names)
        views = train_per_class if train else test_per_class
        self.targets = [label for label in range(objects) for _ in range(views)]
        part = PARTS[0 if train else 1]
        if generated:
            rng = np.random.default_rng([seed, PARTS.index(part)])
            noise = rng.integers(0, 256, (objects, min(generated, views), size, size, 3), dtype=np.uint8)
            self.data = noise[:, np.arange(views) % noise.shape[1]].reshape(-1, size, size, 3)
        else:
            cut = load_views(cache, names, part, light, views, size, seed)
            self.data = _composed(cut, names, views, part, background, seed)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.data[index]), self.targets[index]


def _composed(cut: Array, names: list[str], views: int, part: str, wanted: str, seed: int) -> Array:
    """The cut-out views (N, S, S, 4) in front of backgrounds, uint8 (N, S, S, 3): a function of view and background."""
    size = cut.shape[1]
    finished = np.empty((*cut.shape[:3], 3), dtype=np.uint8)
    for index, layers in enumerate(cut / 255.0):
        name, view = names[index // views], index % views
        origin = [seed, PARTS.index(part), zlib.crc32(f"behind {name} {wanted}".encode()), view]
        rng = np.random.default_rng(origin)
        colour, cover = layers[..., :3], layers[..., 3:]
        brightness = float(colour.sum() / max(3 * cover.sum(), 1e-6))
        behind = draw_background(pick(tuple(BACKGROUNDS), wanted, rng), rng, size, brightness)
        finished[index] = to_uint8(colour + (1 - cover) * behind)
    return finished
