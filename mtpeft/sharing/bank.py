"""A bank: one complete set of a method's weights, and how banks serve a batch of one or of several tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig
from mtpeft.methods.product import add_product
from mtpeft.methods.spec import MethodSpec
from mtpeft.sharing.folding import Folding

#: A site with more weights per activation than this, times the number of tasks, runs one slice of the batch per task;
#: below it, copying every sample's weights and one batched call is faster (measured by benchmarks/mixed_paths.py).
SLICE_ABOVE = 1.0

Tensors = torch.Tensor | tuple[torch.Tensor, ...]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class BankFactory:
    """Builds freshly initialised weights of one attached method: `factory()` a whole bank."""

    spec: MethodSpec
    config: MethodConfig
    sites: Sequence[Site]
    #: the backbone's blocks that have task weights (methods with a task stream)
    stream_blocks: dict[int, nn.Module] = field(default_factory=dict)
    #: the method's frozen tensors, which are the attachment's and the same for all banks
    constants: nn.Module | None = None
    #: width of the backbone's pooled features, of which queries are made (see `mtpeft.sharing.query`)
    query_dim: int = 0

    def __call__(self) -> Bank:
        """One bank."""
        return Bank(self)

    def streams(self) -> nn.ModuleDict:
        """One task's streams, by block."""
        kind = self.spec.stream
        assert kind is not None
        return nn.ModuleDict(
            {
                str(block): kind(self.config, module, {s.kind: s for s in self.tapped if s.block == block})
                for block, module in self.stream_blocks.items()
            }
        )

    @property
    def of_tasks(self) -> list[Site]:
        """The sites at which each task has a module of its own beside the shared ones."""
        return [] if self.spec.stream is None else list(self.spec.module.of_tasks(self.config, self.sites))

    def own(self) -> nn.ModuleDict:
        """One task's modules at those sites, by key."""
        given = {} if self.constants is None else {"constants": self.constants}
        return nn.ModuleDict({site.key: self.spec.module(self.config, site, **given) for site in self.of_tasks})

    @property
    def tapped(self) -> list[Site]:
        """The sites a task stream reads."""
        kinds = () if self.spec.stream is None else self.spec.stream.taps
        return [s for s in self.sites if s.block in self.stream_blocks and s.kind in kinds]


class Bank(nn.Module):
    """One set of weights of one method: a module per site, and the method's weights at model level if it has any."""

    def __init__(self, factory: BankFactory) -> None:
        """Build every site module, freshly initialised."""
        super().__init__()
        own = factory.of_tasks
        spec, config, sites = factory.spec, factory.config, [site for site in factory.sites if site not in own]
        self._constants = (factory.constants,)  # in a tuple: they are the attachment's, not this bank's
        given = {} if factory.constants is None else {"constants": factory.constants}
        self.sites = nn.ModuleDict({site.key: spec.module(config, site, **given) for site in sites})
        self.model = spec.module.model_module(config, factory.sites) if spec.module.model_module is not None else None
        tapped = {site.key for site in factory.tapped}
        self._free = {site.key for site in sites if site.fresh} - tapped  # outputs nobody else holds
        self.places = {site.key: self._find(site.key) for site in sites}  # found once: walking modules is slow
        #: whether what the method chooses by data is chosen; saved as a buffer, read here, where no device is waited for
        self.fitted = not spec.module.needs_fit(config)
        if not self.fitted:
            self.register_buffer("fit_done", torch.tensor(False))
        norms = {key: [m for m in module.modules() if isinstance(m, _BatchNorm)] for key, module in self.sites.items()}
        self._norms = {key: found for key, found in norms.items() if found}

    @property
    def common(self) -> dict[str, nn.Module]:
        """What all sites are handed besides their inputs: the weights at model level and the frozen tensors, if any."""
        named = {"model": self.model, "constants": self._constants[0]}
        return {name: module for name, module in named.items() if module is not None}

    def forward(self, key: str, *inputs: torch.Tensor) -> Tensors:
        """Call the module of site `key`."""
        module, common = self.sites[key], self.common
        trained = module.trains_by_forward and len(inputs) > 1 and torch.is_grad_enabled()
        if trained or not module.factored:
            return module(*inputs, **common)
        left, right = module.factors(inputs[0], **common)  # type: ignore[operator]
        return (left, right) if len(inputs) == 1 else self.add(key, inputs[1], left, right)

    def set_fitted(self) -> None:
        """What is chosen by data is chosen from now on."""
        self.fitted = True
        self.get_buffer("fit_done").fill_(True)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if "fit_done" in self._buffers:
            self.fitted = bool(self.get_buffer("fit_done"))

    def method_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All weights by the names the method knows them by (see `SiteModule.group`)."""
        for module in self.sites.values():
            yield from module.named_parameters()
        if self.model is not None:
            yield from self.model.named_parameters(prefix="model")

    def to_buffers(self) -> None:
        """Keep all weights as buffers from now on: saved, never trained, counted as such."""
        made: dict[nn.Parameter, torch.Tensor] = {}
        for module in self.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    del module._parameters[name]
                    module.register_buffer(name, made.setdefault(parameter, parameter.detach().clone()))
        self.places = {key: self._find(key) for key in self.sites}

    def mixes(self, key: str) -> bool:
        """Whether site `key` takes statistics of all samples it is given: those of one task alone are to be among them."""
        return any(norm.training for norm in self._norms.get(key, ()))

    def factored(self, key: str) -> bool:
        """Whether site `key` adds a product: called without an output, it then gives the factors."""
        return bool(self.sites[key].factored)

    def add(self, key: str, y: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """y + left @ right; without autograd in place, where y is nobody else's."""
        free = key in self._free and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        return add_product(y, left, right, in_place=free)

    def tensors(self, key: str) -> dict[str, torch.Tensor]:
        """The tensors site `key` depends on, by name: its own and those at model level."""
        return {name: holder[leaf] for name, holder, leaf in self.places[key]}

    def call_with(self, weights: dict[str, torch.Tensor], key: str, *inputs: torch.Tensor) -> Tensors:
        """Call site `key` with `weights` (all of `tensors(key)`) in place of its own: `functional_call`, less its cost."""
        return self._under(weights, key, lambda: self(key, *inputs))

    def merged_with(
        self, weights: dict[str, torch.Tensor], key: str, weight: torch.Tensor | None, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Weight and bias of the layer at site `key` with `weights` (all of `tensors(key)`) folded in."""
        module: Any = self.sites[key]
        return self._under(weights, key, lambda: module.merged(weight, bias, **self.common))

    def _under(self, weights: dict[str, torch.Tensor], key: str, run: Callable[[], T]) -> T:
        places, own = self.places[key], self.tensors(key)
        try:
            for name, holder, leaf in places:
                holder[leaf] = weights[name]
            return run()
        finally:
            for name, holder, leaf in places:
                holder[leaf] = own[name]

    def _find(self, key: str) -> list[tuple[str, dict[str, Any], str]]:
        """Name, the dictionary that holds it, and name in there, for every tensor of site `key`."""
        roots = {f"sites.{key}": self.sites[key]} | ({} if self.model is None else {"model": self.model})
        return [
            (f"{path}.{leaf}", holder, leaf)
            for prefix, root in roots.items()
            for path, module in root.named_modules(prefix=prefix)
            for holder in (module._parameters, module._buffers)
            for leaf, tensor in holder.items()
            if tensor is not None
        ]


def call_mixed(
    template: Bank,
    sources: Sequence[dict[str, torch.Tensor]],
    index: torch.Tensor,
    key: str,
    inputs: Sequence[torch.Tensor],
    cache: dict[Any, Any],
) -> Tensors:
    """Site `key` of `template` for a batch whose sample b runs under the weights `sources[index[b]]`.

    Inputs have a leading axis of B or of a multiple of it (the windows of each image in a row). `cache` lives for one
    forward and keeps the gathered weights at model level, which several sites share.
    """
    batch = index.shape[0]
    split = [x.unflatten(0, (batch, x.shape[0] // batch)) for x in inputs]
    site: Any = template.sites[key]
    weights_per_sample = max(sum(tensor.numel() for tensor in sources[0].values()), site.made)
    # slices depend on the values of index: a compiled graph holds for all of them only where weights are gathered
    large = weights_per_sample * batch > SLICE_ABOVE * len(sources) * sum(x.numel() for x in split)
    if template.mixes(key) or (large and not torch.compiler.is_compiling()):
        rows = cache.get("rows") or task_rows(index, len(sources))
        return _by_slices(template, sources, rows, key, split)
    # with hardly a task twice, one copy straight from the tasks' weights saves copying all of them once more
    direct = batch <= 2 * len(sources) and index.device.type == "cpu" and not torch.compiler.is_compiling()
    if direct:
        sources = [sources[position] for position in index.tolist()]

    def gathered(name: str) -> torch.Tensor:
        if (name, id(template)) in cache:
            return cache[name, id(template)]
        stacked = torch.stack([tensors[name] for tensors in sources])
        weights = stacked if direct else stacked.index_select(0, index)
        if name.startswith("model."):
            cache[name, id(template)] = weights
        return weights

    weights = {name: gathered(name) for name in sources[0]}
    return call_each(template, weights, key, inputs, split)


def call_each(
    template: Bank,
    weights: dict[str, torch.Tensor],
    key: str,
    inputs: Sequence[torch.Tensor],
    split: Sequence[torch.Tensor],
) -> Tensors:
    """Site `key` of `template` with weights of each sample's own: `weights` have a leading axis (B, ...).

    `split` are the `inputs` with an axis of B of its own in front.
    """

    def one(weights: dict[str, torch.Tensor], *xs: torch.Tensor) -> Tensors:
        if torch.compiler.is_compiling():
            return functional_call(template, weights, (key, *xs), tie_weights=False)
        with Folding():
            return template.call_with(weights, key, *xs)

    call = vmap(one, randomness="different")
    if template.factored(key):
        left, right = call(weights, split[0])
        return template.add(key, inputs[1], left.flatten(0, 1), right)
    return tree_map(lambda t: t.flatten(0, 1), call(weights, *split))


def task_rows(index: torch.Tensor, tasks: int) -> list[torch.Tensor]:
    """The rows of each task in a batch whose sample b is of task `index[b]`."""
    return [(index == position).nonzero().squeeze(1) for position in range(tasks)]


def _by_slices(
    template: Bank,
    sources: Sequence[dict[str, torch.Tensor]],
    rows: Sequence[torch.Tensor],
    key: str,
    split: Sequence[torch.Tensor],
) -> Tensors:
    """One call per task on its rows, in the batch's own order afterwards."""
    used = [(weights, r) for weights, r in zip(sources, rows, strict=True) if r.numel()]
    outs: list[Any] = [template.call_with(weights, key, *(x[r].flatten(0, 1) for x in split)) for weights, r in used]
    restore = torch.cat([r for _, r in used]).argsort()

    def join(*parts: torch.Tensor) -> torch.Tensor:
        return torch.cat([p.unflatten(0, (r.numel(), -1)) for p, (_, r) in zip(parts, used, strict=True)])[restore]

    if isinstance(outs[0], tuple):
        return tuple(join(*parts).flatten(0, 1) for parts in zip(*outs, strict=True))
    return join(*outs).flatten(0, 1)
