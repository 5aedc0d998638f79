"""The recipe's key `visualizer`: scalars of a run for TensorBoard, Weights & Biases, MLflow, by MMEngine's backends.

`visualizer=[dict(type="TensorboardVisBackend")]`; the other keys are the backend's own. Without the key nothing is logged
and nothing is sent. What a backend writes to disk is in the folder `logs` of the run.

Scalars are handed over when the state of the run they belong to is on disk, so that a run that is killed and goes on
does not log a step twice: it goes on in the same log, as far as a backend has such a thing (a new event file in the folder
TensorBoard reads, the same run of MLflow, the same id of Weights & Biases).
"""

from __future__ import annotations

import json
import os
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtpeft.errors import ConfigError, MtpeftError, UnknownNameError, nearest
from mtpeft.files import write_atomic
from mtpeft.options import options_of
from mtpeft.runs.changes import flatten

FOLDER = "logs"
#: what each backend is installed with
PACKAGES = {"TensorboardVisBackend": "tensorboard", "MLflowVisBackend": "mlflow", "WandbVisBackend": "wandb"}
#: characters of a value of the recipe that MLflow takes
LONGEST = 6000
_SENT = "sent.json"

Entry = list[Any]  # number, step, {name: value}


def check_visualizer(given: Any, recipe: str) -> list[dict[str, Any]]:
    """The key `visualizer` of a recipe, a list of backends; raises `ConfigError` for what MMEngine has not."""
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, Mapping) and "type" in one for one in given):
        raise ConfigError(
            f"recipe {recipe}: visualizer must be a list of backends, [dict(type='TensorboardVisBackend')], got {given!r}"
        )
    if not given:
        return []
    registry = _registry()
    for number, one in enumerate(given):
        where, kind = f"recipe {recipe}: visualizer[{number}]", one["type"]
        if kind not in registry.module_dict:
            raise UnknownNameError("backend", kind, registry.module_dict, where)
        if [other["type"] for other in given].count(kind) > 1:
            raise ConfigError(f"{where}: {kind} is given twice")
        known = set(options_of(registry.get(kind))) - {"save_dir"}
        for key in one:
            if key != "type" and key not in known:
                raise ConfigError(f"{where}: {kind} takes no option {key!r}.{nearest(str(key), known)}")
    return [dict(one) for one in given]


class Logs:
    """The backends of a run. `add` scalars as they come, `send` them once the state on disk has them."""

    def __init__(self, backends: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]) -> None:
        """`backends` as `check_visualizer` gives them; nothing is opened before `open`."""
        self._asked, self._recipe = list(backends), recipe
        self._backends: list[Any] = []
        self._count = 0
        self._waiting: list[Entry] = []

    def open(self, folder: Path) -> None:
        """Start the backends, or go on in their logs. Raises `ConfigError` for a package that is missing, or a refusal."""
        self._folder = folder / FOLDER
        for one in self._asked:
            place = self._folder / one["type"].removesuffix("VisBackend").lower()
            try:
                self._backends.append(_start(one, place, self._recipe))
            except ImportError:
                name = PACKAGES.get(one["type"], one["type"])
                raise ConfigError(f"{one['type']} needs {name}: pip install 'mtpeft[log]'") from None
            except Exception as error:  # whatever a tracking server, or an option of its own, gives
                raise ConfigError(f"visualizer {one['type']}: {_said(error)}") from None
        self.send()  # a state was saved, its scalars were not sent

    def add(self, values: Mapping[str, float | None], step: int) -> None:
        """Scalars of step `step` (from 1); one that is None is left out."""
        if self._asked:
            self._count += 1
            self._waiting.append([self._count, step, {name: v for name, v in values.items() if v is not None}])

    def state(self) -> dict[str, Any]:
        """What waits to be sent, for the state of the run."""
        return {"count": self._count, "waiting": self._waiting}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Take back what `state` gave, before `open`."""
        if state is not None:
            self._count, self._waiting = state["count"], list(state["waiting"]) if self._asked else []

    def send(self) -> None:
        """Hand over what the state on disk has."""
        if not self._backends:
            return
        file = self._folder / _SENT
        sent = json.loads(file.read_text())["sent"] if file.is_file() else 0
        try:
            for number, step, values in self._waiting:
                for backend in self._backends if number > sent else ():
                    _log(backend, values, step)
            for backend in self._backends:
                if _is(backend, "Tensorboard"):
                    backend.experiment.flush()
        except Exception as error:  # a server that is gone, a full disk
            raise MtpeftError(
                f"the run cannot be logged: {_said(error)}; the same command goes on, with visualizer=[] without logs"
            ) from None
        write_atomic(file, json.dumps({"sent": self._count}) + "\n")
        self._waiting = []

    def close(self) -> None:
        """End the logs, for now or for good."""
        for backend in self._backends:
            _close(backend)
        self._backends = []


def _registry() -> Any:
    """MMEngine's backends by name."""
    from mmengine.visualization.vis_backend import VISBACKENDS  # where they register themselves

    return VISBACKENDS


def _start(asked: Mapping[str, Any], place: Path, recipe: Mapping[str, Any]) -> Any:
    """A backend, started in the folder `place`; the recipe is logged the first time."""
    options, first = dict(asked), not place.is_dir()
    kept, kind = place / "run.json", options["type"]
    known = json.loads(kept.read_text())["id"] if kept.is_file() else None
    if kind == "WandbVisBackend":
        known = known or uuid.uuid4().hex
        given = options.get("init_kwargs") or {}
        options["init_kwargs"] = {"id": known, "resume": "allow", "config": dict(recipe), **given}
    if kind == "MLflowVisBackend":
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # where it logs to without a tracking_uri
        if known is not None:
            os.environ["MLFLOW_RUN_ID"] = known  # the run that its next start goes on with
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backend = _registry().build({**options, "save_dir": str(place)})
        tool = backend.experiment  # a backend starts when it is used
        if kind == "MLflowVisBackend":
            known = (tool.active_run() or tool.start_run()).info.run_id
            if first:
                tool.log_params({key: str(value)[:LONGEST] for key, value in flatten(recipe).items()})
        if kind == "TensorboardVisBackend" and first:
            tool.add_text("recipe", "".join(f"    {key} = {value!r}\n" for key, value in flatten(recipe).items()))
    if known is not None:
        write_atomic(kept, json.dumps({"id": known}) + "\n")
    return backend


def _log(backend: Any, values: Mapping[str, float], step: int) -> None:
    if _is(backend, "Wandb"):
        backend.experiment.log(dict(values), step=step)  # MMEngine's would count the calls
    else:
        backend.add_scalars(dict(values), step)


def _close(backend: Any) -> None:
    """End a log; MMEngine's own end of an MLflow run copies a folder of checkpoints."""
    if _is(backend, "MLflow"):
        backend.experiment.end_run()
    elif _is(backend, "Wandb"):
        backend.experiment.finish()
    else:
        backend.close()


def _is(backend: Any, name: str) -> bool:
    return any(cls.__name__ == f"{name}VisBackend" for cls in type(backend).__mro__)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
