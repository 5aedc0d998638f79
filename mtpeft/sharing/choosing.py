"""The maths of choosing among M sets of weights by a query: likeness to their keys, votes, orthogonal starts.

Tensors have a leading axis of P where a pool has P groups of sites with keys of their own.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mtpeft.errors import ConfigError

#: the least length a vector is divided by
EPSILON = 1e-12


def cosines(query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """The cosine of every query (B, d) and every key (P, M, d): (P, B, M)."""
    return F.normalize(query, dim=-1, eps=EPSILON) @ F.normalize(keys, dim=-1, eps=EPSILON).mT


def attended_cosines(query: torch.Tensor, keys: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """cos(q * A_m, K_m) for queries (B, d), attention vectors and keys (P, M, d): (P, B, M) (CODA-Prompt, equation 4).

    The products q * A_m, (B, P, M, d), are never made: their lengths and their products with keys are matrix products.
    """
    keys = F.normalize(keys, dim=-1, eps=EPSILON)
    length = (query.square() @ attention.square().mT).clamp_min(EPSILON**2).sqrt()
    return query @ (attention * keys).mT / length


def nearest(likeness: torch.Tensor, number: int, allowed: torch.Tensor | None = None) -> torch.Tensor:
    """The `number` sets of largest likeness (P, B, M) among those `allowed` (B, M), the largest first: (P, B, number)."""
    scores = likeness.detach()
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.topk(number, dim=-1).indices


def seldom_nearest(likeness: torch.Tensor, number: int, frequency: torch.Tensor) -> torch.Tensor:
    """As `nearest`, where a set's distance, 1 - likeness, counts times its `frequency` (P, B, M) (L2P, equation 5).

    Of sets that count alike, those never used above all, the nearer one comes first.
    """
    near_first = likeness.detach().sort(dim=-1, descending=True, stable=True).indices
    weighed = ((1 - likeness.detach()) * frequency).gather(-1, near_first)
    return near_first.gather(-1, weighed.sort(dim=-1, stable=True).indices)[..., :number]


def most_chosen(index: torch.Tensor, sets: int, whose: torch.Tensor | None = None, tasks: int = 1) -> torch.Tensor:
    """The sets that most samples of a batch chose, for all of its samples: (P, B, k) in and out; the first of equals.

    `whose` (B,): samples vote among those of one of `tasks` tasks.
    """
    votes = (index.unsqueeze(-1) == torch.arange(sets, device=index.device)).sum(-2)  # (P, B, M)
    owner = votes.new_zeros(index.shape[1]) if whose is None else whose
    totals = votes.new_zeros(votes.shape[0], tasks, sets).index_add(1, owner, votes)
    won = totals.sort(dim=-1, descending=True, stable=True).indices[..., : index.shape[-1]]
    return won.index_select(1, owner)


def orthonormal(vectors: torch.Tensor, earlier: torch.Tensor) -> torch.Tensor:
    """Gram-Schmidt: vectors (n, D) of length 1, orthogonal to each other and to all `earlier` ones (m, D), which stay.

    In float64, by Householder's reflections: the same vectors, without the loss of digits. Raises `ConfigError` for more
    vectors than numbers in one.
    """
    if vectors.is_meta:
        return vectors
    number, size = len(vectors) + len(earlier), vectors.shape[1]
    if number > size:
        raise ConfigError(
            f"sharing 'pool': {number} sets cannot be orthogonal, the vectors that are to be have {size} numbers: "
            "start='uniform', or fewer sets"
        )
    rows = [part.detach().cpu().double() for part in (earlier, vectors)]
    q, r = torch.linalg.qr(torch.cat(rows).mT)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(q)
    return (q * signs)[:, len(earlier) :].mT.to(vectors)


def deviation(vectors: torch.Tensor) -> torch.Tensor:
    """How far vectors (..., M, D) are from orthonormal: the mean square of X X^T - I, summed over what stands in front."""
    products = vectors @ vectors.mT - torch.eye(vectors.shape[-2], dtype=vectors.dtype, device=vectors.device)
    return products.square().mean(dim=(-2, -1)).sum()
