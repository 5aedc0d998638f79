"""What a continual recipe describes, built: data, backbone, manager, stream, strategy."""

from __future__ import annotations

from typing import Any

from mtpeft.continual.features import Features
from mtpeft.continual.mixing import check_input, check_mixing
from mtpeft.continual.model import ContinualModel
from mtpeft.continual.objectives import objectives_of
from mtpeft.continual.plugins import build_plugins, granularity
from mtpeft.continual.progress import Measured
from mtpeft.continual.scenario import build_scenario, wants_baselines
from mtpeft.continual.strategy import ContinualStrategy
from mtpeft.continual.strips import strips_per_task
from mtpeft.continual.training import Training
from mtpeft.data.dense.stream import DENSE
from mtpeft.errors import ConfigError
from mtpeft.evaluation.definitions import REGISTRY
from mtpeft.evaluation.matrix import AccuracyMatrix
from mtpeft.evaluation.single_task import single_task_values
from mtpeft.manager.attach import resolve_methods
from mtpeft.options import Section
from mtpeft.runs.backbone import BackboneSection
from mtpeft.runs.distributed import rank
from mtpeft.runs.feature_cache import CacheSection
from mtpeft.runs.input import data_config, read_input
from mtpeft.runs.logs import Logs, check_visualizer
from mtpeft.runs.machine import fit
from mtpeft.runs.progress import Progress
from mtpeft.runs.published import check_published
from mtpeft.runs.setup import Setup
from mtpeft.runs.threads import set_threads


class Built:
    """Everything a recipe describes, ready to be trained."""

    def __init__(self, recipe: dict[str, Any], progress: Progress | None = None) -> None:
        """Build backbone, manager, stream and strategy. Raises `ConfigError` and `DataError` naming recipe and key."""
        self.recipe, self.progress = recipe, progress or Progress()
        if "search" in recipe:
            raise ConfigError(
                f"recipe {recipe['name']}: a search is three runs (mtpeft continual), and no run of a sweep or a comparison"
            )
        top = Section(recipe, recipe["name"])
        setup = Setup.read(top, interval=100)
        self.name, self.seed, self.device, self.interval = setup.name, setup.seed, setup.device, setup.interval
        backbone = BackboneSection.read(top.section("backbone"))
        method, sharing = top.take("method"), top.take("sharing", None)
        stream, augment = dict(top.section("stream").values), top.take("augment", None)
        given = read_input(top.section("input"), dense=stream.get("type") == DENSE)
        self.training = Training.read(top.section("training"))
        plugins = build_plugins(top.take("plugins", []))
        self.plugins = [type(plugin).__name__ for plugin in plugins]
        self.continue_from = top.take("continue_from", None)
        baselines, single_task = top.take("baselines", None), top.take("single_task", None)
        strips, published = top.take("strips", None), top.take("published", None)
        backends = check_visualizer(top.take("visualizer", []), self.name)
        self.logs = Logs(backends if rank() == 0 else [], recipe)
        cache = CacheSection.read(top)
        top.finish()
        set_threads(self.training.threads, self.training.workers)
        resolve_methods(method, sharing)
        setup.seed_all()
        model, self.backbone_name = backbone.create(), backbone.name
        self.manager = backbone.attach(model, method, sharing)
        self.manager.to(self.device)
        size = self.manager.anatomy.input_size  # the option `img_size` does not change timm's configuration
        self.data_config = {**data_config(model, given), "input_size": size}
        self.stream = build_scenario(stream, self.data_config, augment, self.seed, self.name)
        check_input(self.stream, given, self.name)
        check_mixing(self.stream, plugins, self.training.loss, self.name)
        check_published(published, [*REGISTRY, *self.stream.task_names], self.name)
        self.with_baselines = wants_baselines(baselines, self.stream, self.name)
        self.strips = strips_per_task(strips, self.stream, self.name)
        objectives = objectives_of(self.stream)
        heads = [(objective.metric.name, objective.head) for objective in objectives]
        self.model = ContinualModel(self.manager, self.stream.kind, heads)
        self.model.to(self.device)
        fit(self.manager, self.training, self.training.batch_size, self.progress.message)
        self.features = Features.of(cache, self)
        self.strategy = ContinualStrategy(
            model=self.model,
            stream=self.features.stream,
            training=self.training,
            seed=self.seed,
            plugins=plugins,
            device=self.device,
        )
        self.granularity = granularity(plugins)
        metrics = [objective.metric for objective in objectives]
        names = [metric.name for metric in metrics]
        alone = None if single_task is None else single_task_values(single_task, names)
        self.measured = Measured(
            AccuracyMatrix(metrics),
            reference=[None] * len(names),
            single_task=None if alone is None else [alone[name] for name in names],
        )
