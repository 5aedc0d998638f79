"""Fixed points as layers, and LION, which adds two of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive import NaiveViT, assert_close, attached
from torch import nn
from torch.utils.checkpoint import checkpoint

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.methods.fixed_point import Solver, fixed_point
from mtpeft.methods.prompt.lion import convolutional, pointwise
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images

X = images(2, torch.float64)
EXACT = Solver(tolerance=1e-14, max_steps=200, backward_steps=200)
D, R = 6, 4


def weights(seed: int = 0, std: float = 0.05) -> list[torch.Tensor]:
    """Those of `pointwise` at width D with R hidden channels, in float64, each to get a gradient."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(R, D), (D, R), (R,), (R,), (D,), (D,), (D,), (D,)]
    found = [std * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for position in (2, 4, 6):
        found[position] += 1
    return [tensor.requires_grad_() for tensor in found]


def inputs(batch: int = 3, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 2, D, generator=generator, dtype=torch.float64).requires_grad_()


def solved(u: torch.Tensor, parameters: list[torch.Tensor], solver: Solver) -> torch.Tensor:
    return fixed_point(pointwise, torch.zeros_like(u), (u, *parameters), solver)


def weighted(z: torch.Tensor) -> torch.Tensor:
    return (z * torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view(z.shape)).sum()


@pytest.mark.parametrize("tolerance", [1e-2, 1e-6])
def test_every_sample_s_residual_is_below_the_tolerance(tolerance: float) -> None:
    u, parameters = inputs(), weights()
    z = solved(u, parameters, Solver(tolerance=tolerance, max_steps=200))
    residual = pointwise(z, u, *parameters) - z
    # the residual of the step before was below it, and the step contracts
    assert (residual.flatten(1).norm(dim=1) <= tolerance * z.flatten(1).norm(dim=1)).all()


def test_a_linear_equation_is_solved_with_its_gradients() -> None:
    matrix = torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=torch.float64, requires_grad=True)
    u = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64, requires_grad=True)
    z = fixed_point(lambda z, a, u: z @ a.T + u, torch.zeros_like(u), (matrix, u), EXACT)
    direct = u @ torch.linalg.inv(torch.eye(2, dtype=torch.float64) - matrix).T
    assert_close(z, direct)
    for found, expected in zip(
        torch.autograd.grad(weighted(z), (matrix, u)), torch.autograd.grad(weighted(direct), (matrix, u)), strict=True
    ):
        assert_close(found, expected)


def test_gradients_are_those_of_unrolled_iterations() -> None:
    u, parameters = inputs(), weights()
    z = unrolled = torch.zeros_like(u)
    for _ in range(200):
        unrolled = pointwise(unrolled, u, *parameters)
    z = solved(u, parameters, EXACT)
    assert_close(z, unrolled)
    wanted = (u, *parameters)
    for found, expected in zip(
        torch.autograd.grad(weighted(z), wanted), torch.autograd.grad(weighted(unrolled), wanted), strict=True
    ):
        assert_close(found, expected)


def test_without_backward_steps_the_gradient_is_that_of_one_step() -> None:
    u, parameters = inputs(), weights()
    z = solved(u, parameters, Solver(tolerance=1e-14, max_steps=200, backward_steps=0))
    once = pointwise(z.detach(), u, *parameters)
    for found, expected in zip(
        torch.autograd.grad(weighted(z), parameters), torch.autograd.grad(weighted(once), parameters), strict=True
    ):
        assert_close(found, expected)


def test_what_does_not_converge_stays_at_its_last_step_and_steps_are_counted() -> None:
    calls = []

    def swinging(z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return u - z

    u = torch.tensor([[1.0], [0.0]])
    assert fixed_point(swinging, torch.zeros_like(u), (u,), Solver(max_steps=5)).tolist() == [[1.0], [0.0]]
    assert len(calls) == 5


def test_a_sample_does_not_see_its_company() -> None:
    u, parameters = inputs(4).detach(), weights()
    u[2] *= 0.01
    loose = Solver(tolerance=0.05, max_steps=100)
    together = solved(u, parameters, loose)
    for row in range(4):
        assert_close(together[row : row + 1], solved(u[row : row + 1], parameters, loose))


def test_under_vmap_every_sample_has_inputs_of_its_own() -> None:
    u, many = inputs(3), [torch.stack(tensors) for tensors in zip(*(weights(seed) for seed in range(3)), strict=True)]
    solver = Solver(tolerance=0.01, max_steps=100, backward_steps=7)

    def one(u: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return solved(u[None], list(parameters), solver)[0]

    found = torch.vmap(one)(u, *many)
    expected = torch.stack([one(u[row], *(tensor[row] for tensor in many)) for row in range(3)])
    assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(weighted(found), (u, *many), retain_graph=True),
        torch.autograd.grad(weighted(expected), (u, *many), retain_graph=True),
        strict=True,
    ):
        assert_close(a, b)
    common = weights()
    assert_close(torch.vmap(lambda u: one(u, *common))(u), solved(u, common, solver))


def test_checkpointing_and_compiling_change_nothing() -> None:
    u, parameters = inputs(), weights()
    solver = Solver(tolerance=1e-3, max_steps=20, backward_steps=5)

    def run(u: torch.Tensor) -> torch.Tensor:
        return solved(u, parameters, solver)

    expected = torch.autograd.grad(weighted(run(u)), (u, *parameters))
    torch._dynamo.reset()
    for other in (lambda u: checkpoint(run, u, use_reentrant=False), torch.compile(run, backend="aot_eager")):
        output = other(u)
        assert_close(output, run(u))
        for found, own in zip(torch.autograd.grad(weighted(output), (u, *parameters)), expected, strict=True):
            assert_close(found, own)


def test_it_runs_in_its_own_type_under_autocast() -> None:
    u, parameters = inputs().float(), [tensor.float() for tensor in weights()]
    expected = solved(u, parameters, Solver())
    with torch.autocast("cpu", torch.bfloat16):
        found = solved(u, parameters, Solver())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 102_412),
        ({"sites": ("pixels",)}, 908),
        ({"sites": ("features",)}, 101_504),
        ({"learnable_scale": True}, 102_414),
    ],
)
def test_counts_and_start(vit_b: nn.Module, options: dict[str, Any], expected: int) -> None:
    manager = mtpeft.attach(vit_b, "lion", **options)
    try:
        manager.add_task("birds", num_classes=2)
        assert manager.num_trainable("birds", heads=False) == expected
        bank: Any = manager.attachments[0].weights.bank("birds")
        for site in bank.sites.values():
            assert site.c1.std().item() == pytest.approx(0.01, rel=0.15)
            assert site.c2.std().item() == pytest.approx(0.01, rel=0.15)
            assert all(bool((w == 1).all()) for w in site.norm_weights)
            assert not any(b.any() for b in site.norm_biases)
            assert site.scale is None or site.scale.item() == 0
    finally:
        manager.detach()


def standard(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred / (centred.square().mean(dims, keepdim=True) + 1e-5).sqrt()


def shifted_sum(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """A 3 x 3 convolution with zeros around, as a sum of nine shifted images."""
    height, width = x.shape[-2:]
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    return sum(
        torch.einsum("oc,bchw->bohw", kernel[:, :, i, j], padded[..., i : i + height, j : j + width])
        for i in range(3)
        for j in range(3)
    )  # type: ignore[return-value]


def equilibrium(site: Any, u: torch.Tensor) -> torch.Tensor:
    """Iterated 150 times."""
    pixels = u.ndim == 4
    shape, dims = ((-1, 1, 1), (1, 2, 3)) if pixels else ((-1,), (-1,))

    def norm(x: torch.Tensor, which: int) -> torch.Tensor:
        return standard(x, dims) * site.norm_weights[which].view(shape) + site.norm_biases[which].view(shape)

    def layer(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return shifted_sum(x, weight) if pixels else x @ weight.T

    z = torch.zeros_like(u)
    for _ in range(150):
        hidden = norm(layer(z, site.c1).clamp(min=0), 0)
        z = norm((z + norm(u + layer(hidden, site.c2), 1)).clamp(min=0), 2)
    return z


@torch.no_grad()
@pytest.mark.parametrize(("anatomy", "learned"), [("vit", False), ("dinov2", True)])
def test_fixed_points_are_added_to_image_and_features(anatomy: str, learned: bool) -> None:
    options = {"tolerance": 1e-15, "max_steps": 150, "learnable_scale": learned}
    model, manager, _ = attached(anatomy, "lion", **options)
    bank: Any = manager.attachments[0].weights.bank("birds")
    for name, parameter in bank.named_parameters():  # small, so that they converge
        parameter.copy_(1 + 0.1 * parameter.sin() if "norm_weights" in name else 0.05 * parameter)
    by_kind = {s.kind: bank.sites[s.key] for s in manager.attachments[0].selected}  # type: ignore[union-attr]
    before, after = by_kind["pixels"], by_kind["features"]
    scales = (before.scale, after.scale) if learned else (1.0, 1.0)

    def features(y: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return y + scales[1] * equilibrium(after, y)

    expected = NaiveViT(model, pixels=lambda x: x + scales[0] * equilibrium(before, x), final_norm=features)(X)
    found = manager.backbone.forward_features(X)  # type: ignore[operator]
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(manager.features(X, "birds"), expected[:, 0], atol=1e-8, rtol=1e-8)


def test_both_functions_are_one_but_for_layers_and_norms() -> None:
    """A 1 x 1 image under the middle of the kernels is a vector."""
    parameters = [tensor.detach() for tensor in weights()]
    vector = inputs(3).detach()[:, 0]
    kernels = [nn.functional.pad(w[..., None, None], (1, 1, 1, 1)) for w in parameters[:2]]
    image = convolutional(vector[..., None, None], 2 * vector[..., None, None], *kernels, *parameters[2:])
    assert_close(image[..., 0, 0], pointwise(vector, 2 * vector, *parameters))


def test_other_places_are_refused() -> None:
    with pytest.raises(ConfigError, match="it acts on pixels and features, not on entry"):
        mtpeft.attach(tiny_backbone("vit"), "lion", sites=("pixels", "entry"))
