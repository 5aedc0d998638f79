"""A finished run, loaded: its model, and what its outputs mean. A run folder executes nothing.

The recipe is parsed, not run; weights are safetensors; methods, heads and kinds are found in registries by name. Code of
the user's own that the recipe imports is executed only where the folder is trusted.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mtpeft.errors import ConfigError
from mtpeft.manager.loading import load
from mtpeft.manager.manager import TaskManager
from mtpeft.options import Section, WholeNumber
from mtpeft.runs.backbone import BackboneSection
from mtpeft.runs.device import usable_device
from mtpeft.runs.folder import read_recipe
from mtpeft.runs.model_folder import BEST, MODEL, ModelTasks
from mtpeft.runs.user_code import import_user_code

#: torch's switch against pickles
FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True)
class LoadedRun:
    """A run's recipe, its model in eval mode on `device`, and the tasks of that model by the names the run gave them."""

    folder: Path
    recipe: Mapping[str, Any]
    manager: TaskManager
    tasks: ModelTasks
    device: torch.device

    @property
    def name(self) -> str:
        """The recipe's."""
        return str(self.recipe.get("name"))


def read_run(
    folder: str | Path,
    device: str | torch.device = "auto",
    *,
    trust_imports: bool = False,
    best: bool = False,
    backbone: nn.Module | None = None,
) -> LoadedRun:
    """The model of a finished run, as it was at its end; with `best` as validation data chose it, where a run has that.

    `device` "auto" is a GPU where there is one. `trust_imports` executes the modules that the recipe imports. `backbone` is
    the model the run was trained on, where it is at hand; else the recipe says which to create. Raises `ConfigError` for a
    folder that is no run, is not finished, or has code that is not trusted, and a backbone whose weights are not to be had,
    `CheckpointError` for a damaged model, or another backbone.
    """
    folder = Path(folder)
    recipe = finished_recipe(folder)
    check_trust(recipe, folder, trust_imports)
    import_user_code(recipe.get("imports", []))
    place = folder / (BEST if best else MODEL)
    if best and not place.is_dir():
        raise ConfigError(f"{folder} has no best checkpoint: validation data chose none; leave it out for the last one")
    tasks = ModelTasks.read(folder / MODEL)
    chosen = usable_device(device, str(folder))
    top = Section(recipe, str(folder))
    section, seed = BackboneSection.read(top.section("backbone")), top.take("seed", 0, WholeNumber)
    with seeded(seed), nothing_unpickled():
        manager = load(place, _created(section, folder) if backbone is None else backbone)
    manager.to(chosen).eval()
    return LoadedRun(folder, recipe, manager, tasks, chosen)


def _created(section: BackboneSection, folder: Path) -> nn.Module:
    try:
        return section.create()
    except ConfigError as error:
        raise ConfigError(
            f"{folder}: its backbone is not to be had: {error}; from Python, pass backbone=model"
        ) from error


def finished_recipe(folder: Path) -> dict[str, Any]:
    """The recipe of a finished run with one model; `ConfigError` where the folder has none."""
    if not (folder / "config.py").is_file():
        inner = sorted(path.parent.name for path in folder.glob("*/config.py")) if folder.is_dir() else []
        more = f"; it holds the runs {', '.join(inner)}: name one of them" if inner else ""
        raise ConfigError(f"{folder} is no run folder: it has no config.py{more}")
    recipe = read_recipe(folder)
    if not (folder / "results.json").is_file():
        raise ConfigError(f"{folder} is not complete: it has no results.json; run its recipe to the end first")
    if recipe.get("separate"):
        raise ConfigError(
            f"{folder} has a model for each task: name one of {', '.join(str(folder / task) for task in recipe['tasks'])}"
        )
    return recipe


def check_trust(recipe: Mapping[str, Any], folder: Path, trusted: bool) -> None:
    """Raise `ConfigError`, naming them, for modules that a recipe would have executed, unless it is `trusted`."""
    imports = recipe.get("imports") or []
    names = list(imports) if isinstance(imports, (list, tuple)) else [imports]
    if names and not trusted:
        raise ConfigError(
            f"{folder}: its recipe imports {', '.join(map(str, names))}, which would be executed; add --trust-imports "
            "(from Python trust_imports=True) if you trust it"
        )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from `seed`, as a run starts them; the caller's go on afterwards as if nothing had been drawn."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # the CPU's, where models are created
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def nothing_unpickled() -> Iterator[None]:
    """torch loads tensors alone, also where a library asks for more (older timm, of a recipe's `checkpoint_path`)."""
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        yield
    finally:
        os.environ.pop(FORCE)
        if before is not None:
            os.environ[FORCE] = before
