"""Several sets of a site's weights that act as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mtpeft.sharing.bank import Bank


def axes_of(bank: Bank, key: str) -> dict[str, int | None] | None:
    """How sets of site `key` stand beside each other, by the names of `Bank.tensors`; None where the method does not say.

    Where it says nothing of one of the weights that are there, it says nothing of the site.
    """
    beside: Mapping[str, int | None] = getattr(bank.sites[key], "beside", {})
    prefix, names = f"sites.{key}.", bank.tensors(key)
    own = {name: name.removeprefix(prefix) for name in names}
    if not names or any(short == name or short not in beside for name, short in own.items()):
        return None
    return {name: beside[short] for name, short in own.items()}


def side_by_side(
    axes: Mapping[str, int | None], sets: Sequence[Mapping[str, torch.Tensor]], lead: int = 0
) -> dict[str, torch.Tensor]:
    """The weights of all `sets` as one: joined along their axis, or summed; each has `lead` axes in front of its own."""
    joined = {}
    for name, axis in axes.items():
        parts = [weights[name] for weights in sets]
        joined[name] = torch.stack(parts).sum(0) if axis is None else torch.cat(parts, dim=axis + lead)
    return joined


def factors_of(bank: Bank, key: str) -> tuple[str, str] | None:
    """The weights of site `key` that are the factors of a product up @ down, (down, up); None where it is none.

    down is (r, in), up (out, r): by r they stand beside those of other sets.
    """
    axes = axes_of(bank, key)
    if axes is None or not bank.factored(key) or sorted(map(str, axes.values())) != ["0", "1"]:
        return None
    down, up = sorted(axes, key=lambda name: axes[name] or 0)
    return down, up
