"""Fixed points as layers: z = f(z, u), found by iteration, with gradients by the implicit function theorem.

Bai, Kolter and Koltun, "Deep Equilibrium Models", NeurIPS 2019 (arXiv 1909.01377), section 3. The graph of the iterations is
never kept: at a fixed point dz = J dz + (df/du) du, so a gradient v of z becomes g = J^T g + v, and (df/du)^T g is the
gradient of u. Samples are solved each on its own: what one gives does not depend on its company. Backwards g is a Neumann
series of so many terms, v + J^T v + (J^T)^2 v + ..., which is linear in v, whatever J: gradients of a sum are sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mtpeft.methods.precision import without_autocast

Function = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Solver:
    """z <- f(z), at most `max_steps` times, for each sample until |f(z) - z| <= `tolerance` |f(z)|.

    `axes`: so many leading axes of z tell samples apart. `backward_steps`: terms of the Neumann series after the first; with
    0 the gradient is that of the last step alone. What has not converged is left where it is.
    """

    tolerance: float = 1e-3
    max_steps: int = 30
    backward_steps: int = 30
    axes: int = 1

    def __call__(self, f: Function, z: torch.Tensor) -> torch.Tensor:
        """The fixed point next to z, without a gradient."""
        running = torch.ones(z.shape[: self.axes], dtype=torch.bool, device=z.device)
        rest = (1,) * (z.ndim - self.axes)
        for _ in range(self.max_steps):
            new = f(z)
            moved, size = (t.flatten(self.axes).norm(dim=-1) for t in (new - z, new))
            z = torch.where(running.view(*running.shape, *rest), new, z)
            running = running & (moved > self.tolerance * size)
            if not torch.compiler.is_compiling() and not running.any():
                break
        return z


def fixed_point(f: Function, z: torch.Tensor, inputs: Sequence[torch.Tensor], solver: Solver) -> torch.Tensor:
    """z* = f(z*, *inputs), sought from z on, a tensor (B, ...); gradients reach all `inputs`.

    f must be pure, and all that is to get a gradient must be among `inputs`. It runs without autocast, in the type of z.
    """
    return _FixedPoint.apply(f, solver, z, *inputs)


class _FixedPoint(torch.autograd.Function):
    @staticmethod
    def forward(f: Function, solver: Solver, z: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), without_autocast(z):
            return solver(lambda z: f(z, *inputs), z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.f, ctx.solver, _, *tensors = inputs
        ctx.save_for_backward(output, *tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (v,) = gradients
        output, *inputs = ctx.saved_tensors
        with without_autocast(v):
            back: Any = torch.func.vjp(lambda z: ctx.f(z, *inputs), output)[1]
            g = v
            for _ in range(ctx.solver.backward_steps):
                g = back(g)[0] + v
            pull: Any = torch.func.vjp(lambda *inputs: ctx.f(output, *inputs), *inputs)[1]
            return None, None, None, *pull(g)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], f: Function, solver: Solver, z: torch.Tensor, *inputs: torch.Tensor
    ) -> tuple[torch.Tensor, int]:
        """One axis of samples more, each with inputs of its own."""
        _, _, axis, *axes = in_dims
        z = z.expand(info.batch_size, *z.shape) if axis is None else z.movedim(axis, 0)
        inner = torch.vmap(f, in_dims=(0, *axes))
        return _FixedPoint.apply(inner, replace(solver, axes=solver.axes + 1), z, *inputs), 0
