"""A low-rank product added to an output, in one pass over the output instead of three."""

from __future__ import annotations

import torch


def add_product(y: torch.Tensor, left: torch.Tensor, right: torch.Tensor, in_place: bool = False) -> torch.Tensor:
    """y + left @ right.

    y (..., out) and left (..., k) with the same leading axes; right (k, out), or (B, k, out) where sample b of B has
    weights of its own: the leading axis of y is then B or a multiple of it (the windows of each image in a row).
    `in_place` writes the sum into y (no autograd) and returns that very tensor. With k = 0 y is returned as it is.
    """
    if not left.shape[-1]:  # of rank 0
        return y
    right = right.to(left.dtype)
    lead = () if right.dim() == 2 else right.shape[:1]
    narrow = left.reshape(*lead, -1, left.shape[-1])
    flat = y.reshape(*lead, -1, y.shape[-1])
    if y.dtype != left.dtype:  # autocast: the stream keeps its precision
        return y + torch.matmul(narrow, right).view(y.shape)
    fused = torch.baddbmm if lead else torch.addmm
    if in_place and flat.data_ptr() == y.data_ptr():
        fused(flat, narrow, right, out=flat)
        return y
    return fused(flat, narrow, right).view(y.shape)
