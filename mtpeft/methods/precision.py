"""Where a method has to compute in the precision of what it is given."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """No autocast on the tensor's device; tensors of shapes alone ("meta") know none."""
    kind = tensor.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)
