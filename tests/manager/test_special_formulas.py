"""What the special families serve equals the model's own computation, written with its own modules, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mtpeft
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.attention import InstrumentedAttention
from mtpeft.hooks.runtime import Selection
from mtpeft.manager.features import extract
from mtpeft.testing.case import images, perturb
from mtpeft.testing.families import SPECIAL

X = images(2, torch.float64)
SERVED = ("relpos", "relpos_shared", "relpos_table", "relpos_post", "swinv2_cr", "hybrid", "parallel")


def pair(family: str, method: str, **options: Any) -> tuple[Any, Any, dict[tuple[str, int | None], list[Any]]]:
    """A plain model, and an equal one under a method with all weights moved; its site modules by kind and block."""
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        model = SPECIAL[family]().double()
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        models.append(model)
    manager = mtpeft.attach(models[1], method, **options)
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.2)
    manager.eval()
    bank: Any = manager.attachments[0].weights.bank("birds")  # type: ignore[union-attr, operator]
    sites: dict[tuple[str, int | None], list[Any]] = {}
    for site in manager.methods[0].selected:
        sites.setdefault((site.kind, site.block), []).append(bank.sites[site.key])
    return models[0], models[1], sites


def equal(found: torch.Tensor, expected: torch.Tensor, plain: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)
    assert not torch.allclose(expected, plain)


@pytest.mark.parametrize("family", SERVED)
@torch.no_grad()
def test_instrumented_attention_equals_the_native_one(family: str) -> None:
    plain, _, _ = pair(family, "ssf")
    expected = plain.forward_features(X)
    anatomy = Anatomy(plain)
    for attn in anatomy.families:
        attn.forward = InstrumentedAttention(attn, anatomy.prefix_tokens)  # type: ignore[assignment]
    torch.testing.assert_close(plain.forward_features(X), expected, atol=1e-10, rtol=1e-8)


def prompted(plain: Any, sites: dict[tuple[str, int | None], list[Any]], prefix: int) -> torch.Tensor:
    """VPT-Deep by the blocks' own forward: prompts behind the prefix tokens; positions they lack are zero logits."""
    for i, block in enumerate(plain.blocks):
        prompts = sites["tokens", i][0].prompts
        count = len(prompts)

        def insert(
            module: nn.Module, args: Any, named: Any, block: Any = block, prompts: Any = prompts, count: int = count
        ) -> Any:
            tokens = torch.cat([args[0][:, :prefix], prompts.expand(2, -1, -1), args[0][:, prefix:]], dim=1)
            own = getattr(getattr(block, "attn", None), "rel_pos", None)
            shared = named.get("shared_rel_pos") if own is None else own.get_bias()
            if shared is None:
                return (tokens,), named
            block.attn.rel_pos = None
            for axis in (-2, -1):
                head, tail = shared.tensor_split([prefix], dim=axis)
                shape = list(shared.shape)
                shape[axis] = count
                shared = torch.cat([head, shared.new_zeros(shape), tail], dim=axis)
            return (tokens,), {**named, "shared_rel_pos": shared}

        def remove(module: nn.Module, args: Any, output: torch.Tensor, count: int = count) -> torch.Tensor:
            return torch.cat([output[:, :prefix], output[:, prefix + count :]], dim=1)

        block.register_forward_pre_hook(insert, with_kwargs=True)
        block.register_forward_hook(remove)
    return plain.forward_features(X)


@pytest.mark.parametrize(
    "family", ["relpos", "relpos_shared", "relpos_table", "relpos_post", "parallel", "fused", "hybrid"]
)
@torch.no_grad()
def test_prompts(family: str) -> None:
    plain, attached, sites = pair(family, "vpt_deep", num_tokens=3)
    before = plain.forward_features(X)
    equal(attached.forward_features(X), prompted(plain, sites, int(plain.num_prefix_tokens)), before)


@torch.no_grad()
def test_prefixes_in_cosine_windows() -> None:
    """Swin-V2-CR: cosine of queries to the learned keys, at the block's temperature, without position or mask."""
    plain, attached, sites = pair("swinv2_cr", "prefix_tuning", num_tokens=3)
    before = plain.forward_features(X)

    def extended(attn: Any, x: torch.Tensor, mask: torch.Tensor | None, keys: Any, values: Any) -> torch.Tensor:
        heads, (rows, area, width) = attn.num_heads, x.shape
        split = lambda t: t.expand(rows, -1, -1).unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = (split(part) for part in attn.qkv(x).chunk(3, dim=-1))
        bias = attn._relative_positional_encodings()
        if mask is not None:
            bias = (bias + mask.unsqueeze(1)).repeat(rows // len(mask), 1, 1, 1)
        temperature = attn.logit_scale.view(1, heads, 1, 1).exp()
        cosine = lambda key: F.normalize(q, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1) * temperature  # noqa: E731
        logits = torch.cat([cosine(split(keys)), cosine(k) + bias], dim=-1)
        out = logits.softmax(dim=-1) @ torch.cat([split(values), v], dim=2)
        return attn.proj(out.transpose(1, 2).reshape(rows, area, width))

    for i, path in enumerate(Anatomy(plain).blocks):
        attn: Any = plain.get_submodule(path).attn
        module = sites["prefix", i][0]
        attn.forward = lambda x, mask=None, attn=attn, m=module: extended(attn, x, mask, m.keys, m.values)
    equal(attached.forward_features(X), plain.forward_features(X), before)


@pytest.mark.parametrize("family", ["parallel", "fused", "differential", "sam", "hieradet", "nest", "hybrid"])
@torch.no_grad()
def test_low_rank_updates_are_edits_of_the_rows(family: str) -> None:
    plain, attached, _ = pair(family, "lora", sites=("q", "k", "v", "fc1"), rank=2)
    before = plain.forward_features(X)
    manager_sites = [s for s in Anatomy(plain).sites if s.kind in ("q", "k", "v", "fc1")]
    hooks = {s.key: s for s in manager_sites}
    modules = dict(_bank(attached).items())
    assert hooks.keys() == modules.keys()
    for key, site in hooks.items():
        rows = slice(None) if site.rows is None else slice(*site.rows)
        site.module.weight[rows] += modules[key].lora_B @ modules[key].lora_A  # type: ignore[index, operator]
    equal(attached.forward_features(X), plain.forward_features(X), before)


def _bank(backbone: nn.Module) -> Any:
    """The site modules behind the hooks of a backbone."""
    for module in backbone.modules():
        for hook in module._forward_hooks.values():
            attachment = getattr(hook, "attachment", None)
            if attachment is not None:
                return attachment.weights.bank("birds").sites
    raise AssertionError("no hook found")


@pytest.mark.parametrize("family", ["hieradet", "sam", "parallel", "relpos_post"])
@torch.no_grad()
def test_adapters_beside_the_mlp(family: str) -> None:
    """y + s W_up relu(W_down x) with x what enters the branch: its norm's input where the block norms first."""
    plain, attached, sites = pair(family, "adaptformer", bottleneck_dim=4)
    before = plain.forward_features(X)
    for i, path in enumerate(Anatomy(plain).blocks):
        block: Any = plain.get_submodule(path)
        branches = (
            [(f.norm, f.drop_path) for f in block.ffns] if family == "parallel" else [(block.norm2, block.drop_path2)]
        )
        first = [block.mlp] if family == "relpos_post" else [norm for norm, _ in branches]
        for source, (_, end), module in zip(first, branches, sites["parallel_mlp", i], strict=True):
            kept: list[torch.Tensor] = []
            source.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0]))
            end.register_forward_hook(lambda _, args, y, kept=kept, m=module: y + 0.1 * m.adapter(kept.pop()))
    equal(attached.forward_features(X), plain.forward_features(X), before)


@torch.no_grad()
def test_a_stream_through_a_window_of_sam_starts_at_the_shared_features() -> None:
    """With updates of zero a task's way through a block is the block's own: windows come back to their places."""
    torch.manual_seed(0)
    backbone: Any = SPECIAL["sam"]().double()
    plain = backbone.forward_features(X)
    manager = mtpeft.attach(backbone, "mtlora", dropout=0.0)
    manager.add_task("birds", num_classes=3)
    torch.testing.assert_close(backbone.forward_features(X), plain, atol=1e-12, rtol=1e-9)
    offsets: list[torch.Tensor] = []
    weights: Any = manager.methods[0].weights
    inner = weights.offsets
    weights.offsets = lambda *args: offsets.append(inner(*args)) or offsets[-1]
    extract(manager, X, Selection(("birds",)), {"stages"})
    assert len(offsets) == len(manager.methods[0].factory.stream_blocks)
    for offset in offsets:
        assert offset.abs().max() < 1e-12
