"""CPAB maps of an interval: the flow of a velocity that is continuous and linear in each of N equal cells.

Freifeld, Hauberg, Batmanghelich, Fisher, "Transformations Based on Continuous Piecewise-Affine Velocity Fields", TPAMI 2017.
In a cell the flow is exact, x(t) = x + t v(x) (e^(a t) - 1) / (a t) with slope a; a point that reaches a vertex goes on in
the next cell.
"""

from __future__ import annotations

import torch

#: exponents beyond it belong to points that are not used, or that all but stand still
STEEPEST = 60.0
#: more than any time that matters, which is up to 1: that of a vertex which is never reached
NEVER = 2.0


def displacement(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Points x (...) of [0, 1] and velocities theta (N - 1,) at the inner vertices -> f(x) - x, of the shape of x.

    Exactly zero where theta is zero; differentiable in theta, with no gradient to x.
    """
    x = x.detach()
    zero = theta.new_zeros(1)
    velocity = torch.cat([zero, theta, zero]).to(torch.promote_types(x.dtype, theta.dtype))
    flat = x.flatten().to(velocity.dtype)
    right = _to_the_right(flat, velocity)
    left = -_to_the_right(1 - flat, -velocity.flip(0))
    return torch.where(_at(flat, velocity) >= 0, right, left).view(x.shape)


def _at(x: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
    """The velocity (n,) at points x (n,), from that at the N + 1 vertices."""
    cells = velocity.shape[0] - 1
    cell = _cell(x, cells)
    share = x * cells - cell
    return velocity[cell] * (1 - share) + velocity[cell + 1] * share


def _cell(x: torch.Tensor, cells: int) -> torch.Tensor:
    return (x * cells).floor().clamp(0, cells - 1).long()


def _to_the_right(x: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
    """How far points (n,) get within time 1, if they move to the right; of others it is not to be used."""
    cells = velocity.shape[0] - 1
    cell, start = _cell(x, cells), _at(x, velocity)
    vertices = torch.arange(cells, device=x.device)
    # times at which the vertex to the right of every cell is reached: of the own one, then one cell after the other
    first = _crossing(start, velocity[cell + 1], (cell + 1).to(x.dtype) / cells - x)
    whole = _crossing(velocity[:-1], velocity[1:], torch.full_like(velocity[1:], 1 / cells))
    later = torch.where(vertices > cell.unsqueeze(1), whole, torch.zeros_like(whole))  # (n, N)
    reached = first.unsqueeze(1) + later.cumsum(1)
    passed = (reached <= 1) & (vertices >= cell.unsqueeze(1))
    hops = passed.sum(1)
    last = (cell + hops - 1).clamp(min=0)
    spent = torch.where(hops > 0, reached.gather(1, last.unsqueeze(1)).squeeze(1), torch.zeros_like(x))
    now = (cell + hops).clamp(max=cells - 1)
    begin = torch.where(hops > 0, velocity[now], start)
    gone = torch.where(hops > 0, now.to(x.dtype) / cells - x, torch.zeros_like(x))
    slope = (velocity[now + 1] - velocity[now]) * cells
    rest = 1 - spent
    return gone + rest * begin * _growth((slope * rest).clamp(max=STEEPEST))


def _crossing(begin: torch.Tensor, end: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """Time to cross `width` while the velocity goes linearly from `begin` to `end`; `NEVER` where it does not get there.

    width log(end / begin) / (end - begin), without 0 / 0 in values or gradients.
    """
    tiny = torch.finfo(begin.dtype).eps ** 2
    moves = (begin > tiny) & (end > tiny)
    begin = torch.where(moves, begin, torch.ones_like(begin))
    end = torch.where(moves, end, torch.ones_like(end))
    ratio = (end - begin) / begin
    small = ratio.abs() < 1e-3
    safe = torch.where(small, torch.ones_like(ratio), ratio)
    series = 1 - ratio * (1 / 2 - ratio * (1 / 3 - ratio * (1 / 4 - ratio / 5)))
    time = width / begin * torch.where(small, series, safe.log1p() / safe)
    return torch.where(moves & (time < NEVER), time, torch.full_like(time, NEVER))


def _growth(z: torch.Tensor) -> torch.Tensor:
    """(e^z - 1) / z."""
    small = z.abs() < 1e-3
    safe = torch.where(small, torch.ones_like(z), z)
    series = 1 + z * (1 / 2 + z * (1 / 6 + z * (1 / 24 + z / 120)))
    return torch.where(small, series, safe.expm1() / safe)
