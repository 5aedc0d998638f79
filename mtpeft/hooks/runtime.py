"""What hooks know during a forward: whose weights to use, and values passed between two hooks of one forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(eq=False)
class Selection:
    """The tasks of a batch: one, several with `index` (B,), the position in `tasks` of each sample's task, or several
    for each sample alike (`each`; only where all methods serve them in one pass). `rows` are the samples of each task, where
    they are known: to find them in an `index` on a GPU its value has to be read.
    """

    tasks: tuple[str, ...]
    index: torch.Tensor | None = None
    each: bool = False
    rows: Sequence[torch.Tensor] | None = None


@dataclass(eq=False)
class Context:
    """One forward: its selection and a store for values that pass between hooks.

    `runs_once` is False under gradient checkpointing: blocks that run again must compute all they did the first time.
    `forgets`: what one block has handed on to the next may be dropped, since none runs again.
    `stages` asks for the features at the stage ends. `prepared` holds what weight sources made for this forward, `cache` what
    they keep from site to site.
    `frames`: the backbone's batch axis holds B clips of that many frames each, clip after clip. `temporal` asks for the
    attention over time, `over_time` holds while it runs. `grid` is the height and width of the token map where the forward
    stands (see `mtpeft.hooks.grid`).
    `trial`: only shapes and sizes of what comes out are looked at, so that methods need not be fitted to data.
    `aside` holds while tokens beside the stream of patches go through a block's layers: what is kept for task streams is
    the patches'.
    """

    selection: Selection
    store: dict[Any, Any] = field(default_factory=dict)
    runs_once: bool = True
    forgets: bool = False
    stages: bool = False
    prepared: dict[Any, Any] = field(default_factory=dict)
    cache: dict[Any, Any] = field(default_factory=dict)
    frames: int = 1
    temporal: bool = False
    over_time: bool = False
    grid: tuple[int, int] | None = None
    trial: bool = False
    aside: bool = False


class Runtime:
    """Holds the context of the forward that is running; `default` serves calls of the backbone itself.

    `channels_last`: the backbone gets images laid out so. `compiled` runs it in training, where it is there
    (`mtpeft.manager.compiled`). `declared` are the losses that weight sources add in the last training forward, by name, one
    for each pass of the backbone. Copies and pickles start without a running forward, and without a compiled graph.
    """

    def __init__(self, default: str | None = None) -> None:
        """`default` is the task used when the backbone is called directly; None leaves the hooks inert."""
        self.context: Context | None = None
        self.ensembling = False  # within a pass whose output is combined with those of others
        self.trial = False  # see `Context`
        self.default = default
        self.channels_last = False
        self.compiled: Any = None
        self.declared: dict[str, list[torch.Tensor]] = {}
        self.reset()

    @contextmanager
    def trials(self) -> Iterator[None]:
        """Forwards of which shapes and sizes alone are looked at."""
        before, self.trial = self.trial, True
        try:
            yield
        finally:
            self.trial = before

    def set_default(self, task: str | None) -> None:
        """Choose the task of direct calls."""
        self.default = task
        self.reset()

    def reset(self) -> None:
        """End a forward: direct calls of the backbone use the default task again."""
        self.context = None if self.default is None else Context(Selection((self.default,)))

    def restore_in_backward(self, features: Iterable[torch.Tensor]) -> None:
        """Have this forward's context back when its backward starts, at any of the `features` the heads read.

        Gradient checkpointing runs blocks again during backward; without this they would use whatever task was
        selected last. The hook fires before the first node of the backbone's own graph, and the default returns when
        the whole backward is done.
        """
        context = self.context

        def restore(_: torch.Tensor) -> None:
            self.context = context
            torch.autograd.Variable._execution_engine.queue_callback(self.reset)

        for tensor in features:
            if tensor.requires_grad:
                tensor.register_hook(restore)

    def __deepcopy__(self, memo: dict[int, Any]) -> Runtime:
        copied = memo[id(self)] = Runtime(self.default)
        copied.channels_last = self.channels_last
        return copied

    def __reduce__(self) -> tuple[type[Runtime], tuple[str | None]]:
        return Runtime, (self.default,)
