"""The data set `Objects`: what is drawn, from where, from what; its cache; its streams."""

from __future__ import annotations

import hashlib
import re
import sys
import warnings
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtpeft.backbones.embedded import WEIGHTS
from mtpeft.cli.main import main
from mtpeft.data import rendered
from mtpeft.data.manifest import MANIFEST
from mtpeft.data.objects import cache
from mtpeft.data.objects.backgrounds import BACKGROUNDS, CONTRAST, STEP, TINT, draw_background
from mtpeft.data.objects.catalogue import FILES, NAMED
from mtpeft.data.objects.dataset import Objects
from mtpeft.data.objects.lights import LIGHTS
from mtpeft.data.objects.render import SECTORS, azimuth, views_of
from mtpeft.data.rendered import _pybullet
from mtpeft.data.sources import build_dataset
from mtpeft.data.streams import build_stream
from mtpeft.errors import ConfigError, DataError
from mtpeft.runs.recipe import load_recipe, recipe_names

CONFIG = {"input_size": (3, 16, 16), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
SMALL = {"objects": 3, "train_per_class": 4, "test_per_class": 2, "size": 16}


def small(folder: Path, train: bool = True, **options: Any) -> Objects:
    dataset = build_dataset({"type": "Objects", "cache": str(folder), **SMALL, **options}, train)
    assert isinstance(dataset, Objects)
    return dataset


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the objects that are rendered from now on."""
    names: list[str] = []
    render = cache.views_of

    def spy(name: str, *arguments: Any) -> np.ndarray:
        names.append(name)
        return render(name, *arguments)

    monkeypatch.setattr(cache, "views_of", spy)
    return names


def pretrained_files() -> set[str]:
    """The files of the objects in the recipes of the embedded backbones' training."""
    recipes = [load_recipe(name) for name in recipe_names() if name.startswith("pretrain/")]
    assert {recipe["model"] for recipe in recipes} == {file.stem for file in WEIGHTS.glob("*.md")}
    files = set()
    for recipe in recipes:
        categories = recipe["data"]["categories"]
        files |= {rendered.object_name(index) for index in range(categories.get("objects", 0))}
        start = len(rendered.NAMED_OBJECTS)
        files |= {rendered.object_name(start + index) for index in range(categories.get("random_objects", 0))}
    assert len(files) == 258
    return files


def meshes_of(file: Path, data: Path) -> set[str]:
    """Checksums of the meshes that an object is made of; of its description, when it is made of none."""
    if file.suffix in (".obj", ".stl"):
        return {hashlib.sha256(file.read_bytes()).hexdigest()}
    names = re.findall(r'filename="([^"]+)"|<uri>([^<]+)</uri>', file.read_text(errors="replace"))
    places = [(name or uri).removeprefix("package://").removeprefix("model://") for name, uri in names]
    found = {
        path
        for place in places
        for path in (file.parent / place, data / place, file.parent / Path(place).name)
        if path.is_file() and path.suffix.lower() in (".obj", ".stl", ".dae")
    }
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in found or {file}}


def test_no_embedded_backbone_was_trained_on_them() -> None:
    """Neither their files nor any mesh of theirs, under whatever name."""
    seen, (_, data) = pretrained_files(), _pybullet()
    assert not seen & set(FILES.values())
    meshes = {digest for file in seen for digest in meshes_of(data / file, data)}
    assert len(meshes) > 258
    for name, file in FILES.items():
        assert not meshes & meshes_of(data / file, data), name


def test_the_cards_say_the_recipes_objects() -> None:

    assert "258 objects" in (WEIGHTS / "vit_mini_patch4_32.md").read_text()
    assert "240 random_objects" in (WEIGHTS / "swin_mini_patch4_64.md").read_text()


def test_there_are_enough_and_no_two_are_the_same() -> None:
    _, data = _pybullet()
    contents = [(data / file).read_bytes() for file in FILES.values()]
    assert len(FILES) >= 80 and len(set(contents)) == len(FILES) and list(FILES)[: len(NAMED)] == list(NAMED)


def test_directions_of_training_and_test_are_apart() -> None:
    rng = np.random.default_rng(0)
    train, test = (np.array([azimuth(rng, part) for _ in range(2000)]) for part in ("train", "test"))
    apart = np.abs((train[:, None] - test + 180) % 360 - 180)
    assert apart.min() >= 9.9
    assert apart.min(axis=0).max() <= 31  # no test view is further from all that is trained on
    for found, (low, high) in zip((train, test), SECTORS.values(), strict=True):
        assert {int(angle // 90) for angle in found} == {0, 1, 2, 3}
        assert ((found % 90 >= low) & (found % 90 <= high)).all()


@pytest.mark.parametrize("name", ["cone", "blob 240", "ant", "wsg50 gripper"])
def test_a_view_is_a_function_of_its_number(name: str) -> None:
    views = views_of(name, "train", "any", 4, 16, seed=3)
    assert views.shape == (4, 16, 16, 4) and views.dtype == np.uint8
    np.testing.assert_array_equal(views[:2], views_of(name, "train", "any", 2, 16, seed=3))
    for other in (("test", "any", 3), ("train", "day", 3), ("train", "any", 4)):
        assert (views != views_of(name, other[0], other[1], 4, 16, seed=other[2])).any()
    cover = views[..., 3].mean(axis=(1, 2)) / 255
    assert (cover > 0.03).all() and (cover < 0.9).all()
    assert (views[..., :3].max(axis=-1) <= views[..., 3].astype(int) + 1).all()  # colours are times the coverage


def test_lights_differ_in_brightness_and_colour() -> None:
    found = {}
    for light in LIGHTS:
        views = views_of("bunny", "train", light, 12, 16, seed=0).astype(float)
        found[light] = views[..., :3].sum(axis=(0, 1, 2)) / views[..., 3].sum()
    assert found["night"].mean() < 0.6 * found["day"].mean()
    warmth = {light: colour[0] / colour[2] for light, colour in found.items()}
    assert warmth["night"] < warmth["day"] < min(warmth["lamp"], warmth["dusk"])


@pytest.mark.parametrize("name", BACKGROUNDS)
@pytest.mark.parametrize("brightness", [0.0, 0.5, 1.0])
def test_backgrounds_stand_out_from_the_object(name: str, brightness: float) -> None:
    images = np.stack([draw_background(name, np.random.default_rng(seed), 16, brightness) for seed in range(20)])
    assert images.shape == (20, 16, 16, 3) and images.min() >= 0 and images.max() <= 1
    assert np.abs(images.mean(axis=-1) - brightness).min() >= CONTRAST - STEP - TINT
    spread = images.std(axis=(1, 2)).mean(axis=-1)
    assert (spread < 1e-9).all() if name == "plain" else (spread > 0.005).mean() > 0.8


def test_the_same_bytes_twice_and_one_object_to_a_file(tmp_path: Path, drawn: list[str]) -> None:
    first, again = small(tmp_path / "one"), small(tmp_path / "two")
    np.testing.assert_array_equal(first.data, again.data)
    assert first.data.shape == (12, 16, 16, 3) and first.targets == [0] * 4 + [1] * 4 + [2] * 4
    assert first.classes == ("bunny", "pinion", "torus") and drawn == [*first.classes] * 2
    one, two = (sorted((tmp_path / name).rglob("*.npz")) for name in ("one", "two"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two] and len(one) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(first.data, small(tmp_path / "one").data)
    assert len(drawn) == 6
    fewer = small(tmp_path / "one", objects=2)  # the files of these two are there
    np.testing.assert_array_equal(fewer.data, first.data[:8])
    assert len(drawn) == 6


def test_other_options_give_other_images(tmp_path: Path, drawn: list[str]) -> None:
    first = small(tmp_path)
    for change in ({"seed": 1}, {"light": "night"}, {"background": "checks"}):
        assert (small(tmp_path, **change).data != first.data).any(axis=(1, 2, 3)).all()
    assert len(drawn) == 9  # a background is laid behind views that are there
    test = small(tmp_path, train=False)
    assert test.classes == first.classes and len(test) == 6
    assert not {image.tobytes() for image in test.data} & {image.tobytes() for image in first.data}


def test_a_damaged_file_is_named_and_rendered_again(tmp_path: Path, drawn: list[str]) -> None:
    first = small(tmp_path)
    damaged = next(tmp_path.rglob("pinion*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.warns(UserWarning, match=f"{damaged.name} is damaged"):
        again = small(tmp_path)
    assert drawn[3:] == ["pinion"]
    np.testing.assert_array_equal(first.data, again.data)
    next(tmp_path.rglob(MANIFEST)).write_text("{")
    with pytest.warns(UserWarning, match=r"manifest\.json is damaged"):
        np.testing.assert_array_equal(first.data, small(tmp_path).data)


def test_an_interruption_keeps_what_was_finished(
    tmp_path: Path, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spied = cache.views_of

    def interrupted(name: str, *arguments: Any) -> np.ndarray:
        if name == "torus":
            raise KeyboardInterrupt
        return spied(name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "views_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small(tmp_path)
    small(tmp_path)
    assert drawn == ["bunny", "pinion", "torus"]


def _digest(folder: str) -> str:
    return hashlib.sha256(small(Path(folder)).data.tobytes()).hexdigest()


@pytest.mark.slow
def test_two_processes_at_once_leave_a_whole_cache(tmp_path: Path) -> None:
    with get_context("spawn").Pool(2) as pool:
        found = pool.map(_digest, [str(tmp_path)] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {*found, _digest(str(tmp_path))} == {found[0]}
    assert not list(tmp_path.rglob(".*"))  # no temporary file


def test_without_pybullet_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    with pytest.raises(DataError, match=r'pip install "mtpeft\[sim\]"'):
        small(tmp_path)
    assert not list(tmp_path.iterdir())


def test_made_up_images_are_as_many_and_on_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    made = small(tmp_path, generated=3)
    assert made.data.shape == (12, 16, 16, 3) and made.targets == [0] * 4 + [1] * 4 + [2] * 4
    assert len({image.tobytes() for image in made.data}) == 9  # three of each class, in turn
    np.testing.assert_array_equal(made.data[0], made.data[3])
    assert made.classes == ("bunny", "pinion", "torus") and not list(tmp_path.iterdir())
    assert (small(tmp_path, train=False, generated=3).data[0] != made.data[0]).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"background": "check"}, "'check'.*Did you mean 'checks'"),
        ({"light": "noon"}, "light is 'noon'"),
        ({"objects": len(FILES) + 1}, f"objects is {len(FILES) + 1}, .*from 1 to {len(FILES)}"),
        ({"objects": 0}, "objects is 0"),
        ({"train_per_class": 0}, "train_per_class is 0"),
        ({"size": 4}, "size is 4, expected a whole number from 8"),
        ({"seed": -1}, "seed is -1"),
        ({"views": 3}, "takes no argument 'views'"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        small(tmp_path, **change)
    assert not list(tmp_path.iterdir())


def test_domains_are_the_same_objects_seen_otherwise(tmp_path: Path) -> None:
    domains = {
        "day": {"background": "plain", "light": "day"},
        "night": {"background": "checks", "light": "night"},
    }
    data = {"type": "Objects", "cache": str(tmp_path), **SMALL}
    stream = build_stream({"type": "domain_incremental", "data": data, "domains": domains}, CONFIG)
    assert stream.task_names == ("day", "night") and stream.class_names == ("bunny", "pinion", "torus")
    images = [task.train.batch(range(12))[0] for task in stream]
    assert (images[0] != images[1]).flatten(1).any(dim=1).all()
    assert stream[0].train.targets == stream[1].train.targets


@pytest.mark.parametrize("name", [name for name in recipe_names() if "objects_" in name])
def test_recipes_give_their_streams(name: str) -> None:
    """On images of noise, a few of each class."""
    stream = load_recipe(name)["stream"]
    few = {"generated": 1, "train_per_class": 6, "test_per_class": 1}
    made = build_stream({**stream, "data": {**stream["data"], **few}}, CONFIG)
    if made.kind == "domain_incremental":
        assert len(made) == 5 and len(made.class_names) == 20
        used = stream["domains"].values()
        assert {domain["background"] for domain in used} == set(BACKGROUNDS)
        assert {domain["light"] for domain in used} == set(LIGHTS)
        return
    assert sorted(made.class_names) == sorted(list(FILES)[:50])
    sizes = [len(task.classes) for task in made]
    per_class = [len(task.train) / len(task.classes) for task in made]
    if "few_shot" in name:
        assert sizes == [30, 5, 5, 5, 5] and per_class == [6, 5, 5, 5, 5]
    else:
        assert sizes == [5] * 10 and set(per_class) == {6}


@pytest.mark.parametrize(
    ("name", "classes", "steps"),
    [
        pytest.param("objects_class_lora", 5, 300, marks=pytest.mark.slow),
        pytest.param("objects_domains", 20, 375, marks=pytest.mark.slow),
        ("objects_few_shot", 30, 726),  # six epochs of 1,800 images, then four tasks of 25, in batches of 16
    ],
)
def test_a_plan_renders_nothing_and_knows_the_steps(
    name: str, classes: int, steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [f"stream.data.cache={tmp_path / 'none'}", "backbone.options={'depth': 1, 'patch_size': 8}"]
    assert main(["continual", name, "--dry-run", *(part for change in changes for part in ("--set", change))]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"output (2, {classes})" in out and f" {steps} steps, " in out and "no objects yet" in out
    assert not list(tmp_path.iterdir())
