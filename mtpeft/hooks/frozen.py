"""The frozen part of a backbone: what runs before anything that is trained, and depends on the image alone.

What the rest reads of it, for one image, is a *row*: the tokens that leave the last frozen block, what side networks and
heads tap before, or no more than the pooled features. A forward that is given rows skips the frozen modules: their
`forward` is replaced, on the instance and for the length of the call, by what the row holds of their output, or by zeros of
its shape where nothing reads it. All else runs as ever, hooks included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.attention import InstrumentedAttention
from mtpeft.backbones.probe import stem_map
from mtpeft.backbones.site import Site
from mtpeft.errors import ConfigError, DataError
from mtpeft.hooks.attachment import Attachment
from mtpeft.hooks.rows import Layout, Like, Part
from mtpeft.hooks.runtime import Context, Runtime

#: what heads read that the pooled features are enough for
POOLED = {"pooled", "frames"}
#: styles of sites that read the stream of tokens and leave it as it is
READERS = ("queries", "side")


class FrozenPart:
    """The frozen part of one backbone under the methods attached to it, for heads that read features of some kinds.

    `blocks` of the backbone's blocks belong to it; `parts` is what a row holds. Raises `ConfigError` where nothing precedes
    what is trained.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        attachments: Sequence[Attachment],
        instruments: Mapping[nn.Module, InstrumentedAttention],
        runtime: Runtime,
        reads: Iterable[str],
        image_size: tuple[int, int],
    ) -> None:
        """`reads`: kinds of features (see `mtpeft.manager.features`); `image_size`: height and width of all images."""
        self.anatomy, self.backbone, self.runtime, self.image_size = anatomy, anatomy.backbone, runtime, image_size
        self.modules = [anatomy.backbone.get_submodule(path) for path in anatomy.blocks]
        self.orders = [anatomy.calls[block].order for block in self.modules]
        sites = [site for attachment in attachments for site in attachment.selected]
        ends = {f"{site.key!r} is trained": self._before(site) for site in sites}
        ends |= {f"{name!r} is trained": self._before_parameter(name) for name in _trained(self.backbone)}
        ends |= {f"block {i} has weights of each task": i for a in attachments for i in a.factory.stream_blocks}
        self.blocks = min([len(self.modules), *ends.values()])
        self.asked = any(attachment.weights.reads_query for attachment in attachments)
        if self.blocks == 0 and not self.asked:
            where = min(ends, key=lambda name: ends[name])
            raise ConfigError(
                f"nothing of the backbone precedes what is trained: {where}, in or before the first block"
            )
        self.queries = {
            site.block: instruments[site.attention]
            for site in sites
            if site.style == "queries" and site.block is not None and site.attention is not None
        }
        self.queries = {block: found for block, found in self.queries.items() if block < self.blocks}
        kinds = set(reads)
        behind = [s for s in sites if s.block is None and s.style != "queries"]
        own = _trained(self.backbone)
        self.pooled = self.blocks == len(self.modules) and not behind and not own and kinds <= POOLED and not self.asked
        self.parts = self._parts(any(site.style == "side" for site in sites), bool(kinds & {"stages", "merged"}))
        self.skipped = self._skipped()
        self._layouts: dict[torch.dtype | None, Layout] = {}

    # structure ----------------------------------------------------------------------------------------------------

    def _before(self, site: Site) -> int:
        """How many blocks are over before a site changes anything."""
        if site.style in READERS:
            return len(self.modules)
        if site.block is not None:
            return site.block
        return self._before_module(site.module)

    def _before_parameter(self, name: str) -> int:
        path = name.rpartition(".")[0]
        return self._before_module(self.backbone.get_submodule(path))

    def _before_module(self, module: nn.Module) -> int:
        for index, block in enumerate(self.modules):
            if any(inner is module for inner in block.modules()):
                return index
        call = self.anatomy.calls.get(module)
        return 0 if call is None else sum(order < call.order for order in self.orders)

    def _parts(self, side: bool, stages: bool) -> tuple[Part, ...]:
        query: list[Part] = [("query", 0)] if self.asked else []
        if self.blocks == 0:
            return ("image", 0), *query
        taps = set(range(self.blocks)) if side else {block - 1 for block in self.queries if block}
        if stages:
            taps |= {stage.block for stage in self.anatomy.stages if stage.block < self.blocks}
        if not self.pooled:
            taps.add(self.blocks - 1)
        entry: list[Part] = [("entry", 0)] if side or 0 in self.queries else []
        pairs: list[Part] = [(kind, block) for block in sorted(self.queries) for kind in ("keys", "values")]
        blocks: list[Part] = [("block", tap) for tap in sorted(taps)]
        pooled: list[Part] = [("pooled", 0)] if self.pooled else []
        return *entry, *blocks, *pairs, *pooled, *query

    def _skipped(self) -> list[nn.Module]:
        """The blocks that are over when the last frozen one is, and the largest other modules before it without any block."""
        if self.blocks == 0:
            return []
        blocks, last, found = set(self.modules), self.orders[self.blocks - 1], list[nn.Module]()
        inside: set[nn.Module] = set()
        for module in self.backbone.modules():
            call = self.anatomy.calls.get(module)
            if module in inside or call is None or call.order > last:
                continue
            if module in blocks or not any(inner in blocks for inner in module.modules()):
                found.append(module)
                inside |= set(module.modules())
        return found

    def serves(self, kinds: Iterable[str]) -> bool:
        """Whether rows are enough for heads that read features of these kinds."""
        early = {stage.block for stage in self.anatomy.stages[:-1] if stage.block < self.blocks}
        stages = all(("block", block) in self.parts for block in early)
        return set(kinds) <= POOLED | (set() if self.pooled else {"map"} | ({"stages", "merged"} if stages else set()))

    @property
    def words(self) -> str:
        """What a row holds, in words."""
        names = {"entry": "what enters the first block", "pooled": "pooled features", "image": "the image"}
        taps = [index for kind, index in self.parts if kind == "block"]
        pairs = [index for kind, index in self.parts if kind == "keys"]
        found = [names[kind] for kind, _ in self.parts if kind in names]
        found += [f"what leaves block{'s' * (len(taps) > 1)} {_listed(taps)}"] if taps else []
        found += [f"keys and values of block{'s' * (len(pairs) > 1)} {_listed(pairs)}"] if pairs else []
        found += ["the query that weights are chosen by"] if self.asked else []
        return ", ".join(found)

    # rows ---------------------------------------------------------------------------------------------------------

    @property
    def precision(self) -> str:
        """The precision that forwards run in at the moment: autocast's type, or the weights' own."""
        return str(_autocast(self._device) or next(self.backbone.parameters()).dtype)

    @property
    def layout(self) -> Layout:
        """What a row holds in that precision; found by a forward of zeros."""
        key = _autocast(self._device)
        if key not in self._layouts:
            reference = next(self.backbone.parameters())
            channels = self.anatomy.input_size[0]
            like: dict[nn.Module, Like] = {}
            with self._watched(self.skipped, lambda module, output: like.update({module: Like.of(output)})):
                parts, grid = self._run(reference.new_zeros(2, channels, *self.image_size, dtype=torch.float32))
            self._layouts[key] = Layout({part: Like.of(parts[part]) for part in self.parts}, like, grid)
        return self._layouts[key]

    def rows(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> rows (B, width), by the frozen part alone. Raises `DataError` for another size.

        Never of one image alone: kernels may round one image otherwise than the same image among others.
        """
        if images.ndim != 4 or tuple(images.shape[-2:]) != self.image_size:
            raise DataError(
                f"images have shape {tuple(images.shape)}; rows are made for {self.image_size[0]} x {self.image_size[1]}"
            )
        layout, number = self.layout, len(images)
        images = images.to(self._device)
        if number == 1:
            images = images.repeat(2, 1, 1, 1)
        return layout.pack(self._run(images)[0])[:number]

    def query(self, rows: Tensor) -> Tensor:
        """The queries (B, d) that rows hold (see `mtpeft.manager.queries`)."""
        self._check_width(rows)
        return self.layout.unpack(rows)["query", 0]

    def replay(self, context: Context | None, rows: Tensor) -> Tensor:
        """What `forward_features` gives for the images behind `rows` (B, width); the pooled features go to the store."""
        self._check_width(rows)
        layout = self.layout
        parts = layout.unpack(rows)
        if context is not None:
            context.grid = layout.grid
            if self.pooled:
                context.store["pooled",] = parts["pooled", 0]
        if self.pooled and (context is None or not self.queries):
            return parts["pooled", 0]
        image = parts.get(("image", 0))
        if image is None:
            image = rows.new_zeros(()).expand(len(rows), self.anatomy.input_size[0], *self.image_size)
        elif self.runtime.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        with self._replaced(layout, parts, len(rows)):
            features: Tensor = self.backbone.forward_features(image)
        return features

    def _check_width(self, rows: Tensor) -> None:
        if rows.shape[1] != self.layout.width:
            raise DataError(f"rows have {rows.shape[1]} numbers, expected {self.layout.width}: {self.words}")

    # inside -------------------------------------------------------------------------------------------------------

    @property
    def _device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    @torch.no_grad()
    def _run(self, images: Tensor) -> tuple[dict[Part, Tensor], tuple[int, int]]:
        """All parts, by the backbone's own forward without any method, and the map that leaves the stem."""
        found: dict[Part, Tensor] = {("image", 0): images}
        grid = (0, 0)
        if self.runtime.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        numbers = {block: index for index, block in enumerate(self.modules)}

        def leave(module: nn.Module, output: Tensor) -> None:
            nonlocal grid
            if module in numbers:
                found["block", numbers[module]] = output
            else:
                grid = stem_map(module, output.shape)[1:]

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            found["entry", 0] = args[0]

        handle = self.modules[0].register_forward_pre_hook(enter)
        recorders = {index: _pair(found, index) for index in self.queries}
        for index, recorder in recorders.items():
            self.queries[index].recorders.append(recorder)
        context, self.runtime.context = self.runtime.context, None
        try:
            with self._watched([*self.modules, self.anatomy.projection], leave):
                features = self.backbone.forward_features(images)
            if self.pooled or self.asked:
                pooled = self.backbone.forward_head(features, pre_logits=True)
                found["pooled", 0] = found["query", 0] = pooled
        finally:
            self.runtime.context = context
            handle.remove()
            for index, recorder in recorders.items():
                self.queries[index].recorders.remove(recorder)
        return {part: found[part] for part in self.parts}, grid

    @contextlib.contextmanager
    def _watched(self, modules: Iterable[nn.Module], tell: Any) -> Iterator[None]:
        handles = [m.register_forward_hook(lambda module, _, output: tell(module, output)) for m in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextlib.contextmanager
    def _replaced(self, layout: Layout, parts: Mapping[Part, Tensor], batch: int) -> Iterator[None]:
        """The frozen modules give what the rows hold, for the length of a `with`."""
        own = {module: vars(module).get("forward") for module in self.skipped}
        numbers = {block: index for index, block in enumerate(self.modules)}
        entered = []
        if ("entry", 0) in parts:
            first = parts["entry", 0]
            hook = self.modules[0].register_forward_pre_hook(lambda _, args: (first, *args[1:]), prepend=True)
            entered.append(hook)
        try:
            for module in self.skipped:
                index = numbers.get(module, -1)
                output = parts.get(("block", index))
                if output is None:
                    like = layout.skipped[module]
                    output = torch.zeros((), dtype=like.dtype, device=self._device).expand(batch, *like.shape)
                pair = (parts["keys", index], parts["values", index]) if index in self.queries else None
                module.forward = _Over(output, module.forward, self.queries.get(index), pair)
            yield
        finally:
            for hook in entered:
                hook.remove()
            for module, forward in own.items():
                vars(module).pop("forward", None)
                if forward is not None:
                    module.forward = forward


class _Over:
    """The forward of a module that has run already; tokens that only ask (`QueryHook`) still pass through its own."""

    def __init__(
        self,
        output: Tensor,
        native: Any,
        instrument: InstrumentedAttention | None,
        pair: tuple[Tensor, Tensor] | None,
    ) -> None:
        """`pair`: keys and values that `instrument` tells of."""
        self.output, self.native, self.instrument, self.pair = output, native, instrument, pair

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Stands in for `forward`."""
        if self.instrument is not None and self.pair is not None:
            if self.instrument.reading is not None:
                return self.native(x, *args, **kwargs)
            for record in self.instrument.recorders:
                record(x, *self.pair)
        return self.output


def _pair(found: dict[Part, Tensor], index: int) -> Any:
    def record(x: Tensor, k: Tensor, v: Tensor) -> None:
        found["keys", index], found["values", index] = k, v

    return record


def _trained(backbone: nn.Module) -> list[str]:
    """The backbone's own parameters that are trained."""
    return [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]


def _autocast(device: torch.device) -> torch.dtype | None:
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def _listed(numbers: Sequence[int]) -> str:
    """3, or 0 to 11 for a run of numbers."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
