"""A forward on zeros that tells which modules of a backbone run, in which order and on which shapes."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from mtpeft.backbones.attention_families import attention_family
from mtpeft.backbones.blocks import parts_of
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
    """Shapes of what a backbone gives for two images: `features` of `forward_features`, `pooled` of `forward_head`.

    `source` is the module whose output the features are, the outermost one, or None where none gives them.
    """

    features: tuple[int, ...]
    pooled: tuple[int, ...]
    source: nn.Module | None = None


class Probed(Protocol):
    """What is known of a backbone once it was probed: what stages and sites are found from (see `Anatomy`)."""

    backbone: Any
    stem: nn.Module
    projection: nn.Module
    blocks: list[str]
    calls: dict[nn.Module, Call]
    layout: str
    grid: tuple[int, int]
    running: Running
    prefix_tokens: int
    prefixes: list[int]
    patch_size: int
    image_size: tuple[int, int]
    input_size: tuple[int, int, int]
    mergings: tuple[str, ...]
    families: dict[nn.Module, str]
    block_maps: bool
    shapes: Shapes
    rolled: bool
    channels_first: bool
    sites: list[Site]

    @property
    def stages(self) -> Sequence[Any]:
        """The stages, finest first."""

    @property
    def stage_maps(self) -> bool:
        """Whether the stages' features are maps."""


def probe(backbone: Any, input_size: tuple[int, int, int]) -> tuple[dict[nn.Module, Call], Shapes]:
    """Run two images of zeros and record every module that is called on something with a batch axis."""
    calls: dict[nn.Module, Call] = {}
    order: dict[nn.Module, int] = {}
    makers: dict[int, tuple[weakref.ref[torch.Tensor], nn.Module]] = {}
    handles = []
    for module in backbone.modules():
        handles.append(module.register_forward_pre_hook(lambda m, _: _number(order, m)))
        handles.append(module.register_forward_hook(partial(_record, calls, order), with_kwargs=True))
        handles.append(module.register_forward_hook(partial(_sign, makers)))
    parameter = next(backbone.parameters())
    modes = [(m, m.training) for m in backbone.modules()]
    try:
        backbone.eval()
        with torch.no_grad():
            images = torch.zeros(2, *input_size, device=parameter.device, dtype=parameter.dtype)
            features = backbone.forward_features(images)
            made, source = makers.get(id(features), (None, None))
            source = source if made is not None and made() is features else None
            pooled = backbone.forward_head(features, pre_logits=True)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return calls, Shapes(tuple(features.shape), tuple(pooled.shape), source)


def _number(order: dict[nn.Module, int], module: nn.Module) -> None:
    order.setdefault(module, len(order))


def _record(
    calls: dict[nn.Module, Call], order: dict[nn.Module, int], module: nn.Module, args: Any, named: Any, out: Any
) -> None:
    batched = args and isinstance(args[0], torch.Tensor) and isinstance(out, torch.Tensor) and args[0].shape[0] % 2 == 0
    if batched:
        more = (args[1:], dict(named)) if attention_family(module) is not None else ((), {})
        parts = parts_of(module)
        first = parts is not None and parts.convolutional
        calls[module] = Call(order[module], tuple(args[0].shape), tuple(out.shape), told_grid(args, first), *more)


def _sign(makers: dict[int, tuple[weakref.ref[torch.Tensor], nn.Module]], module: nn.Module, _: Any, out: Any) -> None:
    """Note who gave a tensor last; without holding it, for all of a forward's would be many."""
    if isinstance(out, torch.Tensor):
        makers[id(out)] = weakref.ref(out), module


def told_grid(args: Sequence[Any], channels_first: bool = False) -> tuple[int, int] | None:
    """Height and width of the map a block is called on: those of a map (B, H, W, C), or what it is told beside a sequence.

    `channels_first`: the map is (B, C, H, W).
    """
    if args[0].ndim == 4:
        rows = 2 if channels_first else 1
        return args[0].shape[rows], args[0].shape[rows + 1]
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
    _, rows, columns = stem_map(anatomy.projection, anatomy.calls[anatomy.projection].output_shape)
    return (rows, columns) if call.input_shape[1] == anatomy.prefix_tokens + rows * columns else (0, 0)


def stem_map(projection: nn.Module, output_shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width of the first map of tokens: what a convolution gives, (B, C, H, W), or a linear layer,
    (B, H, W, C)."""
    channels, rows, columns = (1, 2, 3) if isinstance(projection, nn.Conv2d) else (3, 1, 2)
    return output_shape[channels], output_shape[rows], output_shape[columns]


def tokens_before(call: Call, usual: int) -> int:
    """Tokens in front of a map's own in a block that is told its map, or as many as in the rest of the model (`usual`).

    A class token may join a pyramid on its way.
    """
    more = call.input_shape[1] - call.grid[0] * call.grid[1] if call.grid and len(call.input_shape) == 3 else usual
    return more if more >= 0 else usual
