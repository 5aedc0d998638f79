"""Modules that are told of steps and epochs: what they draw for a step, read off gradients, or settle at an epoch's end.

Most methods need none of it: a forward pass, a gradient and the optimiser are all their training. Where more is to happen, a
module says so here, and whoever trains calls it: both engines do, and a loop of one's own by `manager.before_step()`,
`manager.after_backward()` and `manager.after_epoch()`.
"""

from __future__ import annotations

from torch import nn


class Paced(nn.Module):
    """Mixed into a site module, a task stream or a part of one, of a method whose site module sets `paced`.

    What is to last between two steps is kept in buffers that are saved; what one step draws for itself need not be. Without
    these calls a module trains as if they did nothing.
    """

    def before_step(self) -> None:
        """A step begins: draw what all its passes have in common, however many batches or processes it is made of.

        Random numbers are the CPU's, which are alike in all processes here and go on where a run is resumed.
        """

    def after_backward(self) -> None:
        """The gradients of a step are whole: summed over batches and processes, unscaled, not yet clipped.

        They are None where the step had nothing to do with a weight, and in float16 at times not finite. A loop of one's own
        must not leave those of an earlier step behind, also not of weights that its optimiser does not have.
        """

    def after_epoch(self) -> None:
        """The last step of an epoch is done."""

    @property
    def deleted(self) -> int:
        """How many of its weights were deleted for good: kept so that shapes stay, used by nothing, and not counted."""
        return 0
