"""What a kind of dense task is: its outputs, loss and measures, and all that is to be known about its labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch

from mtpeft.dense.layout import Layout
from mtpeft.errors import CheckpointError, DataError, UnknownNameError
from mtpeft.options import check_options
from mtpeft.registry import Registry


class Metric(NamedTuple):
    """Unit and direction of one measure."""

    unit: str
    higher_is_better: bool


PERCENT_UP = Metric("%", True)


class Measure(ABC):
    """A measure computed from sums over all pixels or images seen, so that parts of a data set can be added up.

    `totals` holds the sums, plain tensors on the CPU; `update` adds a batch, `compute` gives the values. A value that is
    undefined, because no valid pixel was seen, is None.
    """

    def __init__(self, **totals: torch.Tensor) -> None:
        """`totals` are the sums at their start, zeros."""
        self.totals = totals

    @abstractmethod
    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """Add a batch: output (n, channels, H, W) as the head gives it, and its labels."""

    @abstractmethod
    def compute(self) -> dict[str, float | None]:
        """Every value, by name."""

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the sums."""
        return {name: total.clone() for name, total in self.totals.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from `state`. Raises `CheckpointError` when it belongs to another measure."""
        self._check(state)
        self.totals = {name: state[name].clone() for name in self.totals}

    def merge(self, other: dict[str, torch.Tensor]) -> None:
        """Add what another process has seen: its `state`."""
        self._check(other)
        for name, total in self.totals.items():
            total += other[name]

    def _check(self, state: dict[str, torch.Tensor]) -> None:
        ours, theirs = ({k: (tuple(t.shape), t.dtype) for k, t in s.items()} for s in (self.totals, state))
        if ours != theirs:
            raise CheckpointError(f"state of another measure: it has {theirs}, {type(self).__name__} has {ours}")


class Kind(ABC):
    """One kind of dense task. Subclasses are registered by name and take their options as keywords.

    `channels` is the number of outputs, `metrics` every measure with unit and direction, `metric` the main one, and
    `default_weight` the weight of the loss in published joint training (PASCAL-Context, NYUD-v2). `layout` says how
    labels become tensors; a pixel of its `fill` must not be valid. `continuous` tells numbers from classes.

    Nothing else names the kind: transforms, batches, training and `mtpeft check-data` ask the class. `ClassKind` and
    `ValueKind` (`mtpeft.dense.labelled`) have what most kinds of classes or numbers share.
    """

    name: ClassVar[str]
    layout: ClassVar[Layout]
    continuous: ClassVar[bool] = True
    channels: int
    metrics: ClassVar[dict[str, Metric]]
    default_weight: ClassVar[float] = 1.0
    #: what `build_kind` was given
    options: Mapping[str, Any] = {}

    def __init__(self, metric: str | None = None) -> None:
        """`metric` names another main measure than the first."""
        self.metric = next(iter(self.metrics)) if metric is None else metric
        if self.metric not in self.metrics:
            raise UnknownNameError("metric", metric, self.metrics, f"kind {self.name}")

    @property
    def unit(self) -> str:
        """Unit of the main metric: "%", "m", "deg" or ""."""
        return self.metrics[self.metric].unit

    @property
    def higher_is_better(self) -> bool:
        """Direction of the main metric."""
        return self.metrics[self.metric].higher_is_better

    @abstractmethod
    def valid(self, label: torch.Tensor) -> torch.Tensor:
        """Which pixels count: label (n, ...) -> bool (n, H, W)."""

    def loss(self, output: torch.Tensor, label: torch.Tensor, pixels: int | None = None) -> torch.Tensor:
        """Mean loss over valid pixels: output (n, channels, H, W), label -> scalar; zero where no pixel is valid.

        `pixels` is the number of valid ones, where it is known: else it is read, for which a GPU is waited for.
        """
        valid = self.valid(label)
        if not (bool(valid.any()) if pixels is None else pixels):
            return output.sum() * 0
        return self.pixel_loss(output, label, valid)

    @abstractmethod
    def pixel_loss(self, output: torch.Tensor, label: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """The loss where at least one pixel is valid.

        `masked_mean` leaves the others out without a look at their number, for which a GPU would be waited for.
        """

    @abstractmethod
    def measure(self) -> Measure:
        """A fresh measure."""

    def valid_pixels(self, label: np.ndarray) -> np.ndarray:
        """Which pixels of one label, channels last, count: bool (H, W)."""
        return self.valid(self.layout.tensor(label)[None])[0].numpy()

    @classmethod
    def flipped(cls, label: np.ndarray) -> np.ndarray:
        """The label, channels last, of the image mirrored left and right; kinds with directions turn them too."""
        return label[:, ::-1]

    @classmethod
    def enlarged(cls, label: np.ndarray, factor: float) -> np.ndarray:
        """The label when the camera is `factor` times nearer, its pixels being resized already; most stay as they are."""
        return label

    def histogram_rows(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        """Names of the rows that `histogram` counts; `classes` are the data set's names, if it has any."""
        return ("valid",)

    def histogram(self, label: np.ndarray, rows: int) -> np.ndarray:
        """How much of a label that passed `check` falls into each of `rows` rows; only valid pixels count."""
        return np.array([self.valid_pixels(label).sum()])

    def values(self, output: torch.Tensor) -> np.ndarray:
        """What an output (channels, H, W) says of every pixel, in the unit of labels: (H, W), or (H, W, channels)."""
        found = output.detach().float().cpu().movedim(0, -1)
        return (found[..., 0] if self.channels == 1 else found).numpy()

    @abstractmethod
    def check(self, label: np.ndarray, where: str) -> None:
        """Raise `DataError` that names `where` and the value when a label, channels last, has a value out of range."""

    @abstractmethod
    def picture(self, sample: torch.Tensor, reference: torch.Tensor | None = None) -> np.ndarray:
        """A label or an output of one image, without batch axis -> uint8 (H, W, 3). Invalid pixels are black.

        `reference` is the label whose range of values the colours span, so that an output can be set beside it.
        """


KINDS: Registry[type[Kind]] = Registry("task kind")
K = TypeVar("K", bound=type[Kind])


def register_kind(name: str) -> Callable[[K], K]:
    """Class decorator: registers a kind of dense task."""

    def decorate(kind: K) -> K:
        kind.name = name
        KINDS.add(name, kind)
        return kind

    return decorate


def build_kind(name: str, **options: Any) -> Kind:
    """A kind by name. Raises `UnknownNameError` or, for options it does not take, `ConfigError`."""
    kind = KINDS.get(name)
    built = kind(**check_options(f"kind {name!r}", kind, options))
    built.options = dict(options)
    return built


def check_shape(label: np.ndarray, where: str, depth: int | None = None) -> None:
    """Raise `DataError` unless `label` is (H, W), or (H, W, depth)."""
    wanted = "(H, W)" if depth is None else f"(H, W, {depth})"
    if label.ndim != (2 if depth is None else 3) or (depth is not None and label.shape[2] != depth):
        colours = label.ndim == 3 and label.shape[2] in (3, 4) and depth is None
        hint = "; store one number per pixel, not a colour" if colours else ""
        raise DataError(f"{where}: the label has shape {label.shape}, not {wanted}{hint}")


def masked_mean(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The mean of values (n, H, W), or (n, C, H, W), over the valid pixels (n, H, W), of which there must be one."""
    if values.ndim > valid.ndim:
        values = values.mean(1)
    return torch.where(valid, values, 0.0).sum() / valid.sum()


def mean_or_none(total: torch.Tensor, count: torch.Tensor, scale: float = 1.0) -> float | None:
    """scale * total / count, or None where nothing was counted."""
    return None if int(count) == 0 else scale * float(total) / float(count)


def zeros(*shape: int) -> torch.Tensor:
    """Sums start here: float64, in which counts are exact up to 2^53."""
    return torch.zeros(shape, dtype=torch.float64)
