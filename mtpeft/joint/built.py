"""What a joint recipe describes, built: data, backbone, manager, model, sampler, optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtpeft.data.dense.row_view import check_fixed_views, common_size
from mtpeft.data.feature_cache import FeatureCache
from mtpeft.data.validation import Validation
from mtpeft.errors import ConfigError
from mtpeft.evaluation.single_task import single_task_values
from mtpeft.joint.data import JointData
from mtpeft.joint.model import JointModel
from mtpeft.joint.optim import UpdateWrapper
from mtpeft.joint.sampler import TaskSampler
from mtpeft.joint.training import Training
from mtpeft.joint.weighting import build_weighting
from mtpeft.manager.attach import resolve_methods
from mtpeft.options import NotNegative, Section, WholeNumber, check_options
from mtpeft.runs.backbone import BackboneSection
from mtpeft.runs.batch_norm import REMEDY, norms_of_one_value
from mtpeft.runs.distributed import rank, start, world
from mtpeft.runs.feature_cache import CacheSection, precision_of
from mtpeft.runs.input import data_config, read_input
from mtpeft.runs.logs import Logs, check_visualizer
from mtpeft.runs.machine import fit
from mtpeft.runs.progress import Progress
from mtpeft.runs.published import check_published
from mtpeft.runs.setup import Setup
from mtpeft.runs.threads import set_threads
from mtpeft.runs.update import Update


class Built:
    """Everything a recipe describes, ready to be trained."""

    def __init__(self, recipe: dict[str, Any], progress: Progress | None = None) -> None:
        """Build data, backbone, manager and model. Raises `ConfigError` and `DataError` naming recipe and key."""
        self.recipe, self.progress = recipe, progress or Progress()
        top = Section(recipe, recipe["name"])
        setup = Setup.read(top, interval=50)
        self.name, self.seed, self.device, self.interval = setup.name, setup.seed, setup.device, setup.interval
        if top.take("continue_from", None) is not None:
            raise ConfigError(
                f"recipe {self.name}: continue_from adds tasks to a continual run; a joint run trains all at once"
            )
        start(self.device)
        backbone = BackboneSection.read(top.section("backbone"))
        method, sharing = top.take("method"), top.take("sharing", None)
        data, transforms = top.section("data").values, top.section("transforms")
        given = read_input(top.section("input"), dense=True)
        tasks, head = top.take("tasks"), top.take("head", None)
        self.training = Training.read(top.section("training"))
        validation = Validation.of(top.take("validation", None), self.name, "validation")
        sampler, weighting = top.section("sampler").values, top.section("weighting").values
        self.reference, published = top.take("single_task", None), top.take("published", None)
        backends = check_visualizer(top.take("visualizer", []), self.name)
        self.logs = Logs(backends if rank() == 0 else [], recipe)
        self.pictures = top.take("pictures", 3, WholeNumber)
        self.conflict_batches = top.take("gradient_conflict", 4, WholeNumber)
        cache = CacheSection.read(top)
        top.finish()
        set_threads(self.training.threads, self.training.workers)
        resolve_methods(method, sharing)
        sections = self._sections(tasks, head)
        check_published(published, ["delta", *sections], self.name)
        self.single_task = single_task_values(self.reference, list(sections))
        setup.seed_all()
        model, self.backbone_name = backbone.create(), backbone.name
        self.data_config = data_config(model, given)
        views = {split: transforms.take(split, []) for split in ("train", "val")}
        transforms.finish()
        mean, std = self.data_config["mean"], self.data_config["std"]
        self.data = JointData(data, sections, views, self.seed, mean, std, validation)
        kinds = self.data.kinds
        self.manager = backbone.attach(model, method, sharing)
        if driven := [a.sharing_name for a in self.manager.methods if a.weights.driven]:
            raise ConfigError(
                f"recipe {self.name}: sharing {driven[0]!r} is moved by LAE, a way of continual training alone"
            )
        if growing := [a.sharing_name for a in self.manager.methods if a.weights.grows]:
            raise ConfigError(
                f"recipe {self.name}: sharing {growing[0]!r} trains the newest task's weights alone, a way of continual "
                "training: sharing='shared' or 'per_task'"
            )
        self.data_config["input_size"] = self.manager.anatomy.input_size  # the option `img_size` does not change timm's
        for task, section in sections.items():
            options = {k: v for k, v in section["head"].items() if k != "name"}
            self.manager.add_task(task, head=section["head"]["name"], **{"channels": kinds[task].channels, **options})
        weights = {task: float(s.get("weight", kinds[task].default_weight)) for task, s in sections.items()}
        discrete = [task for task, kind in kinds.items() if not kind.continuous]
        self.model = JointModel(self.manager, kinds, build_weighting(weighting, weights, discrete), self.seed)
        self.model.to(self.device)
        fit(self.manager, self.training, self.training.batch_size // world(), self.progress.message)
        self.features = self._features(cache)
        self.model.needs_two = self._need_two()
        self.optim_wrapper = self._optim_wrapper()
        self.sampler = self._sampler(sampler)

    def _sections(self, tasks: Any, head: Any) -> dict[str, dict[str, Any]]:
        """The recipe's task sections, each with a head."""
        if not isinstance(tasks, Mapping) or not tasks:
            raise ConfigError(f"recipe {self.name}: tasks must be a mapping of at least one task, got {tasks!r}")
        found = {}
        used = head is None
        for task, values in tasks.items():
            section = Section(values, self.name, f"tasks.{task}.")
            for key in ("kind", "options", "metric", "label", "head"):
                section.take(key, None)
            section.take("data", None, dict | None)
            section.take("weight", None, NotNegative | None)
            section.finish()
            given = section.take("head", None) or head
            if not isinstance(given, Mapping) or "name" not in given:
                raise ConfigError(
                    f"recipe {self.name}: give tasks.{task}.head, or head for all tasks, as dict(name=...)"
                )
            used |= not section.take("head", None)
            found[task] = {**{k: v for k, v in section.values.items() if v is not None}, "head": dict(given)}
        if not used:
            raise ConfigError(f"recipe {self.name}: the key head has no effect, every task has a head of its own")
        return found

    def _features(self, section: CacheSection | None) -> FeatureCache | None:
        """The cache a recipe asks for, the data set's views with rows for images."""
        if section is None:
            return None
        views = self.data.all_views

        def check() -> tuple[int, int]:
            check_fixed_views(self.data.train)
            return common_size(views)

        cache = section.open(
            self.manager, self.training, check, sum(len(view) for view in views), self.progress.message
        )
        if cache is not None:
            self.data.use_rows(cache, precision_of(self.training, self.device))
        return cache

    def _need_two(self) -> frozenset[str]:
        """The tasks with a batch norm that cannot train on one image; a `ConfigError` where a batch has no more."""
        found = set()
        for task, place in self.data.places.items():

            def show(task: str = task, source: int = place.source) -> None:
                image = self.data.train[source][0]["image"]
                with self.manager.runtime.trials():
                    self.manager(image[None].to(self.device), task)

            norms = norms_of_one_value(self.model, show)
            if norms and self.training.batch_size // world() < 2:
                raise ConfigError(f"training.batch_size is too small for batch norm {norms[0]!r}: {REMEDY}")
            found |= {task} if norms else set()
        return frozenset(found)

    def _optim_wrapper(self) -> UpdateWrapper:
        settings = self.training
        if settings.amp == "float16" and self.model.weighting.combines_gradients:
            raise ConfigError("training.amp float16 scales losses, which a weighting of gradients cannot use: bfloat16")
        optimizer = settings.build_optimizer(self.model.trained(), self.manager.weight_groups())
        return UpdateWrapper(Update(optimizer, self.device.type, settings))

    def _sampler(self, config: dict[str, Any]) -> TaskSampler:
        given = ("sizes", "sources", "batch_size", "parts", "seed", "rank", "world")
        options = check_options(f"recipe {self.name}: sampler", TaskSampler, config, given=given)
        return TaskSampler(
            self.data.sizes,
            {task: place.source for task, place in self.data.places.items()},
            self.training.batch_size,
            parts=self.training.accumulate,
            seed=self.seed,
            rank=rank(),
            world=world(),
            **options,
        )
