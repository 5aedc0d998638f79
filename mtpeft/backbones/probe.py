"""A forward on zeros that tells which modules of a backbone run, in which order and on which shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from mtpeft.backbones.attention_families import attention_family
from mtpeft.backbones.site import Running, Site


@dataclass(frozen=True)
class Call:
    """What the probe saw of one module: position in the order of calls, shapes of first input and of output.

    `grid`: height and width of the token map it was called on, where its arguments tell. `rest` and `named` are the other
    arguments, kept where the module is an attention.
    """

    order: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    grid: tuple[int, int] | None
    rest: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shapes:
    """Shapes of what a backbone gives for two images: `features` of `forward_features`, `pooled` of `forward_head`."""

    features: tuple[int, ...]
    pooled: tuple[int, ...]


class Probed(Protocol):
    """What is known of a backbone once it was probed: what stages and sites are found from (see `Anatomy`)."""

    backbone: Any
    blocks: list[str]
    calls: dict[nn.Module, Call]
    layout: str
    grid: tuple[int, int]
    running: Running
    prefix_tokens: int
    patch_size: int
    image_size: tuple[int, int]
    input_size: tuple[int, int, int]
    mergings: tuple[str, ...]
    families: dict[nn.Module, str]
    block_maps: bool
    sites: list[Site]

    @property
    def stages(self) -> Sequence[Any]:
        """The stages, finest first."""


def probe(backbone: Any, input_size: tuple[int, int, int]) -> tuple[dict[nn.Module, Call], Shapes]:
    """Run two images of zeros and record every module that is called on something with a batch axis."""
    calls: dict[nn.Module, Call] = {}
    order: dict[nn.Module, int] = {}
    handles = []
    for module in backbone.modules():
        handles.append(module.register_forward_pre_hook(lambda m, _: _number(order, m)))
        handles.append(module.register_forward_hook(partial(_record, calls, order), with_kwargs=True))
    parameter = next(backbone.parameters())
    modes = [(m, m.training) for m in backbone.modules()]
    try:
        backbone.eval()
        with torch.no_grad():
            images = torch.zeros(2, *input_size, device=parameter.device, dtype=parameter.dtype)
            features = backbone.forward_features(images)
            pooled = backbone.forward_head(features, pre_logits=True)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return calls, Shapes(tuple(features.shape), tuple(pooled.shape))


def _number(order: dict[nn.Module, int], module: nn.Module) -> None:
    order.setdefault(module, len(order))


def _record(
    calls: dict[nn.Module, Call], order: dict[nn.Module, int], module: nn.Module, args: Any, named: Any, out: Any
) -> None:
    batched = args and isinstance(args[0], torch.Tensor) and isinstance(out, torch.Tensor) and args[0].shape[0] % 2 == 0
    if batched:
        more = (args[1:], dict(named)) if attention_family(module) is not None else ((), {})
        calls[module] = Call(order[module], tuple(args[0].shape), tuple(out.shape), told_grid(args), *more)


def told_grid(args: Sequence[Any]) -> tuple[int, int] | None:
    """Height and width of the map a block is called on: those of a map (B, H, W, C), or what it is told beside a sequence."""
    if args[0].ndim == 4:
        return args[0].shape[1], args[0].shape[2]
    told = args[1] if len(args) > 1 else None
    return (told[0], told[1]) if isinstance(told, (tuple, list)) else None


def block_grid(anatomy: Probed, path: str) -> tuple[int, int]:
    """Height and width of the map a block ran on in the probe: its own, or the stem's for a sequence of that length.

    (0, 0) where it holds no map.
    """
    call = anatomy.calls[anatomy.backbone.get_submodule(path)]
    if not anatomy.block_maps:
        return 0, 0
    if call.grid is not None:
        return call.grid
    rows, columns = anatomy.calls[anatomy.backbone.patch_embed.proj].output_shape[-2:]
    return (rows, columns) if call.input_shape[1] == anatomy.prefix_tokens + rows * columns else (0, 0)
