"""Scale and shift of channels: outputs and gradients as of the plain formula in float64, small, large and stacked."""

from __future__ import annotations

import pytest
import torch

from mtpeft.methods.channels import LARGE, scale_and_shift


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((2, 5, 8), -1), ((8, 197, 384), -1), ((3, 401, 768), -1), ((2, 16, 64, 256), -1), ((2, 8, 6, 5), 1)],
)
def test_as_the_plain_formula(shape: tuple[int, ...], axis: int) -> None:
    torch.manual_seed(0)
    channels = shape[axis]
    y, given = torch.randn(shape), torch.randn(shape)
    scale, shift = 1 + 0.1 * torch.randn(channels), torch.randn(channels)
    exact = [t.double().requires_grad_() for t in (y, scale, shift)]
    along = (channels,) if axis == -1 else (channels, 1, 1)
    expected = exact[0] * exact[1].view(along) + exact[2].view(along)
    wanted = torch.autograd.grad(expected, exact, given.double())

    leaves = [t.clone().requires_grad_() for t in (y, scale, shift)]
    found = scale_and_shift(*leaves, axis)  # type: ignore[call-arg]
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    largest = y.numel() // channels  # a sum of so many terms of size 1
    for gradient, right in zip(torch.autograd.grad(found, leaves, given), wanted, strict=True):
        torch.testing.assert_close(gradient.double(), right, atol=1e-5 * largest**0.5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(
            scale_and_shift(y, scale, shift, axis).double(), expected.detach(), atol=1e-6, rtol=1e-6
        )


def test_stacked_weights_and_mixed_types() -> None:
    """Under vmap each sample has weights of its own; a stream in bfloat16 keeps weights in float32."""
    torch.manual_seed(0)
    y, scale, shift = torch.randn(3, LARGE // 256, 256), torch.randn(3, 256).requires_grad_(), torch.randn(3, 256)
    found = torch.vmap(lambda *one: scale_and_shift(*one, -1))(y, scale, shift)
    expected = y * scale.unsqueeze(1) + shift.unsqueeze(1)
    torch.testing.assert_close(found, expected)
    given = torch.randn_like(found)
    torch.testing.assert_close(
        *(torch.autograd.grad(out, scale, given)[0] for out in (found, expected)), rtol=1e-4, atol=1e-3
    )
    mixed = scale_and_shift(y[0].bfloat16(), scale[0], shift[0], -1)
    torch.testing.assert_close(mixed, y[0].bfloat16() * scale[0] + shift[0])
