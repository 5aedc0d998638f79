"""Validation data: a share of the training part, drawn by a seed, for choices that must not be made on the test part."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from mtpeft.data.labelled import Labelled
from mtpeft.data.streams import Stream
from mtpeft.errors import ConfigError, DataError
from mtpeft.options import Section, Share, WholeNumber


@dataclasses.dataclass(frozen=True)
class Validation:
    """The recipe's `validation=dict(share=0.1, seed=0)`: the share of the training part, above 0 and below 1.

    With `instead_of_test` the run is measured on them, and the test part is not: for runs out of which some are chosen.
    """

    share: Share
    seed: WholeNumber = 0
    instead_of_test: bool = False

    @classmethod
    def of(cls, config: Any, recipe: str, key: str) -> Validation | None:
        """From the recipe's key `key`; None for None. Raises `ConfigError` naming both."""
        if config is None:
            return None
        if not isinstance(config, Mapping):
            raise ConfigError(
                f"recipe {recipe}: {key} must be a mapping such as dict(share=0.1, seed=0), got {config!r}"
            )
        section = Section(config, recipe, f"{key}.")
        section.take("share")
        return cls(**section.fields(cls))

    def split(self, number: int, salt: int = 0) -> tuple[list[int], list[int]]:
        """Of 0 to `number` - 1: the ascending indices that stay, and those held out, at least one of each.

        `salt` makes another draw of the same seed. Raises `DataError` for less than two.
        """
        if number < 2:
            raise DataError(f"{number} cannot be split into training and validation data")
        held = min(max(1, round(self.share * number)), number - 1)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + salt)
        shuffled = torch.randperm(number, generator=generator).tolist()
        return sorted(shuffled[held:]), sorted(shuffled[:held])


def hold_out(stream: Stream, validation: Validation) -> Stream:
    """The stream with validation data of every task: the share of each class, one item of it at the least.

    Raises `DataError`, naming task and class, for a class of one training item.
    """
    tasks = [
        dataclasses.replace(
            task, train=train, validation=held, test=held.plain() if validation.instead_of_test else task.test
        )
        for task in stream
        for train, held in [_split(task.train, task.name, validation)]
    ]
    return dataclasses.replace(stream, tasks=tuple(tasks))


def _split(data: Labelled, task: str, validation: Validation) -> tuple[Labelled, Labelled]:
    members: dict[int, list[int]] = {}
    for index, label in enumerate(data.targets):
        members.setdefault(label, []).append(index)
    kept: list[int] = []
    held: list[int] = []
    for label, indices in sorted(members.items()):
        if len(indices) < 2:
            raise DataError(
                f"task {task!r}: class {label} has {len(indices)} training item, of which none can be held out: leave out "
                "stream.validation, or give more"
            )
        for part, found in zip((kept, held), validation.split(len(indices), label), strict=True):
            part += [indices[position] for position in found]
    return data.subset(sorted(kept)), data.subset(sorted(held))
