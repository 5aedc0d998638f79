"""Plugins by name, their hooks checked, and their state saved and restored as plain types."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mtpeft.continual.alignment import ClassifierAlignment
from mtpeft.continual.allowed import ALLOWED, EXPERIENCE, REFUSED, STEP, Allowed
from mtpeft.continual.benchmark import VALIDATION
from mtpeft.continual.first_tasks import FirstTasks
from mtpeft.continual.inflora import InfLoRAPlugin
from mtpeft.continual.lae import LAEPlugin
from mtpeft.continual.margin import check_margin
from mtpeft.continual.perturb_and_merge import PerturbAndMerge
from mtpeft.continual.processes import check_processes
from mtpeft.continual.pull import PullToEarlier
from mtpeft.continual.si import SynapticIntelligence
from mtpeft.continual.supernet import SupernetPlugin
from mtpeft.continual.training import Training
from mtpeft.data.dense.stream import DenseStream
from mtpeft.data.streams import Stream
from mtpeft.data.video.clips import Clips
from mtpeft.errors import ConfigError, UnknownNameError, nearest
from mtpeft.manager.manager import TaskManager
from mtpeft.options import check_options, shown
from mtpeft.runs.randomness import random_state, set_random_state

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training import plugins as avalanche_plugins
    from avalanche.training.plugins import SupervisedPlugin
    from avalanche.training.plugins.clock import Clock
    from avalanche.training.templates.base_sgd import PeriodicEval
    from avalanche.training.utils import ParamData

#: ours, and those of Avalanche's that need a correction
OWN = {
    "ClassifierAlignment": ClassifierAlignment,
    "FirstTasks": FirstTasks,
    "InfLoRA": InfLoRAPlugin,
    "LAE": LAEPlugin,
    "PerturbAndMerge": PerturbAndMerge,
    "PullToEarlier": PullToEarlier,
    "Supernet": SupernetPlugin,
    "SynapticIntelligencePlugin": SynapticIntelligence,
}


def rule_of(plugin: Any) -> Allowed | None:
    """What is known of a plugin; None for one of the user's own."""
    return ALLOWED.get(name_of(plugin))


def name_of(plugin: Any) -> str:
    """The name a recipe has for it."""
    return next((name for name, kind in OWN.items() if isinstance(plugin, kind)), type(plugin).__name__)


def build_plugins(configs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Plugins from `dict(type="EWCPlugin", ewc_lambda=1.0)`; errors name the plugin, the argument and near ones.

    Raises `ConfigError` for those of Avalanche's that do not work here, with the reason.
    """
    if not isinstance(configs, (list, tuple)):
        raise ConfigError(f"key plugins is {shown(configs)}, expected a list of dict(type=...)")
    built = []
    for config in configs:
        if not isinstance(config, Mapping):
            raise ConfigError(f"key plugins must list dict(type=...), got {config!r}")
        options = dict(config)
        name = str(options.pop("type", None))
        if name in REFUSED:
            raise ConfigError(f"plugin {name!r} cannot be used: {REFUSED[name]}. Use one of {', '.join(ALLOWED)}")
        if name not in ALLOWED:
            raise UnknownNameError("plugin", name, ALLOWED, "key plugins")
        kind = OWN.get(name) or getattr(avalanche_plugins, name)
        if ALLOWED[name].watches:
            options = {"val_stream_name": VALIDATION, **options}
            if options["val_stream_name"] != VALIDATION:
                raise ConfigError(
                    f"plugin {name!r} watches validation data alone: leave out val_stream_name, and set stream.validation"
                )
        check_options(f"plugin {name!r}", kind, options, given=ALLOWED[name].fixed)
        try:
            built.append(kind(**options))
        except (AssertionError, TypeError, ValueError) as error:
            reason = str(error) or "an option has a wrong type or value"
            raise ConfigError(f"plugin {name!r}: {reason}") from None
    return built


def check_hooks(plugins: Sequence[Any]) -> None:
    """Refuse plugins with a `before_*` or `after_*` that is no event: Avalanche would never call it."""
    events = {n for n in dir(SupervisedPlugin) if n.startswith(("before_", "after_"))}
    for plugin in plugins:
        for name in dir(plugin):
            if name.startswith(("before_", "after_")) and name not in events:
                raise ConfigError(f"plugin {type(plugin).__name__}: {name!r} is no event.{nearest(name, events)}")


def check_plugins(
    plugins: Sequence[Any], training: Training, stream: Stream | DenseStream, manager: TaskManager
) -> None:
    """Refuse plugins that a stream cannot be trained with, or that need what the recipe does not have."""
    check_hooks(plugins)
    check_processes(plugins, known=lambda plugin: rule_of(plugin) is not None)
    if isinstance(stream, DenseStream):
        check_dense(plugins, training)
    else:
        check_mixture(plugins, stream)
        check_alignment(plugins, stream)
        check_classifier(plugins, stream)
        check_local(plugins, training, stream)
        check_watching(plugins, training, stream)
    check_effect(plugins, training, stream.kind)
    check_margin(training, stream)
    for plugin in plugins:
        if hasattr(plugin, "check"):
            plugin.check(manager)
    driven = [a.sharing_name for a in manager.methods if a.weights.driven]
    if driven and not any(isinstance(plugin, LAEPlugin) for plugin in plugins):
        raise ConfigError(f"sharing {driven[0]!r} needs a plugin that moves the average: plugins=[dict(type='LAE')]")


def check_dense(plugins: Sequence[Any], training: Training) -> None:
    """Refuse what a stream of dense tasks cannot be trained with; Avalanche's plugins are for class labels."""
    for plugin in plugins:
        rule, name = rule_of(plugin), name_of(plugin)
        reason = rule.not_dense if rule is not None else ""
        if rule is None and type(plugin).__module__.startswith("avalanche."):
            reason = "it is made for class labels"
        if reason:
            usable = ", ".join(name for name, rule in ALLOWED.items() if not rule.not_dense)
            raise ConfigError(f"plugin {name!r} cannot be used on dense tasks: {reason}. Use {usable}")
    if training.loss != "cross_entropy":
        raise ConfigError(f"training.loss {training.loss!r} is for class labels; a dense task has the loss of its kind")
    if training.eval_every:
        raise ConfigError("training.eval_every serves plugins that watch the accuracy; dense tasks have none")


def check_effect(plugins: Sequence[Any], training: Training, kind: str) -> None:
    """Refuse settings that would do nothing."""
    if training.eval_every and not plugins:
        raise ConfigError(
            "training.eval_every serves plugins such as EarlyStoppingPlugin, and there are none: leave it out"
        )
    if training.loss == "local_cross_entropy" and kind != "class_incremental":
        raise ConfigError(
            f"training.loss 'local_cross_entropy' leaves out earlier classes of one growing head; a {kind} stream has none"
        )


def check_mixture(plugins: Sequence[Any], stream: Stream) -> None:
    """Refuse memories of samples where those of several tasks do not fit into one batch."""
    shapes = {task.train.facts["frames"] if isinstance(task.train, Clips) else 0 for task in stream}
    for plugin in _memories(plugins):
        if len(shapes) > 1:
            raise ConfigError(
                f"plugin {name_of(plugin)!r} cannot mix images and clips, or clips of different lengths, in one batch"
            )


def check_classifier(plugins: Sequence[Any], stream: Stream) -> None:
    """Refuse tasks that nothing learns, and a memory or an aligned head beside a classifier that uses neither."""
    head = stream[0].head or {}
    has = stream.kind == "class_incremental" and head.get("classifier") is not None
    for plugin in plugins:
        rule, name = rule_of(plugin), name_of(plugin)
        if rule is not None and rule.first and not has:
            raise ConfigError(
                f"plugin {name!r} leaves later tasks to a classifier: a class_incremental stream with "
                "stream.head=dict(name='growing', classifier=dict(name='prototypes'))"
            )
        if rule is not None and rule.aligns and has:
            raise ConfigError(f"plugin {name!r} aligns a trained head, and a classifier takes its place: leave out one")


def check_alignment(plugins: Sequence[Any], stream: Stream) -> None:
    """Refuse to align a head that has nothing to be aligned to, or that a memory trains on earlier classes anyway."""
    aligning = [name_of(p) for p in plugins if (rule := rule_of(p)) is not None and rule.aligns]
    if not aligning:
        return
    what = f"plugin {aligning[0]!r}"
    if stream.kind != "class_incremental":
        raise ConfigError(f"{what} aligns the classes of one growing head; a {stream.kind} stream has none")
    if len(stream) == 1:
        raise ConfigError(f"{what} aligns the classes of several tasks, and this stream has one task: leave it out")
    if len(aligning) > 1:
        raise ConfigError(f"{what} stands twice in key plugins: leave out one")
    for plugin in _memories(plugins):
        raise ConfigError(
            f"{what} draws features of earlier classes in place of a memory: leave out plugin {name_of(plugin)!r}"
        )


def check_local(plugins: Sequence[Any], training: Training, stream: Stream) -> None:
    """Refuse local cross-entropy beside a memory, or over one class alone, and a plugin that trains so beside others."""
    local = [p for p in plugins if (rule := rule_of(p)) is not None and rule.local_loss]
    what = f"plugin {name_of(local[0])!r}" if local else "training.loss 'local_cross_entropy'"
    for plugin in plugins:
        rule = rule_of(plugin)
        if local and plugin is not local[0] and (rule is None or not (rule.watches or rule.aligns)):
            raise ConfigError(f"{what} is a way of training of its own: leave out plugin {name_of(plugin)!r}")
    if not local and training.loss != "local_cross_entropy":
        return
    for plugin in _memories(plugins):
        raise ConfigError(
            f"{what} sees the classes of the current task alone, but plugin {name_of(plugin)!r} brings samples of "
            "earlier ones: use training.loss='cross_entropy'"
        )
    for task in stream:
        if len(task.classes) < 2:
            raise ConfigError(f"{what} tells a task's own classes apart, and task {task.name!r} has one class alone")


def check_watching(plugins: Sequence[Any], training: Training, stream: Stream) -> None:
    """Refuse to watch anything but validation data: a choice made on test data would flatter the results."""
    watching = [name_of(p) for p in plugins if (rule := rule_of(p)) is not None and rule.watches]
    if watching and not training.eval_every:
        raise ConfigError(f"plugin {watching[0]!r} needs evaluations to watch: set training.eval_every=1")
    if training.eval_every and any(task.validation is None for task in stream):
        raise ConfigError(
            "training.eval_every evaluates on validation data, never on the test part: set "
            "stream.validation=dict(share=0.1, seed=0)"
        )


def granularity(plugins: Sequence[Any]) -> str:
    """How finely a run with these plugins can be resumed: "step", "experience", or "none"."""
    rules = [rule_of(p) for p in foreign(plugins)]
    if any(rule is None for rule in rules):
        return "none"
    return EXPERIENCE if any(rule is not None and rule.resumes == EXPERIENCE for rule in rules) else STEP


def plugin_states(plugins: Sequence[Any]) -> list[Any]:
    """States of all plugins, for `mtpeft.runs.state.pack`."""
    states: list[Any] = []
    for plugin in plugins:
        rule = rule_of(plugin)
        if rule is not None and rule.state:
            states.append({key: _plain(getattr(plugin, key)) for key in rule.state})
        elif isinstance(plugin, avalanche_plugins.LwFPlugin):
            lwf = plugin.lwf
            previous = None if lwf.prev_model is None else lwf.prev_model.state_dict()
            known = set() if lwf.prev_model is None else lwf.prev_model.known_train_tasks_labels
            classes = {k: sorted(v) for k, v in lwf.prev_classes_by_task.items()}
            states.append({"expcount": lwf.expcount, "classes": classes, "previous": previous, "known": sorted(known)})
        elif isinstance(plugin, ClassifierAlignment):
            states.append(plugin.state())
        elif isinstance(plugin, Clock):
            states.append({k: v for k, v in vars(plugin).items() if isinstance(v, int)})
        else:
            states.append(None)
    return states


class SeededEnd:
    """The end of an experience of a memory plugin, under random numbers of its own.

    What it keeps is then a function of seed and experience, and can be repeated when a run resumes.
    """

    def __init__(self, plugin: Any, seed: int) -> None:
        self.end, self.seed = plugin.after_training_exp, seed

    def __call__(self, strategy: Any, **kwargs: Any) -> None:
        """Avalanche's `after_training_exp`."""
        before = random_state()
        mixed = self.seed * 1_000_003 + strategy.experience.current_experience
        torch.manual_seed(mixed)
        random.seed(mixed)
        try:
            with warnings.catch_warnings(record=True):  # of a name that Avalanche will change, on every call
                self.end(strategy, **kwargs)
        finally:
            set_random_state(before)


def seed_memories(plugins: Sequence[Any], seed: int) -> None:
    """Make memory plugins repeatable."""
    for plugin in _memories(plugins):
        plugin.after_training_exp = SeededEnd(plugin, seed)


def restore_plugins(strategy: Any, states: Sequence[Any], finished: int) -> None:
    """Give plugins their states back; memories repeat the end of each of the `finished` experiences."""
    for plugin, state in zip(strategy.plugins, states, strict=True):
        rule = rule_of(plugin)
        if rule is not None and rule.state:
            for key, value in state.items():
                setattr(plugin, key, _objects(value, strategy.device))
        elif isinstance(plugin, avalanche_plugins.LwFPlugin):
            _restore_lwf(plugin.lwf, strategy, state)
        elif isinstance(plugin, ClassifierAlignment):
            plugin.restore_state(state)
        elif isinstance(plugin, Clock):
            vars(plugin).update(state)
        elif rule is not None and rule.memory:
            for index in range(finished):
                strategy.experience = strategy.benchmark.train_stream[index]
                plugin.after_training_exp(strategy)


def foreign(plugins: Sequence[Any]) -> list[Any]:
    """Those that the recipe names, not those every strategy has."""
    own = (Clock, PeriodicEval, avalanche_plugins.EvaluationPlugin)
    return [p for p in plugins if not isinstance(p, own)]


def _memories(plugins: Sequence[Any]) -> list[Any]:
    return [p for p in plugins if (rule := rule_of(p)) is not None and rule.memory]


def _restore_lwf(lwf: Any, strategy: Any, state: Mapping[str, Any]) -> None:
    import copy

    lwf.expcount = state["expcount"]
    lwf.prev_classes_by_task = {k: set(v) for k, v in state["classes"].items()}
    lwf.prev_model = None
    if state["previous"] is None:
        return
    lwf.prev_model = copy.deepcopy(strategy.model)
    manager = lwf.prev_model.manager
    if strategy.stream.kind == "class_incremental":  # the copy has the classes of the experience before
        for name in [
            n for n in reversed(manager.tasks) if f"heads.growing.parts.task={n}.weight" not in state["previous"]
        ]:
            manager.remove_task(name)
    lwf.prev_model.load_state_dict(state["previous"])
    lwf.prev_model.known_train_tasks_labels = set(state["known"])


def _plain(value: Any) -> Any:
    """ParamData as a mapping, containers as plain ones."""
    if isinstance(value, ParamData):
        return {"param_data": value.name, "shape": list(value.shape), "data": value.data.clone()}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return value.clone() if isinstance(value, torch.Tensor) else value


def _objects(value: Any, device: torch.device) -> Any:
    """The inverse of `_plain`."""
    if isinstance(value, Mapping):
        if "param_data" in value:
            return ParamData(
                value["param_data"],
                torch.Size(value["shape"]),
                init_tensor=_aligned(value["data"], device),
                device=device,
            )
        return {k: _objects(v, device) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_objects(v, device) for v in value)
    return _aligned(value, device) if isinstance(value, torch.Tensor) else value


def _aligned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy where torch likes tensors to lie: of one within a file's bytes a dot product may round in another order."""
    return tensor.to(device).clone()
