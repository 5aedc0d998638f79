"""How the losses of several tasks become one update: fixed weights, learned or adapted ones, or combined gradients.

Every weighting acts on L_t = weight_t * loss_t, with the weights of the recipe.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from mtpeft.errors import ConfigError, MtpeftError
from mtpeft.options import Count, NotNegative, Positive, check_options
from mtpeft.registry import Registry

WEIGHTINGS: Registry[type[Weighting]] = Registry("weighting")
W = TypeVar("W", bound="type[Weighting]")


def register_weighting(name: str) -> Any:
    """Class decorator: registers a `Weighting`; its options are the keyword arguments after `tasks` and `discrete`."""

    def decorate(kind: W) -> W:
        WEIGHTINGS.add(name, kind)
        return kind

    return decorate


def build_weighting(config: Mapping[str, Any], weights: Mapping[str, float], discrete: Sequence[str]) -> Weighting:
    """From the recipe's `dict(name=..., ...)`; `weights` per task, `discrete` the tasks with class labels."""
    name, options = str(config.get("name", "fixed")), {k: v for k, v in config.items() if k != "name"}
    kind: Any = WEIGHTINGS.get(name, "recipe key weighting.name")
    checked = check_options(f"weighting {name!r}", kind, options, given=("weights", "discrete"), section="weighting")
    found: Weighting = kind(dict(weights), discrete, **checked)
    return found


class Weighting(nn.Module):
    """The contract. `combines_gradients` tells the engine to compute a gradient per task and call `aggregate`."""

    combines_gradients: ClassVar[bool] = False

    def __init__(self, weights: dict[str, float], discrete: Sequence[str]) -> None:
        super().__init__()
        self.weights, self.tasks, self.discrete = weights, list(weights), set(discrete)

    def factor(self, task: str) -> torch.Tensor | float:
        """What the task's loss is multiplied by."""
        return self.weights[task]

    def penalty(self, task: str) -> torch.Tensor | float:
        """A term of the objective that has no data in it; added once per step in which the task has labels."""
        return 0.0

    def observe(self, losses: Mapping[str, torch.Tensor]) -> None:
        """The losses of a finished step, scalars that may still be on their way on a GPU."""

    def aggregate(self, gradients: torch.Tensor, seed: int) -> torch.Tensor:
        """(tasks of the step, n) gradients of weighted losses -> (n,) the update's."""
        raise NotImplementedError(f"{type(self).__name__}.aggregate")

    def state(self) -> dict[str, Any]:
        """Everything that changes while training, as plain values and tensors."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""


@register_weighting("fixed")
class Fixed(Weighting):
    """The sum of weight_t * loss_t."""


@register_weighting("uncertainty")
class Uncertainty(Weighting):
    """Kendall, Gal and Cipolla 2018 (CVPR), equations 7 and 10: homoscedastic uncertainty, with s_t = log sigma_t^2 learned.

    Regression: exp(-s) / 2 * L + s / 2. Class labels: exp(-s) * L + s / 2.
    """

    def __init__(self, weights: dict[str, float], discrete: Sequence[str]) -> None:
        super().__init__(weights, discrete)
        self.log_variance = nn.Parameter(torch.zeros(len(self.tasks)))

    def factor(self, task: str) -> torch.Tensor:
        """exp(-s) or half of it, times the weight."""
        half = 1.0 if task in self.discrete else 0.5
        return half * self.weights[task] * torch.exp(-self.log_variance[self.tasks.index(task)])

    def penalty(self, task: str) -> torch.Tensor:
        """s / 2."""
        return 0.5 * self.log_variance[self.tasks.index(task)]

    def state(self) -> dict[str, Any]:
        """The log-variances."""
        return dict(zip(self.tasks, self.log_variance.tolist(), strict=True))

    def load(self, state: Mapping[str, Any]) -> None:
        """Take the log-variances."""
        with torch.no_grad():
            self.log_variance.copy_(torch.tensor([state[task] for task in self.tasks]))


@register_weighting("dwa")
class DynamicWeightAverage(Weighting):
    """Liu, Johns and Davison 2019 (CVPR), equation 7: tasks whose loss falls slower weigh more.

    lambda_t = T * softmax_t(r_t / temperature), r_t = (mean loss of the last window) / (that of the window before). A
    window (the paper's epoch) is `window` steps; the first two have lambda = 1, as have tasks without a loss in them.
    """

    def __init__(
        self, weights: dict[str, float], discrete: Sequence[str], temperature: Positive = 2.0, window: Count = 50
    ) -> None:
        super().__init__(weights, discrete)
        self.temperature, self.window = temperature, window
        self.steps = 0
        self.sums: dict[str, list[Any]] = {task: [0.0, 0] for task in weights}
        self.means: dict[str, list[float]] = {task: [] for task in weights}
        self.scales = dict.fromkeys(weights, 1.0)

    def factor(self, task: str) -> float:
        """lambda, times the weight."""
        return self.scales[task] * self.weights[task]

    def observe(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Collect; at the end of a window set the lambdas, for which the sums are read."""
        for task, loss in losses.items():
            self.sums[task] = [self.sums[task][0] + loss, self.sums[task][1] + 1]
        self.steps += 1
        if self.steps % self.window:
            return
        for task, (sum_, number) in self.sums.items():
            if number:
                self.means[task] = [*self.means[task], float(sum_) / number][-2:]
        self.sums = {task: [0.0, 0] for task in self.tasks}
        ratios = {t: m[1] / m[0] for t, m in self.means.items() if len(m) == 2 and m[0] > 0}
        exponentials = {t: math.exp(r / self.temperature) for t, r in ratios.items()}
        norm = sum(exponentials.values())
        self.scales = dict.fromkeys(self.tasks, 1.0) | {t: len(ratios) * e / norm for t, e in exponentials.items()}

    def state(self) -> dict[str, Any]:
        """Windows, sums and lambdas."""
        state = copy.deepcopy({key: getattr(self, key) for key in ("steps", "sums", "means", "scales")})
        return {**state, "sums": {task: [float(sum_), number] for task, (sum_, number) in self.sums.items()}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        for key, value in copy.deepcopy(dict(state)).items():
            setattr(self, key, value)


class _Gradients(Weighting):
    """One of torchjd's aggregators on the gradients of the weights that several tasks share; own weights get their own."""

    combines_gradients = True
    aggregator: ClassVar[str]

    def __init__(self, weights: dict[str, float], discrete: Sequence[str], **options: Any) -> None:
        super().__init__(weights, discrete)
        try:
            import torchjd.aggregation as aggregation
        except ImportError:
            raise MtpeftError("this weighting needs torchjd: pip install 'mtpeft[mtl]'") from None
        try:
            self._aggregate = getattr(aggregation, self.aggregator)(**options)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"recipe key weighting: {error}") from None

    def aggregate(self, gradients: torch.Tensor, seed: int) -> torch.Tensor:
        """The aggregator's update; `seed` fixes the order in which some of them visit the tasks."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._aggregate(gradients)


@register_weighting("pcgrad")
class PCGrad(_Gradients):
    """Yu et al. 2020 (NeurIPS), algorithm 1: gradients that conflict are projected onto each other's normal plane."""

    aggregator = "PCGrad"


@register_weighting("cagrad")
class CAGrad(_Gradients):
    """Liu et al. 2021 (NeurIPS), algorithm 1: the best worst-case improvement in a ball of radius c around the mean."""

    aggregator = "CAGrad"

    def __init__(self, weights: dict[str, float], discrete: Sequence[str], c: NotNegative = 0.4) -> None:
        super().__init__(weights, discrete, c=c)


@register_weighting("mgda")
class MGDA(_Gradients):
    """Sener and Koltun 2018 (NeurIPS), algorithm 2: the shortest vector in the convex hull of the gradients."""

    aggregator = "MGDA"
