"""`mtpeft check-data RECIPE`: every image of a stream is read, and the types of files are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mtpeft.bars import bar
from mtpeft.data.images import Images
from mtpeft.data.labelled import build_labelled_parts
from mtpeft.data.reading import READ_ERRORS, file_type
from mtpeft.data.splits import common_classes
from mtpeft.data.video.clips import is_video
from mtpeft.errors import ConfigError, DataError, UnknownNameError
from mtpeft.runs.console import open_console
from mtpeft.runs.recipe import find_recipe, load_recipe
from mtpeft.runs.user_code import import_user_code

SHOWN = 10
"""Messages of one sort that are printed; the rest is counted."""
SMALL = {"input_size": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
"""Images are read for a backbone of this size, which none has to be built for."""


def stream_recipe(name: str, overrides: Sequence[str]) -> dict[str, Any] | None:
    """The recipe called `name`, or in that file, if there is one and it has a stream; else None."""
    try:
        find_recipe(name)
    except UnknownNameError:
        return None
    if Path(name).suffix != ".py" or "stream" in load_recipe(name):
        recipe = load_recipe(name, overrides)
        if "stream" in recipe:
            return recipe
    return None


def check_stream(recipe: Mapping[str, Any]) -> int:
    """Read all images of the recipe's stream. Raises `DataError` (exit code 2) when anything is wrong."""
    import_user_code(recipe.get("imports", []))
    name, stream, console = recipe["name"], recipe["stream"], open_console()
    problems: list[str] = []
    for data in _data_sets(name, stream):
        parts = build_labelled_parts(data, SMALL)
        common_classes(*parts)
        for part in parts:
            assert isinstance(part, Images)
            problems += _check_part(console, part)
    if problems:
        more = f"; and {len(problems) - 1} more above" if len(problems) > 1 else ""
        raise DataError(f"recipe {name}: {problems[0]}{more}")
    console.print(f"{name}: nothing wrong", highlight=False)
    return 0


def count_file(files: Counter[str], what: str, path: str) -> None:
    """Count the type of a file; what is no file, or cannot be read (which is told elsewhere), is not counted."""
    try:
        if Path(path).is_file():
            files[f"{what} {file_type(path)}"] += 1
    except READ_ERRORS:
        files[f"{what} of no known type"] += 1


def print_files(console: Console, files: Counter[str]) -> None:
    """The types of files and how many there are of each, the most frequent first."""
    if files:
        shown = "; ".join(f"{kind}: {count}" for kind, count in files.most_common())
        console.print(f"files: {shown}", markup=False, highlight=False, soft_wrap=True)


def print_messages(console: Console, sorts: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Messages by sort, the first of each."""
    for heading, messages in sorts:
        if messages:
            more = f", the first {SHOWN}" if len(messages) > SHOWN else ""
            lines = "\n".join(f"  {message}" for message in messages[:SHOWN])
            console.print(f"{heading}: {len(messages)}{more}\n{lines}", markup=False, highlight=False, soft_wrap=True)


def _data_sets(name: str, stream: Any) -> list[Mapping[str, Any]]:
    """The descriptions of the image data sets of a stream, each once."""
    if not isinstance(stream, Mapping) or stream.get("type") == "dense_incremental":
        raise ConfigError(f"recipe {name}: a stream of dense tasks is checked task by task: mtpeft check-data TASK")
    found: list[Mapping[str, Any]] = []
    for data in _described(stream):
        if isinstance(data, Mapping) and not is_video(data) and data not in found:
            found.append(data)
    if not found:
        raise ConfigError(f"recipe {name}: its stream has no data set of images to check")
    return found


def _described(stream: Mapping[str, Any]) -> list[Any]:
    """What a stream says of each data set: those of its tasks or domains, or its one."""
    data, tasks, domains = (stream.get(key) for key in ("data", "tasks", "domains"))
    common = data if isinstance(data, Mapping) else {}
    if isinstance(tasks, Mapping):
        own = [task.get("data", data) if isinstance(task, Mapping) else None for task in tasks.values()]
        return [{**common, **one} if isinstance(one, Mapping) and "type" not in one else one for one in own]
    if isinstance(domains, Mapping):
        return [{**common, **own} for own in domains.values() if isinstance(own, Mapping)]
    return [data]


def _check_part(console: Console, part: Images) -> list[str]:
    """Read every image; prints what was found, and returns what is wrong."""
    files: Counter[str] = Counter()
    errors: list[str] = []
    constant: list[str] = []
    paths = part.files or [f"{part.name}: image {index}" for index in range(len(part))]
    for index, path in enumerate(bar(paths, f"reading {part.name}", "image")):
        count_file(files, "images", path)
        try:
            pixels = part.raw(index)
        except DataError as error:
            errors.append(str(error))
            continue
        if bool((pixels == pixels[:, :1, :1]).all()):
            constant.append(path)
    counts = Counter(part.targets)
    console.print(f"{part.name}: {len(part)} images of {len(counts)} classes", markup=False, highlight=False)
    print_files(console, files)
    fewest = min(counts, key=lambda label: counts[label])
    most = max(counts, key=lambda label: counts[label])
    console.print(
        f"images of a class: {counts[fewest]} ({part.classes[fewest]}) to {counts[most]} ({part.classes[most]})",
        markup=False,
        highlight=False,
    )
    print_messages(console, [("images of one colour", constant), ("errors", errors)])
    return errors
