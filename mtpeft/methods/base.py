"""What a method is: a frozen config, one module per site, and claims that tests check.

A method is one file in a folder of `mtpeft/methods/` (the folder is its place in the taxonomy). It holds a config, a
site module and `register`; everything else reads the registry. A site module sees one site and plain tensors: it knows
no task, no sharing and no engine. Its `forward` must be pure: blocks run twice under gradient checkpointing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import nn

from mtpeft.backbones.site import CHANGED, Site, Stage
from mtpeft.errors import ConfigError
from mtpeft.methods.group import PLAIN, Group
from mtpeft.methods.product import add_product
from mtpeft.methods.task_data import TaskData
from mtpeft.options import Length, Name, check_fields

#: kinds or groups of sites, at least one; indices of blocks, at least one; and what a method without sites has
Sites = Annotated[tuple[Name, ...], Length(at_least=1)]
Blocks = Annotated[tuple[int, ...], Length(at_least=1)]
NoSites = Annotated[tuple[Name, ...], Length(at_most=0)]


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Fields every method has: `sites` (kinds or groups), `blocks` (indices, None for all; negative from the end).

    `exclude` (kinds, groups or paths of modules to leave out).

    A field says in its annotation what it takes (`mtpeft.options`: `rank: Count = 8`); a value it does not take raises
    `ConfigError` when the config is made.
    """

    sites: Sites
    blocks: Blocks | None = None
    exclude: tuple[Name, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, type(self).__name__)


class SiteModule(nn.Module):
    """One site's weights and maths. Subclass it, or model it: only `forward` is needed, or `factors` in its place.

    `forward(x, y)` gets the site's input and output and returns the new output, for sites that have an output;
    `forward(x)` returns tokens (B, p, C) at `tokens` and `queries` sites, and keys and values, each (B, m, C), at
    `prefix` sites, and what is added to the logits, (B, heads, N, N), at `position_table` sites; `forward(*taps)` returns
    features (B, N, C) at the `side` site. Methods with weights at model level (`model_module`) get that module as keyword
    argument `model`, those with frozen tensors that all sets of weights share (`constants`) as `constants`.

    Where `stateful` is set, sites hand on a state in the order they run: `forward(x, y, *state)` gets what the site before
    left (nothing at the first one) and returns the new output and the tensors of its own state, (B, ...) each. At the
    `scales` site, the last, `forward(*maps, *state)` returns the maps (B, C, H, W) that heads of several scales read,
    those of `head_scales`. What is read without a gradient into the backbone, the method detaches.

    A method of the form y + left @ right may define `factors(x)` instead, which gives left (..., k) and right (k, out);
    where it also sets `factored`, batches of several tasks add their products in one pass over y. Where it has a
    `forward` of the same sum as well, whose gradient is cheaper, it sets `trains_by_forward`.
    """

    #: module built once per set of weights and handed to every site: `model_module(config, sites)`; where that gives None
    #: there is none
    model_module: ClassVar[Callable[..., nn.Module | None] | None] = None
    #: tokens sites: what leaves a block enters the next one instead of being dropped
    carry: ClassVar[bool] = False
    #: `combine` reads the method's tokens that leave the last block, and the patches
    joins: ClassVar[bool] = False
    #: sites hand on a state: a network beside the backbone, run in step with it
    stateful: ClassVar[bool] = False
    #: of what is carried: tokens of a later block's own take its place
    replaces: ClassVar[bool] = False
    #: of what is carried: tokens sites behind the first are called as `forward(x, carried)` and give what takes its place
    lifts: ClassVar[bool] = False
    #: of what is carried past Swin's windows: what the tokens read there is added to them, as to any token; else the MLP alone
    #: sees it, and what the MLP gives is added
    token_residual: ClassVar[bool] = True
    #: elastic methods: of a site's sized part, the leading so many take part; None for all of them
    active: int | None = None
    #: `factors` stands for `forward` in batches of several tasks too
    factored: bool = False
    #: `forward` stands beside `factors`, and one task's training steps run it
    trains_by_forward: ClassVar[bool] = False
    #: some of its modules, or of its task streams', are told of steps and epochs (`mtpeft.methods.paced`)
    paced: ClassVar[bool] = False
    #: how several sets of a site's weights act as one: by name the axis along which a weight of one set stands beside those
    #: of the others, None where they are summed. Whatever acts then is the sum of what each set adds, or all their tokens
    beside: ClassVar[Mapping[str, int | None]] = {}
    #: the name by which folders of Hugging Face PEFT know the method, where they can hold it
    peft_type: ClassVar[str | None] = None
    #: numbers that a call makes of its weights, where they are more than the weights (a dense matrix of a few of its entries)
    made: int = 0
    #: the styles of sites it can serve (see `mtpeft/backbones/site.py`); by default those with an output to change
    styles: ClassVar[tuple[str, ...]] = CHANGED

    def __init__(self, config: Any, site: Site, **constants: nn.Module) -> None:
        """Subclasses create their weights here from `config` and the site's sizes, and from `constants` where they have any."""
        super().__init__()

    def _no_factors(self, x: torch.Tensor, **model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError(f"{type(self).__name__} defines neither forward nor factors")

    def _sum(self, x: torch.Tensor, y: torch.Tensor, **model: nn.Module) -> torch.Tensor:
        return add_product(y, *self.factors(x, **model))

    #: left (..., k) and right (k, out) of the product added to the output
    factors: Callable[..., tuple[torch.Tensor, torch.Tensor]] = _no_factors
    #: y + left @ right, where a method does not define its own
    forward: Callable[..., Any] = _sum

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The site's weight (out, in, ...) and bias with this method folded in. Only where the method folds."""
        raise ConfigError(f"{type(self).__name__} does not fold into a weight")

    @staticmethod
    def group(config: Any, name: str) -> Group:
        """How the weight `name` is trained: its learning rate as a multiple of the optimiser's, and whether it decays.

        `name` is that of a site module's parameter; `model.` stands before those at model level, `stream.` before those of a
        task stream, `backbone.` before the backbone's own.
        """
        return PLAIN

    @staticmethod
    def needs_fit(config: Any) -> bool:
        """Whether something is chosen by the task's training data before it is trained: then there is a `fit`."""
        return False

    @staticmethod
    def fit(config: Any, modules: Mapping[str, Any], data: TaskData) -> None:
        """Choose by the task's data, and write the choice into buffers or weights of the site modules, by site.

        It is called once for every set of weights, before they are used; what it writes is saved with them.
        """
        raise NotImplementedError

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """The sites the method takes where the backbone's structure decides, of those asked for and of `every` it has.

        By default those asked for.
        """
        return sites

    @staticmethod
    def of_tasks(config: Any, sites: Sequence[Site]) -> Sequence[Site]:
        """Methods with a task stream: the tokens sites at which each task has a module of its own; by default none.

        What enters there are the tokens of all tasks that there are, in the order they were added, in every pass and
        whichever task it is for: the shared pass is one.
        """
        return ()

    @staticmethod
    def constants(config: Any, sites: Sequence[Site]) -> nn.Module | None:
        """Frozen tensors that all tasks share, as buffers of a module that is made once on attaching; or None.

        Buffers that are not persistent are made anew on loading. The module is handed to every site as keyword argument
        `constants`: when it is made, in `forward` or `factors`, and in `merged`.
        """
        return None

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Why these sites cannot be served, beyond being there (say, widths that differ), or None."""
        return None

    @staticmethod
    def feature_dim(config: Any, dim: int, sites: Sequence[Site]) -> int:
        """Width of pooled features under this method; `dim` is the width without it."""
        return dim

    @staticmethod
    def head_scales(config: Any, stages: Sequence[Stage]) -> Sequence[Stage]:
        """What heads of several scales read under this method, finest first; `stages` is what they read without it."""
        return stages

    @staticmethod
    def combine(config: Any, pooled: torch.Tensor, read: Sequence[torch.Tensor]) -> torch.Tensor:
        """Pooled features (B, C) and what was read -> new pooled features.

        Read are what the query tokens give, one (B, T, C) per block; and where `joins` is set, behind the final norm, the
        tokens (B, p, C) that leave the last block and its patches (B, N, C).
        """
        return pooled


@dataclass(eq=False)
class Taps:
    """What a task stream sees of one block of the shared pass.

    `entry` and `output`: the block's input and output. By kind of site: `x` its input, `y` its output before the
    method acted, `modules` the shared site modules. `unwindow` brings rows of attention windows to the block's layout.
    Where tasks have tokens of their own (`SiteModule.of_tasks`) that pass through Swin's windows, `queries` are those of the
    stream's own task, (B, heads, p, head_dim), and `keys` those of the windows' patches, (windows, heads, A, head_dim), an
    image's windows in a row; neither is scaled. `own` are the task's weights at those sites, by kind of site and name
    ("tokens.prompt"). `model`: the shared weights at model level.
    """

    entry: torch.Tensor
    output: torch.Tensor
    x: dict[str, torch.Tensor]
    y: dict[str, torch.Tensor]
    modules: dict[str, Any]
    unwindow: Callable[[torch.Tensor], torch.Tensor]
    queries: torch.Tensor | None = None
    keys: torch.Tensor | None = None
    own: Mapping[str, torch.Tensor] = field(default_factory=dict)
    model: Any = None


class TaskStream(nn.Module):
    """One task's own weights at one block of a method whose other weights all tasks share.

    The shared pass alone feeds the next block; `forward(taps)` gives what the task's features have more than the
    shared output of this block. Weights of several tasks are stacked and run in one call, so it must be plain torch.
    """

    #: kinds of sites whose input, output and shared module the stream reads
    taps: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, block: nn.Module, sites: Mapping[str, Site]) -> None:
        """Subclasses create one task's weights for `block`; `sites` are its sites of the kinds in `taps`."""
        super().__init__()

    @staticmethod
    def blocks(config: Any, ends: Sequence[int], depth: int) -> Sequence[int]:
        """The blocks that have task weights, `ends` among them: the last of every stage, by default those alone.

        The offsets of a stage's blocks add up.
        """
        return ends

    @staticmethod
    def unsupported(config: Any, block: Any, anatomy: Any) -> str | None:
        """Why this block cannot have a stream, or None."""
        return None


def not_linear(sites: Sequence[Site]) -> str | None:
    """Why a method of linear layers cannot serve these sites, or None."""
    other = [site.kind for site in sites if not site.matrix]
    return f"site {other[0]!r} is not a linear layer; use q, k, v, qkv, proj, fc1 or fc2" if other else None


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` in float32, or in its own type where that is wider: the precision of merging, and of what must not be rounded."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
