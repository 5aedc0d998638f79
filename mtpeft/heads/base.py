"""The contract of a head, and the registry of heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

import torch
from torch import nn

from mtpeft.registry import Registry


class Head(nn.Module):
    """From features to a task's output. `reads` says what it gets: "pooled" (B, C), "frames" (B, T, C), "map" (B, C, H, W),
    "stages" or "merged". Of a clip, pooled features are the mean over its frames, and maps are read frame by frame.

    "stages" are maps (B, C_i, H_i, W_i), finest first, "merged" the same after the patch merging that follows each stage
    of a Swin. The constructor's first argument is what the head is sized by: the width of its features, or for several
    maps their `Scales`; options follow by name.

    A dense head that sets `sized` is called with the images' (height, width) as second argument, to give a map of that size:
    the number of cells alone does not tell it where the backbone pads.

    Any other `nn.Module` serves as a head too; without a `reads` of its own it gets pooled features.
    """

    reads: ClassVar[str] = "pooled"
    #: `forward` takes the images' size as second argument
    sized: bool = False

    def frame_weights(self, frames: torch.Tensor) -> torch.Tensor | None:
        """What each frame counts in the output, (B, T), rows sum to 1; None where the head does not weigh them."""
        return None

    def linear(self) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """Weight (classes, C) and bias where the head is, in eval mode, one linear map of pooled features; else None."""
        return None


HEADS: Registry[type[Head]] = Registry("head")
H = TypeVar("H", bound=type[Head])


def register_head(name: str) -> Callable[[H], H]:
    """Class decorator: registers a head. Its constructor takes what it is sized by, and keyword options of its own."""

    def decorate(head: H) -> H:
        HEADS.add(name, head)
        return head

    return decorate
