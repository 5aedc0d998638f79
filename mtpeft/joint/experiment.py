"""A joint run from recipe to results: builds, trains through MMEngine's Runner, evaluates, saves, resumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mtpeft.data.dense.row_view import check_fixed_views, common_size
from mtpeft.data.feature_cache import FeatureCache
from mtpeft.data.validation import Validation
from mtpeft.errors import ConfigError, MtpeftError
from mtpeft.evaluation.results import write
from mtpeft.evaluation.run_facts import device_name, memory_facts, run_facts
from mtpeft.evaluation.single_task import single_task_values
from mtpeft.joint import evaluation
from mtpeft.joint.conflict import gradient_conflict
from mtpeft.joint.data import JointData, build_loader
from mtpeft.joint.hooks import CurveHook, EvaluateHook, LossCurve, RateHook, StateHook
from mtpeft.joint.loop import build_runner
from mtpeft.joint.model import JointModel
from mtpeft.joint.optim import UpdateWrapper
from mtpeft.joint.pictures import FOLDER, write_pictures
from mtpeft.joint.sampler import TaskSampler
from mtpeft.joint.summary import model_tasks, summarise
from mtpeft.joint.training import Training
from mtpeft.joint.weighting import build_weighting
from mtpeft.manager.attach import resolve_methods
from mtpeft.options import NotNegative, Section, WholeNumber, check_options
from mtpeft.runs.backbone import BackboneSection
from mtpeft.runs.batch_norm import REMEDY, norms_of_one_value
from mtpeft.runs.distributed import any_of, average_buffers, first, rank, start, world
from mtpeft.runs.feature_cache import CacheSection, cache_facts, fill, precision_of
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.input import data_config, read_input
from mtpeft.runs.logs import Logs, check_visualizer
from mtpeft.runs.machine import described, fit, matrix_products
from mtpeft.runs.model_folder import BEST, MODEL, ModelTasks, save_model
from mtpeft.runs.progress import Progress
from mtpeft.runs.published import check_published
from mtpeft.runs.setup import Setup
from mtpeft.runs.threads import set_threads
from mtpeft.runs.update import NonFiniteLossError, Update


class JointExperiment:
    """Everything a recipe describes, built; `run` trains it to the end, from wherever the folder's checkpoint stands."""

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
        self.curve = LossCurve(self.training.log_every)
        self.sampled: dict[str, Any] = self.sampler.state
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None

    # running ------------------------------------------------------------------------------------------------------

    def run(self, folder: RunFolder | None, stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
        """Train to the end and write results; returns them, or None when `stop` said to stop (the state is saved).

        `folder` is None in the processes that do not write; they get None.
        """
        self.folder, self.stop = folder, stop
        self.progress.message(described(self.device))
        state = first(None if folder is None else folder.saved())
        if state is None:
            self.data.check_first()
        else:
            self.restore(state)
        if folder is not None:
            folder.open()
            for line in folder.told:
                self.progress.message(line)
            folder.accept(self.model.step)
            values = {
                "recipe": self.name,
                "seed": self.seed,
                "step": self.model.step,
                "device": device_name(self.device),
            }
            folder.log("start" if state is None else "resume", **values)
            self.logs.open(folder.path)
        if self.features is not None:
            filled = fill(self.features, self.data.all_views, self.progress, self.training.workers)
            if folder is not None:
                folder.log("features", **filled)
        if state is not None:
            self.progress.message(f"resuming at step {self.model.step + 1} of {self.training.steps}")
        if self.model.needs_two and not self.manager.single_pass:
            self.progress.message(
                f"batch norm of {', '.join(sorted(self.model.needs_two))} needs two images of the task: a sample that is alone "
                "in a batch is skipped, and counted"
            )
        begun = self.model.step
        self.progress.stage("training", self.training.steps - begun)
        with matrix_products(self.training, self.device, self.progress.message):
            if begun < self.training.steps:
                try:
                    self._train(begun)
                except NonFiniteLossError as error:
                    raise NonFiniteLossError(self._explain(error)) from None
                finally:
                    self.logs.close()
            if self.model.step < self.training.steps:
                return None
            return self._finish() if rank() == 0 else None

    def _train(self, begun: int) -> None:
        curve = CurveHook(self.curve, self.model.recent, self._after_step, self.logs.add)
        hooks = [
            RateHook(lambda optimizer, step: self.training.set_rate(optimizer, step, self.training.steps)),
            curve,
            EvaluateHook(self.evaluate, self.training.eval_every, curve.read, self.logs.add),
            StateHook(self.save, self.stopping, self.interval, curve.read),
        ]
        with TemporaryDirectory() as nowhere:  # for the processes that do not write
            runner = build_runner(
                model=self.model,
                loader=build_loader(self.data, self.sampler, self.training.workers, self.device),
                optim_wrapper=self.optim_wrapper,
                hooks=hooks,
                steps=self.training.steps,
                start=begun,
                work_dir=Path(nowhere) if self.folder is None else self.folder.path / "mmengine",
                seed=self.seed,
            )
            runner.train()

    def _after_step(self, sampled: dict[str, Any]) -> None:
        self.sampled = sampled
        self.progress.step()

    def _explain(self, error: NonFiniteLossError) -> str:
        """One line for the user: what happened where, what is left, what to do."""
        state = None if self.folder is None else self.folder.state.read()
        kept = "there is no checkpoint yet" if state is None else f"the checkpoint of step {state['step']} is kept"
        return f"{error}; {kept}: lower training.optimizer.lr or set training.clip"

    def stopping(self) -> bool:
        """Whether to stop after this step: all processes, when one of them is asked to."""
        return any_of(self.stop())

    def evaluate(self, step: int) -> dict[str, Any]:
        """Evaluate on the test part; an entry of the history.

        Where there are validation data, those held out of the training part, keeps the weights with the best delta on them.
        """
        self.progress.message(f"step {step}: evaluating")
        average_buffers(self.model.buffers())
        values = evaluation.evaluate(self.model, self.data, self.training.eval_batch_size, self.device)
        delta = evaluation.delta(self.model, values, self.single_task)
        entry = {"step": step, "values": values, "delta": delta}
        if self.data.held:
            held = evaluation.evaluate(self.model, self.data, self.training.eval_batch_size, self.device, "held")
            entry["validation_delta"] = self._keep_best(step, evaluation.delta(self.model, held, self.single_task))
        self.history.append(entry)
        if self.folder is not None:
            main = evaluation.main_values(self.model, values)
            self.folder.log("evaluate", step=step, main=main, delta=delta)
        return entry

    @property
    def model_tasks(self) -> ModelTasks:
        """What the outputs of the model mean, kept beside its weights."""
        return model_tasks(self.data)

    def _keep_best(self, step: int, delta: float | None) -> float | None:
        if delta is not None and (self.best is None or delta > self.best["delta"]):
            self.best = {"step": step, "delta": delta}
            if self.folder is not None:
                save_model(self.manager, self.folder.path / BEST, self.model_tasks)
        return delta

    def _finish(self) -> dict[str, Any]:
        assert self.folder is not None
        if not self.manager.own_weights and not self.manager.backbone_unchanged():
            raise MtpeftError("the frozen backbone changed while the tasks were trained; results are not written")
        self.progress.stage("pictures, gradients, operations", 0)
        size = self.training.eval_batch_size
        if self.pictures:
            write_pictures(self.model, self.data, self.folder.path / FOLDER, self.pictures, size, self.device)
        conflict = None
        if self.conflict_batches:
            size = self.training.batch_size
            conflict = gradient_conflict(self.model, self.data, size, self.conflict_batches, self.device)
        save_model(self.manager, self.folder.path / MODEL, self.model_tasks)
        results = {
            **run_facts(self),
            **self.folder.facts,
            **cache_facts(self.features, sum(len(view) for view in self.data.all_views)),
            **summarise(self.model, self.data, self.history),
            "memory": memory_facts(self, self.data.shapes),
            "single_task": self.single_task,
            "best": self.best,
            "gradient_conflict": conflict,
            "pictures": FOLDER if self.pictures else None,
        }
        write(self.folder.results, results)
        self.folder.log("done")
        return results

    # state --------------------------------------------------------------------------------------------------------

    def save(self, step: int) -> None:
        """Write everything needed to go on after `step` steps; the first process does."""
        if self.folder is None:
            return
        state = {
            "step": step,
            "weights": self.manager.trained_state(),
            "weighting": self.model.weighting.state(),
            "update": self.optim_wrapper.update.state(),
            "sampler": self.sampled,
            "curve": vars(self.curve),
            "history": self.history,
            "best": self.best,
            "skipped": self.model.skipped,
            "logs": self.logs.state(),
        }
        self.folder.state.write(state)
        self.logs.send()
        self.folder.log("checkpoint", step=step, steps=self.training.steps)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `save` wrote."""
        self.model.step = state["step"]
        self.manager.load_state_dict(state["weights"], strict=False)
        self.model.weighting.load(state["weighting"])
        self.optim_wrapper.update.restore(state["update"])
        self.sampler.state = self.sampled = state["sampler"]
        self.curve = LossCurve(**{**state["curve"], "every": self.training.log_every})
        self.history, self.best, self.model.skipped = state["history"], state["best"], state["skipped"]
        self.logs.restore(state.get("logs"))

    def evaluate_final(self, folder: RunFolder) -> evaluation.Values:
        """The final values, measured again on the state a finished run left."""
        state = folder.state.read()
        if state is None or state["step"] != self.training.steps:
            raise ConfigError(f"{folder.path} has no saved state of a finished run")
        self.restore(state)
        with matrix_products(self.training, self.device, self.progress.message):
            return evaluation.evaluate(self.model, self.data, self.training.eval_batch_size, self.device)

    # building -----------------------------------------------------------------------------------------------------

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
        optimizer = settings.build_optimizer(self.model.trained())
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
