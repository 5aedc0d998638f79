"""Recipes with a section `search`: a supernet is trained, the best subnet is searched by it, and trained anew.

Three stages, each in a folder of its own below the run's: `supernet` and `subnet` are runs as any, with their recipes made
here; `search` holds what was measured between them, so that a search that was killed goes on and ends the same.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch

from mtpeft.continual.benchmark import TaskLoader
from mtpeft.continual.built import Built
from mtpeft.continual.experiment import Experiment
from mtpeft.data.loader import Readers, ResumableLoader
from mtpeft.data.streams import TASK_KNOWN, Stream
from mtpeft.errors import ConfigError
from mtpeft.files import seal, sha256, unseal, write_atomic
from mtpeft.manager.manager import TaskManager
from mtpeft.methods import METHODS
from mtpeft.options import Count, Length, Section
from mtpeft.runs.comparison import merged
from mtpeft.runs.config_file import CONFIG
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.lock import TRAINING, Lock
from mtpeft.runs.machine import matrix_products
from mtpeft.runs.state import INDEX
from mtpeft.search import Elastic, Evolution, Generation, Space, Subnet, any_legal, evolve

SUPERNET, SEARCH, SUBNET = "supernet", "search", "subnet"
#: in the folder `search`: what was measured so far, and what was found
SCORES, FOUND = "scores.json", "search.json"


@dataclass(frozen=True, kw_only=True)
class SearchSection(Evolution):
    """The recipe's section `search`: the space, how it is searched, and what of the recipe is another for the subnet.

    `sizes` of every part; `depths`: how many of the first blocks have it (None: a quarter, a half, three quarters, all);
    `retrain`: changes of the recipe for the subnet, mapping by mapping, such as `dict(training=dict(epochs=100))`.
    """

    sizes: Annotated[tuple[Count, ...], Length(at_least=1)]
    depths: Annotated[tuple[Count, ...], Length(at_least=1)] | None = None
    retrain: dict[str, Any] = field(default_factory=dict)

    @property
    def plain(self) -> dict[str, Any]:
        """What a search's result depends on, as JSON has it."""
        return json.loads(json.dumps({k: v for k, v in asdict(self).items() if k != "retrain"}))


class SearchRecipe:
    """The recipes of the stages. Raises `ConfigError` for a method that is not elastic, and without validation data."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        self.name, where = str(recipe["name"]), f"recipe {recipe['name']}"
        top = Section(recipe, self.name)
        section = top.section("search")
        section.take("sizes")
        self.settings = SearchSection(**section.fields(SearchSection))
        self.seed: int = top.take("seed", 0, int)
        self.plugins: tuple[Any, ...] = top.take("plugins", (), tuple[Any, ...])
        self._own = {key: value for key, value in recipe.items() if key != "search"}
        method, stream = recipe.get("method"), recipe.get("stream")
        self.method: dict[str, Any] = dict(method) if isinstance(method, Mapping) else {"name": method}
        if not isinstance(self.method.get("name"), str):
            raise ConfigError(f"{where}: a search is of one method, method=dict(name=...), not of {method!r}")
        spec = METHODS.get(self.method["name"])
        if spec.elastic is None:
            raise ConfigError(f"{where}: the sizes of method {spec.name!r} cannot be searched: it is not elastic")
        self.parts = tuple(dict.fromkeys(spec.elastic.values()))
        for part in self.parts:
            if part in self.method:
                raise ConfigError(f"{where}: the search chooses {part}; leave method.{part} out")
        validation = stream.get("validation") if isinstance(stream, Mapping) else None
        if not isinstance(validation, Mapping):
            raise ConfigError(f"{where}: a search needs validation data: stream.validation=dict(share=0.2)")
        if validation.get("instead_of_test"):
            raise ConfigError(f"{where}: the search looks at validation data alone: leave out instead_of_test")

    def supernet(self) -> dict[str, Any]:
        """All parts at the largest size, trained on what is not held out; the test part is not looked at."""
        settings, own = self.settings, self._own
        largest = {part: max(settings.sizes) for part in self.parts}
        plugin = {"type": "Supernet", "sizes": list(settings.sizes)}
        if settings.depths is not None:
            plugin["depths"] = list(settings.depths)
        validation = {**own["stream"]["validation"], "instead_of_test": True}
        return {
            **{key: value for key, value in own.items() if key != "published"},
            "name": f"{self.name}-{SUPERNET}",
            "method": {**self.method, **largest},
            "stream": {**own["stream"], "validation": validation},
            "plugins": [*self.plugins, plugin],
            "baselines": False,
        }

    def subnet(self, subnet: Subnet) -> dict[str, Any]:
        """The subnet from fresh weights, trained on all of the training part and tested."""
        stream = {key: value for key, value in self._own["stream"].items() if key != "validation"}
        sizes = {part: list(subnet[part]) for part in self.parts if part in subnet}
        recipe = {**self._own, "name": f"{self.name}-{SUBNET}", "method": {**self.method, **sizes}, "stream": stream}
        return merged(recipe, self.settings.retrain)

    def any_subnet(self, manager: TaskManager) -> Subnet:
        """One within the limit, of the supernet a manager has. Raises `ConfigError` where there is none."""
        elastic = Elastic(manager)
        space = elastic.space(self.settings.sizes, self.settings.depths)
        return any_legal(space, elastic.weights, self.settings.limit, self.seed)

    def check(self) -> None:
        """Build what the stages train, before hours go into the first: raises what a stage would."""
        Built(self.subnet(self.any_subnet(Built(self.supernet()).manager)))


@dataclass(frozen=True)
class Found:
    """What a search ends with."""

    subnet: Subnet
    weights: int
    fitness: float
    generations: list[dict[str, float]]

    @property
    def told(self) -> list[str]:
        """A line for each generation, and what was found."""
        lines = [
            f"generation {number}: {row['measured']} subnets, mean {row['mean']:.2f}; best so far {row['best']:.2f}, "
            f"{row['weights']:,} weights"
            for number, row in enumerate(self.generations, start=1)
        ]
        sizes = "; ".join(f"{part} {' '.join(map(str, values))}" for part, values in self.subnet.items())
        return [*lines, f"found: {sizes}; {self.weights:,} weights, {self.fitness:.2f} on validation data"]


class Search:
    """The search in one folder, over the supernet that the run in another left; `run` goes on where it was killed.

    The fitness of a subnet is the mean of the tasks' metric on their validation data, under the supernet's leading rows.
    """

    def __init__(self, recipe: SearchRecipe, supernet: Path, folder: Path) -> None:
        self.recipe, self.supernet, self.folder = recipe, supernet, folder
        index = (supernet / "checkpoints" / INDEX).read_bytes()
        #: what the measures are of: the supernet's weights, and the settings
        self.of = {"supernet": sha256(index), "seed": recipe.seed, **recipe.settings.plain}

    @property
    def found(self) -> Found | None:
        """What was found, None before the end. Raises `ConfigError` where it is of another supernet or other settings."""
        content = self._read(FOUND)
        if content is None:
            return None
        subnet = {part: tuple(sizes) for part, sizes in content["subnet"].items()}
        return Found(subnet, content["weights"], content["fitness"], content["generations"])

    def run(self, stop: Callable[[], bool], progress: Any) -> Found | None:
        """Search to the end; None when `stop` said to stop."""
        recipe, settings = self.recipe, self.recipe.settings
        experiment = Experiment(recipe.supernet(), progress)
        experiment.restore_final(RunFolder(self.supernet, recipe.supernet()))
        elastic = Elastic(experiment.manager)
        space = elastic.space(settings.sizes, settings.depths)
        progress.stage("search", settings.population * settings.generations)
        measure = _Measure(experiment, elastic)
        known = {tuple(map(tuple, key)): value for key, value in (self._read(SCORES) or {"scores": []})["scores"]}

        def fitness(subnet: Subnet) -> float:
            key = tuple(subnet[part] for part in space.parts)
            if key not in known:
                if stop():
                    raise _Stopped
                known[key] = measure(subnet)
                self._write(SCORES, {"scores": list(known.items())})
            progress.step()
            return known[key]

        try:
            with matrix_products(experiment.training, experiment.device, progress.message):
                generations = evolve(space, elastic.weights, fitness, settings, recipe.seed)
        except _Stopped:
            return None
        return self._finish(space, generations)

    def _finish(self, space: Space, generations: list[Generation]) -> Found:
        winner = generations[-1].best[0]
        rows = [
            {
                "measured": len(generation.measured),
                "mean": sum(c.fitness for c in generation.measured) / max(1, len(generation.measured)),
                "best": generation.best[0].fitness,
                "weights": generation.best[0].weights,
            }
            for generation in generations
        ]
        found = Found(winner.subnet, winner.weights, winner.fitness, rows)
        self._write(FOUND, {"parts": list(space.parts), **asdict(found)})
        return found

    def _read(self, name: str) -> dict[str, Any] | None:
        file = self.folder / name
        if not file.is_file():
            return None
        try:
            content = unseal(file.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{file} is damaged ({error}); start again with --fresh") from None
        if content["of"] != self.of:
            raise ConfigError(
                f"{self.folder} is the search of another supernet, or with other settings; give another --out, or --fresh"
            )
        return content

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_atomic(self.folder / name, seal({"of": self.of, **content}))


class _Measure:
    """A subnet's mean metric on the tasks' validation data."""

    def __init__(self, experiment: Experiment, elastic: Elastic) -> None:
        self.experiment, self.elastic = experiment, elastic
        assert isinstance(experiment.stream, Stream)
        self.data = [task.validation.plain() for task in experiment.stream if task.validation is not None]
        workers = experiment.training.workers
        self.readers = [Readers(data, workers) if workers else None for data in self.data]

    @torch.no_grad()
    def __call__(self, subnet: Subnet) -> float:
        self.elastic.use(subnet)
        self.experiment.model.eval()
        values = [self._task(index) for index in range(len(self.data))]
        return sum(values) / len(values)

    def _task(self, index: int) -> float:
        experiment = self.experiment
        size, measure = experiment.training.eval_batch_size, experiment.strategy.objectives[index].measure()
        loader = ResumableLoader(self.data[index], size, 0, 0, shuffle=False, readers=self.readers[index])
        for batch in TaskLoader(loader, index if experiment.stream.kind in TASK_KNOWN else 0):
            assert batch is not None
            x, y, labels = batch
            measure.update(experiment.model(x.to(experiment.device), labels), y.to(experiment.device))
        return measure.value()


class _Stopped(Exception):
    """Raised out of a search that was asked to stop."""


def discard(path: Path) -> None:
    """Remove what an earlier search, and the run of its subnet, left below `path`."""
    for name in (SCORES, FOUND):
        (path / SEARCH / name).unlink(missing_ok=True)
    if (path / SUBNET / CONFIG).is_file():
        lock = Lock(path / SUBNET / TRAINING, str(path / SUBNET))
        shutil.rmtree(path / SUBNET)
        lock.release()
