"""The sets of a pool: each a complete bank of a method's weights with its keys, and what they start as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtpeft.errors import ConfigError
from mtpeft.sharing.bank import Bank, BankFactory
from mtpeft.sharing.choosing import orthonormal


class PoolSet(nn.Module):
    """One set: `bank`, and for each of P groups of sites a key (P, d) and, where asked for, an attention vector (P, d).

    Keys and attention vectors are uniform in -1 ... 1, as are all weights where `uniform`.
    """

    def __init__(self, factory: BankFactory, groups: int, attends: bool, uniform: bool) -> None:
        super().__init__()
        self.bank = factory()
        self.keys = nn.Parameter(torch.empty(groups, factory.query_dim).uniform_(-1, 1))
        self.attention: nn.Parameter | None = None
        if attends:
            self.attention = nn.Parameter(torch.empty(groups, factory.query_dim).uniform_(-1, 1))
        if uniform:
            for parameter in self.bank.parameters():
                nn.init.uniform_(parameter, -1, 1)

    def weights(self, sites: Sequence[str]) -> list[nn.Parameter]:
        """The trained weights of some sites, and those at model level, each once."""
        found = [t for key in sites for t in self.bank.tensors(key).values() if isinstance(t, nn.Parameter)]
        return list(dict.fromkeys(found))


def check_poolable(factory: BankFactory, bank: Bank, by_block: bool) -> None:
    """Raise `ConfigError` for a method whose weights cannot be chosen or mixed by the image, or that has none."""
    name, refused = factory.spec.name, ""
    if not any(True for _ in bank.parameters()):
        refused = "has no weights of its own that could be chosen among"
    elif not bank.fitted:
        refused = "is fitted to a task's data, and the sets of a pool belong to none"
    elif factory.spec.module.paced:
        refused = "draws or deletes weights step by step, one set at a time"
    elif any(isinstance(module, _BatchNorm) for module in bank.modules()):
        refused = "normalises over the images of a batch (batch norm), which use different sets"
    elif by_block and bank.model is not None and any(True for _ in bank.model.parameters()):
        refused = "has weights at model level, which blocks cannot choose each for themselves: keys='pool'"
    if refused:
        raise ConfigError(f"sharing 'pool': method {name!r} {refused}")


def keys_of(sets: Sequence[PoolSet], trained: Sequence[bool]) -> torch.Tensor:
    """The keys of all sets: (P, M, d); those not trained are detached."""
    return _stacked([s.keys for s in sets], trained)


def attention_of(sets: Sequence[PoolSet], trained: Sequence[bool]) -> torch.Tensor:
    """The attention vectors of all sets: (P, M, d); those not trained are detached."""
    return _stacked([s.attention for s in sets if s.attention is not None], trained)


def vectors_of(sets: Sequence[PoolSet], sites: Sequence[str], trained: Sequence[bool]) -> torch.Tensor:
    """All trained weights at `sites` as one vector for each set: (M, D); those not trained are detached."""
    flat = [torch.cat([w.flatten() for w in s.weights(sites)]) for s in sets]
    return torch.stack([v if own else v.detach() for v, own in zip(flat, trained, strict=True)])


def _stacked(vectors: Sequence[torch.Tensor], trained: Sequence[bool]) -> torch.Tensor:
    return torch.stack([v if own else v.detach() for v, own in zip(vectors, trained, strict=True)], dim=1)


@torch.no_grad()
def make_orthogonal(new: Sequence[PoolSet], earlier: Sequence[PoolSet], groups: Mapping[int, Sequence[str]]) -> None:
    """Gram-Schmidt of new sets against each other and all earlier ones: keys, attention vectors and weights, by group.

    CODA-Prompt, section 4.2: what a task adds starts orthogonal to all that is there, with length 1.
    """
    for group, sites in groups.items():
        parts = [[s.keys[group] for s in sets] for sets in (new, earlier)]
        _orthogonal(*parts)
        if new[0].attention is not None:
            _orthogonal(*[[s.attention[group] for s in sets if s.attention is not None] for sets in (new, earlier)])
        flat = [[torch.cat([w.flatten() for w in s.weights(sites)]) for s in sets] for sets in (new, earlier)]
        _orthogonal(*flat)
        for made, pool_set in zip(flat[0], new, strict=True):
            weights = pool_set.weights(sites)
            for weight, piece in zip(weights, made.split([w.numel() for w in weights]), strict=True):
                weight.copy_(piece.view_as(weight))


def _orthogonal(new: Sequence[torch.Tensor], earlier: Sequence[torch.Tensor]) -> None:
    """In place."""
    before = torch.stack(list(earlier)) if earlier else new[0].new_zeros(0, new[0].numel())
    for vector, made in zip(new, orthonormal(torch.stack(list(new)), before), strict=True):
        vector.copy_(made)


@torch.no_grad()
def copy_weights(new: Sequence[PoolSet], earlier: Sequence[PoolSet]) -> None:
    """New sets start with the weights of earlier ones, as many; keys stay as they are."""
    for to, source in zip(new, earlier, strict=True):
        own = dict(source.bank.named_parameters())
        for name, parameter in to.bank.named_parameters():
            parameter.copy_(own[name])
