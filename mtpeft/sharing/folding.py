"""What torch does not do under vmap: attention by one kernel for all samples, and convolutions under autocast.

It has no rule for the fused kernels of attention and runs them sample by sample; here the samples are folded into the batch
axis. And autocast leaves a convolution's arguments as they are, whose types then differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


class Folding(TorchFunctionMode):
    """Within it `scaled_dot_product_attention` without a mask is one call for all samples of a vmap.

    Convolutions take the type of autocast, where it is on.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called for every function of torch."""
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention and len(args) == 3 and kwargs.get("attn_mask") is None:
            options = {name: value for name, value in kwargs.items() if name != "attn_mask"}
            return _Attention.apply(*args, options)
        if function in CONVOLUTIONS and torch.is_autocast_enabled(args[0].device.type):
            return function(*(_lowered(argument) for argument in args), **kwargs)
        return function(*args, **kwargs)


def _lowered(argument: Any) -> Any:
    """A tensor in the type of autocast, which leaves float64 as it is."""
    if not isinstance(argument, torch.Tensor) or argument.dtype == torch.float64:
        return argument
    return argument.to(torch.get_autocast_dtype(argument.device.type))


class _Attention(torch.autograd.Function):
    """Attention (..., N, d) with a rule of its own for vmap, which autograd sees through: only where no argument has the
    axis of samples does it run as a function, and then computes its gradient by running again."""

    @staticmethod
    def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        """As torch has it."""
        return F.scaled_dot_product_attention(q, k, v, **options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Keep what `backward` runs again."""
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """By running again."""
        with torch.enable_grad():
            inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            output = F.scaled_dot_product_attention(*inputs, **ctx.options)
        return *torch.autograd.grad(output, inputs, gradients), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Any
    ) -> tuple[torch.Tensor, int]:
        """Samples and batch as one axis."""
        size, pairs = info.batch_size, zip((q, k, v), in_dims, strict=False)
        queries, keys, values = (
            (t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)).flatten(0, 1) for t, dim in pairs
        )
        return F.scaled_dot_product_attention(queries, keys, values, **options).unflatten(0, (size, -1)), 0
