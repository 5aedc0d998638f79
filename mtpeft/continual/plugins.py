"""Plugins by name, their hooks checked, and their state saved and restored as plain types."""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mtpeft.continual.lae import LAEPlugin
from mtpeft.continual.training import Training
from mtpeft.data.streams import Stream
from mtpeft.data.video.clips import Clips
from mtpeft.errors import ConfigError, UnknownNameError, nearest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training import plugins as avalanche_plugins
    from avalanche.training.plugins import SupervisedPlugin
    from avalanche.training.plugins.clock import Clock
    from avalanche.training.templates.base_sgd import PeriodicEval
    from avalanche.training.utils import ParamData

#: names a recipe may use, beside every plugin class Avalanche exports
OWN = {"LAE": LAEPlugin}
#: plugins whose state is their attributes: saved at any step
STATEFUL = {
    "LAEPlugin": ("offline",),
    "EWCPlugin": ("saved_params", "importances"),
    "SynapticIntelligencePlugin": ("ewc_data", "syn_data"),
}
#: plugins whose state is samples of the stream: rebuilt by repeating their end of every finished experience
MEMORIES = ("ReplayPlugin", "AGEMPlugin")
#: plugins whose state lives within one experience
WITHIN = ("EarlyStoppingPlugin",)
#: plugins that look at weights and losses alone, so that any kind of task will do
ANY_TASK = ("EWCPlugin", "SynapticIntelligencePlugin", "MASPlugin")
#: why others cannot be used on dense tasks
MIXED = "it mixes images of several tasks in one batch, whose labels differ in shape and unit"
NOT_DENSE = {
    "LwFPlugin": "it distils a softmax over the classes of earlier tasks",
    "LAE": "it takes the larger of two softmax probabilities",
    "ReplayPlugin": MIXED,
    "AGEMPlugin": MIXED,
    "GEMPlugin": MIXED,
    "EarlyStoppingPlugin": "it watches Avalanche's accuracy",
}


def build_plugins(configs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Plugins from `dict(type="EWCPlugin", ewc_lambda=1.0)`; errors name the plugin, the argument and near ones."""
    exported = {n: c for n, c in vars(avalanche_plugins).items() if inspect.isclass(c) and n.endswith("Plugin")}
    known = {**exported, **OWN}
    built = []
    for config in configs:
        options = dict(config)
        name = options.pop("type", None)
        if name not in known:
            raise UnknownNameError("plugin", name, known, "key plugins")
        arguments = set(inspect.signature(known[name]).parameters)
        for key in options:
            if key not in arguments:
                raise ConfigError(f"plugin {name!r} takes no {key!r}.{nearest(key, arguments)}")
        built.append(known[name](**options))
    return built


def check_hooks(plugins: Sequence[Any]) -> None:
    """Refuse plugins with a `before_*` or `after_*` that is no event: Avalanche would never call it."""
    events = {n for n in dir(SupervisedPlugin) if n.startswith(("before_", "after_"))}
    for plugin in plugins:
        for name in dir(plugin):
            if name.startswith(("before_", "after_")) and name not in events:
                raise ConfigError(f"plugin {type(plugin).__name__}: {name!r} is no event.{nearest(name, events)}")


def check_dense(plugins: Sequence[Any], training: Training) -> None:
    """Refuse what a stream of dense tasks cannot be trained with; Avalanche's plugins are for class labels."""
    for plugin in plugins:
        name = "LAE" if isinstance(plugin, LAEPlugin) else type(plugin).__name__
        if name not in ANY_TASK and (name in NOT_DENSE or type(plugin).__module__.startswith("avalanche.")):
            reason = NOT_DENSE.get(name, "it is made for class labels")
            raise ConfigError(f"plugin {name!r} cannot be used on dense tasks: {reason}. Use {', '.join(ANY_TASK)}")
    if training.loss != "cross_entropy":
        raise ConfigError(f"training.loss {training.loss!r} is for class labels; a dense task has the loss of its kind")
    if training.eval_every:
        raise ConfigError("training.eval_every serves plugins that watch the accuracy; dense tasks have none")


def check_mixture(plugins: Sequence[Any], stream: Stream) -> None:
    """Refuse memories of samples where those of several tasks do not fit into one batch."""
    shapes = {task.train.facts["frames"] if isinstance(task.train, Clips) else 0 for task in stream}
    for plugin in plugins:
        name = type(plugin).__name__
        if name in MEMORIES and len(shapes) > 1:
            raise ConfigError(
                f"plugin {name!r} cannot mix images and clips, or clips of different lengths, in one batch"
            )


def granularity(plugins: Sequence[Any]) -> str:
    """How finely a run with these plugins can be resumed: "step", "experience", or "none"."""
    names = [type(p).__name__ for p in _foreign(plugins)]
    if any(n not in (*STATEFUL, "LwFPlugin", *MEMORIES, *WITHIN) for n in names):
        return "none"
    return "experience" if any(n in (*MEMORIES, *WITHIN) for n in names) else "step"


def plugin_states(plugins: Sequence[Any]) -> list[Any]:
    """States of all plugins, for `mtpeft.runs.state.pack`."""
    states: list[Any] = []
    for plugin in plugins:
        name = type(plugin).__name__
        if name in STATEFUL:
            states.append({key: _plain(getattr(plugin, key)) for key in STATEFUL[name]})
        elif name == "LwFPlugin":
            lwf = plugin.lwf
            previous = None if lwf.prev_model is None else lwf.prev_model.state_dict()
            known = set() if lwf.prev_model is None else lwf.prev_model.known_train_tasks_labels
            classes = {k: sorted(v) for k, v in lwf.prev_classes_by_task.items()}
            states.append({"expcount": lwf.expcount, "classes": classes, "previous": previous, "known": sorted(known)})
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
            self.end(strategy, **kwargs)
        finally:
            set_random_state(before)


def seed_memories(plugins: Sequence[Any], seed: int) -> None:
    """Make memory plugins repeatable."""
    for plugin in plugins:
        if type(plugin).__name__ in MEMORIES:
            plugin.after_training_exp = SeededEnd(plugin, seed)


def restore_plugins(strategy: Any, states: Sequence[Any], finished: int) -> None:
    """Give plugins their states back; memories repeat the end of each of the `finished` experiences."""
    for plugin, state in zip(strategy.plugins, states, strict=True):
        name = type(plugin).__name__
        if name in STATEFUL:
            for key, value in state.items():
                setattr(plugin, key, _objects(value, strategy.device))
        elif name == "LwFPlugin":
            _restore_lwf(plugin.lwf, strategy, state)
        elif isinstance(plugin, Clock):
            vars(plugin).update(state)
        elif name in MEMORIES:
            for index in range(finished):
                strategy.experience = strategy.benchmark.train_stream[index]
                plugin.after_training_exp(strategy)


def random_state() -> dict[str, Any]:
    """States of torch's (CPU and CUDA), numpy's and Python's generators."""
    import numpy

    kind, keys, *rest = numpy.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, [int(k) for k in keys], *rest),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Give all generators the states `random_state` returned."""
    import numpy

    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _foreign(plugins: Sequence[Any]) -> list[Any]:
    own = (Clock, PeriodicEval, avalanche_plugins.EvaluationPlugin)
    return [p for p in plugins if not isinstance(p, own)]


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
                value["param_data"], torch.Size(value["shape"]), init_tensor=value["data"].to(device), device=device
            )
        return {k: _objects(v, device) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_objects(v, device) for v in value)
    return value.to(device) if isinstance(value, torch.Tensor) else value
