"""Parameter groups: the learning rate and the weight decay of every trained weight, as its method declares them.

Whoever makes an optimiser asks here, so that a weight is trained alike in both engines and in a loop of one's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from mtpeft.manager.protocol import Managed
from mtpeft.methods.group import PLAIN, Group


def weight_groups(manager: Managed, task: str | None = None) -> dict[nn.Parameter, Group]:
    """The group of every weight whose method declares one; with `task`, of those the task uses."""
    found = {}
    for attachment in manager.methods:
        spec, config = attachment.spec, attachment.config
        named = list(attachment.weights.method_weights(task))
        own = spec.owned(config, manager.anatomy) if spec.owned is not None else ()
        named += [(f"backbone.{name}", manager.backbone.get_parameter(name)) for name in own]
        for name, parameter in named:
            if (group := spec.module.group(config, name)) != PLAIN:
                found[parameter] = group
    return found


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    groups: Mapping[nn.Parameter, Group],
    lr: float,
    head_lr: float | None = None,
) -> list[dict[str, Any]]:
    """Named weights as a torch optimiser takes them, those of one rate and one rule together, in the order they first come.

    `head_lr` is the rate of the heads where it is not `lr`. Weight decay is the optimiser's, or 0.
    """
    members: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        group = groups.get(parameter, PLAIN)
        decayed = decays(name, parameter) if group.decay is None else group.decay
        members.setdefault((name.startswith("heads."), decayed, group.rate), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": (head_lr if head and head_lr is not None else lr) * rate,
            **({} if decayed else {"weight_decay": 0.0}),
        }
        for (head, decayed, rate), parameters in members.items()
    ]


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether a trained weight gets weight decay: matrices do, vectors (biases, norms, scales) do not.

    Learned positions, by their name `positions`, do not either, whatever their shape.
    """
    return parameter.ndim > 1 and name.rsplit(".", 1)[-1] != "positions"
