"""One pass of the backbone, and the features heads read from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mtpeft.backbones.stages import to_map
from mtpeft.errors import DataError
from mtpeft.hooks.runtime import Context, Selection
from mtpeft.hooks.streams import apply_offsets
from mtpeft.manager.image_sizes import fold, frames_of, size_of, wrong_size
from mtpeft.manager.protocol import Managed
from mtpeft.manager.queries import QUERY, asking, query_of, selected

#: kinds of features that are maps
MAPS = ("map", "stages", "merged")
#: what a head reads -> the features: pooled (B, C), frames (B, T, C), map (B, C, H, W), stages (one map per stage, finest
#: first), or merged (the same after the patch merging that follows each stage). Maps of clips are (B, T, C, H, W).
#: "size" is the images' (height, width).
Features = dict[str, Any]


def extract(
    manager: Managed,
    images: torch.Tensor,
    selection: Selection,
    kinds: Iterable[str],
    prepared: Mapping[Any, Any] | None = None,
) -> Features:
    """Run the backbone once under `selection`, on images (B, C, H, W) or clips (B, C, T, H, W); the features of `kinds`.

    Images may be given as rows (B, width), what the frozen part of the backbone makes of them (`mtpeft.manager.rows`).
    With `selection.each` their leading axis is B where no method has task streams, else T B: task after task. `prepared`
    is what weight sources made for these tasks already.
    """
    backbone: Any = manager.backbone
    kinds, checkpoints = set(kinds), uses_checkpoints(backbone)
    if images.ndim == 2 and manager.frozen_part is not None and not manager.frozen_part.serves(kinds):
        raise DataError(
            f"rows hold {manager.frozen_part.words}, too little for a head that reads {', '.join(sorted(kinds))}: make rows anew"
        )
    if prepared is None:
        prepared = prepare(manager, selection.tasks, images)
    given, graph = images.shape[0], None if images.ndim == 2 else _graph(manager)
    if graph is not None:
        images, selection = graph.filled(images, selection)
    context = Context(
        selection,
        runs_once=not checkpoints,
        forgets=not checkpoints,
        stages=bool(kinds & {"stages", "merged"}),
        prepared={
            **prepared,
            **_chosen(manager, selection.tasks),
            **selected(manager, selection, prepared.get(QUERY), given, images.shape[0]),
        },
        frames=frames_of(images),
        trial=manager.runtime.trial,
    )
    manager.runtime.context = context
    try:
        raw = _run(manager, context, images)
        assert context.grid is not None
        last = len(manager.anatomy.stages) - 1
        if selection.each and ("offsets", last) in context.store:
            shared, grid = context.store["stage", last]
            raw = manager.anatomy.finish(apply_offsets(shared, context.store["offsets", last], context), grid)
        features: Features = {"size": size_of(manager, images)}
        if kinds & {"pooled", "frames"}:
            features["frames"] = _pooled(manager, raw, context).unflatten(0, (-1, context.frames))
            features["pooled"] = features["frames"].mean(1) if images.ndim == 5 else features["frames"].squeeze(1)
        if kinds & set(MAPS):
            features["map"] = manager.anatomy.feature_map(raw, context.grid)
        if kinds & {"stages", "merged"}:
            features["stages"] = _scales(manager, [*_stages(manager, context), features["map"]], context)
        if "merged" in kinds:
            mergings = [backbone.get_submodule(path) for path in manager.anatomy.mergings]
            coarser = [merge(m.permute(0, 2, 3, 1)) for merge, m in zip(mergings, features["stages"], strict=False)]
            features["merged"] = [*(m.permute(0, 3, 1, 2) for m in coarser), features["map"]]
        if images.ndim == 5:
            features.update(_unfold({k: f for k, f in features.items() if k in MAPS}, context.frames))
        if images.shape[0] > given:  # not `len`, which would fix the batch of an exported graph
            features = _first(features, given, images.shape[0])
        if checkpoints:
            manager.runtime.restore_in_backward(flat(features))
    finally:
        manager.runtime.reset()
    return features


def _run(manager: Managed, context: Context, images: torch.Tensor) -> torch.Tensor:
    """`forward_features` of the images or frames. Raises `DataError` where the backbone cannot take images of that size."""
    backbone: Any = manager.backbone
    if images.ndim == 2:
        assert manager.frozen_part is not None
        return manager.frozen_part.replay(context, images)
    folded = fold(images)
    if manager.runtime.channels_last:
        folded = folded.contiguous(memory_format=torch.channels_last)
    run = _graph(manager) or backbone.forward_features
    try:
        return run(folded)
    except (RuntimeError, AssertionError, ValueError) as error:
        own, given = manager.anatomy.image_size, tuple(images.shape[-2:])
        if given == own:
            raise
        manager.runtime.context = None  # is it the backbone, or what is attached?
        try:
            with torch.no_grad():
                backbone.forward_features(folded[:1])
        except (RuntimeError, AssertionError, ValueError):
            raise wrong_size(backbone, own, given, error) from error
        finally:
            manager.runtime.context = context
        raise


def _graph(manager: Managed) -> Any:
    """The compiled forward pass, where it is asked for and the pass is one of training; else None."""
    return manager.runtime.compiled if manager.training and torch.is_grad_enabled() else None


def _chosen(manager: Managed, tasks: tuple[str, ...]) -> dict[Any, Any]:
    """The banks of the tasks, by attachment, where tasks have banks of their own."""
    found = {attachment: attachment.weights.chosen(tasks) for attachment in manager.methods}
    return {attachment: banks for attachment, banks in found.items() if banks is not None}


def attention_over_time(manager: Managed, clips: torch.Tensor, selection: Selection) -> dict[int, torch.Tensor]:
    """The attention over time of every block that has it: (B, T, T), averaged over tokens and heads.

    In training mode drop path acts as in training.
    """
    prepared = prepare(manager, selection.tasks, clips)
    prepared.update(selected(manager, selection, prepared.get(QUERY), len(clips), len(clips)))
    context = Context(selection, prepared=prepared, frames=frames_of(clips), temporal=True)
    manager.runtime.context = context
    try:
        with torch.no_grad():
            _run(manager, context, clips)
    finally:
        manager.runtime.reset()
    return {key[1]: weights for key, weights in context.store.items() if key[0] == "temporal"}


def apply_head(head: torch.nn.Module, features: Features) -> Any:
    """What a head gives for the features it reads; a head that reads maps gives (B, C, T, H, W) for clips."""
    reads = getattr(head, "reads", "pooled")
    read = features[reads]
    more = (features["size"],) if getattr(head, "sized", False) else ()
    first = read[0] if isinstance(read, list) else read
    if reads not in MAPS or first.ndim == 4:
        return head(read, *more)
    frames = [f.flatten(0, 1) for f in read] if isinstance(read, list) else read.flatten(0, 1)
    return head(frames, *more).unflatten(0, first.shape[:2]).transpose(1, 2)


def prepare(manager: Managed, tasks: Iterable[str], images: torch.Tensor) -> dict[Any, Any]:
    """What the weight sources compute once for a forward of `tasks`, and the queries of the images where one asks for them."""
    made: dict[Any, Any] = {attachment: attachment.weights.prepare(tuple(tasks)) for attachment in manager.methods}
    made[QUERY] = query_of(manager, images) if asking(manager) else None
    return {attachment: value for attachment, value in made.items() if value is not None}


def rows_of(features: Features, rows: Any) -> Features:
    """The features of some of the batch's rows (an index tensor or a slice)."""
    return {
        k: v if k == "size" else [f[rows] for f in v] if isinstance(v, list) else v[rows] for k, v in features.items()
    }


def _first(features: Features, count: int, batch: int) -> Features:
    """The features of the first `count` images of a batch, of every task where the leading axis holds one after another."""

    def cut(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unflatten(0, (-1, batch))[:, :count].flatten(0, 1)

    return {
        k: v if k == "size" else [cut(f) for f in v] if isinstance(v, list) else cut(v) for k, v in features.items()
    }


def flat(features: Features) -> list[torch.Tensor]:
    """All tensors of `features`."""
    values = (value for key, value in features.items() if key != "size")
    return [tensor for value in values for tensor in (value if isinstance(value, list) else [value])]


def uses_checkpoints(backbone: torch.nn.Module) -> bool:
    """Whether blocks run again during backward."""
    return any(getattr(module, "grad_checkpointing", False) for module in backbone.modules())


def _unfold(features: Features, frames: int) -> Features:
    """Maps of folded frames (B T, C, H, W) -> (B, T, C, H, W)."""
    shape = (-1, frames)
    return {
        k: [m.unflatten(0, shape) for m in f] if isinstance(f, list) else f.unflatten(0, shape)
        for k, f in features.items()
    }


def _stages(manager: Managed, context: Context) -> list[torch.Tensor]:
    """Maps at the ends of all stages but the last, with the tasks' own share."""
    maps = []
    for position in range(len(manager.anatomy.stages) - 1):
        output, grid = context.store["stage", position]
        if (offsets := context.store.get(("offsets", position))) is not None:
            output = apply_offsets(output, offsets, context)
        maps.append(to_map(manager.anatomy, output, grid, manager.anatomy.stages[position].block))
    return maps


def _scales(manager: Managed, maps: list[torch.Tensor], context: Context) -> list[torch.Tensor]:
    """What methods make of the maps of all stages."""
    for attachment in manager.methods:
        for site in attachment.selected:
            if site.style == "scales":
                maps = list(attachment(site.key, context, *maps))
    return maps


def _pooled(manager: Managed, raw: torch.Tensor, context: Context) -> torch.Tensor:
    backbone: Any = manager.backbone
    pooled = context.store.get(("pooled",))
    if pooled is None:
        pooled = backbone.forward_head(_with_prompts(manager, raw, context), pre_logits=True)
    for attachment in manager.methods:
        read = [v for k, v in context.store.items() if k[0] is attachment and k[1] == "queries"]
        if attachment.spec.module.joins:
            prompts = [*context.store[attachment, "pool"].values()]
            read += [_last_tokens(manager, prompts, raw, context), _patches(manager, raw)]
        pooled = attachment.spec.module.combine(attachment.config, pooled, read)
    return pooled


def _with_prompts(manager: Managed, raw: torch.Tensor, context: Context) -> torch.Tensor:
    """The tokens that features are pooled over: those of `forward_features`, and prompts that left the last block.

    Prompts stand behind the prefix tokens, so that each way of pooling takes them for patches; a map (B, H, W, C) becomes
    one row. The output of a side network stands alone. Prompts that features are a mean of alone stand for all tokens.
    """
    methods, anatomy = manager.methods, manager.anatomy
    alone = [a for a in methods if getattr(a.config, "pool_prompts", None) == "alone"]
    prompts = [tokens for a in alone or methods for tokens in context.store.get((a, "pool"), {}).values()]
    if alone:
        mean = _last_tokens(manager, prompts, raw, context).mean(1, keepdim=True)
        return mean.unsqueeze(1) if raw.ndim == 4 else mean.expand(-1, anatomy.prefix_tokens + 1, -1)
    by_class_token = getattr(manager.backbone, "global_pool", None) == "token"
    if not prompts or by_class_token or any(site.style == "side" for a in methods for site in a.selected):
        return raw
    normed = _last_tokens(manager, prompts, raw, context)
    if raw.ndim == 4:
        return torch.cat([normed, raw.flatten(1, 2)], dim=1).unsqueeze(1)
    start = anatomy.prefix_tokens
    return torch.cat([raw[:, :start], normed, raw[:, start:]], dim=1)


def _last_tokens(manager: Managed, tokens: list[torch.Tensor], raw: torch.Tensor, context: Context) -> torch.Tensor:
    """Tokens that left the last block beside `raw`, behind the norm that makes features of its output."""
    assert context.grid is not None
    context.aside = True
    try:
        normed = manager.anatomy.finish(torch.cat(tokens, dim=1), context.grid)
    finally:
        context.aside = False
    return normed.repeat(raw.shape[0] // normed.shape[0], 1, 1)


def _patches(manager: Managed, raw: torch.Tensor) -> torch.Tensor:
    """The patch tokens (B, N, C) of `forward_features`' output."""
    return raw.flatten(1, 2) if raw.ndim == 4 else raw[:, manager.anatomy.prefix_tokens :]
