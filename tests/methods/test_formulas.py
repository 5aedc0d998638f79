"""Every method against its paper's formula, written out in plain tensor algebra in double precision."""

from __future__ import annotations

import math
from typing import Any

import naive
import pytest
import torch
from naive import NaiveViT, assert_close, attached, gelu, linear, tokens

from mtpeft.testing.case import images

D = 48
X = images(2, torch.float64)

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
def test_the_naive_vit_is_timm_s(anatomy: str) -> None:
    model, _, _ = attached(anatomy, "linear_probe")
    naive.shifted(model, X)


def test_head_reads_the_class_token() -> None:
    model, manager, _ = attached("vit", "linear_probe")
    assert_close(manager(X, "birds"), linear(manager.head("birds").fc, NaiveViT(model)(X)[:, 0]))


def test_lora_on_every_linear_layer() -> None:
    model, manager, sites = attached("vit", "lora", sites=("q", "k", "v", "proj", "fc1", "fc2"), rank=4, alpha=6.0)

    def delta(kind: str, x: torch.Tensor, i: int) -> torch.Tensor:
        site = sites[kind, i]
        return 6.0 / 4 * (x @ site.lora_A.T) @ site.lora_B.T

    plain = NaiveViT(
        model,
        qkv=lambda y, u, i: y + torch.cat([delta(kind, u, i) for kind in "qkv"], dim=-1),
        proj=lambda y, x, i: y + delta("proj", x, i),
        fc1=lambda y, x, i: y + delta("fc1", x, i),
        fc2=lambda y, x, i: y + delta("fc2", x, i),
    )
    assert_close(tokens(manager, X), plain(X))


def test_lora_by_default_acts_on_q_and_v_with_scale_one() -> None:
    model, manager, sites = attached("dinov2", "lora", rank=2, learnable_scale=True)
    assert {kind for kind, _ in sites} == {"q", "v"}

    def qkv(y: torch.Tensor, u: torch.Tensor, i: int) -> torch.Tensor:
        q, v = sites["q", i], sites["v", i]
        return torch.cat(
            [
                y[..., :D] + q.scale * u @ q.lora_A.T @ q.lora_B.T,
                y[..., D : 2 * D],
                y[..., 2 * D :] + v.scale * u @ v.lora_A.T @ v.lora_B.T,
            ],
            dim=-1,
        )

    assert_close(tokens(manager, X), NaiveViT(model, qkv=qkv)(X))


def test_ssf_after_every_operation() -> None:
    model, manager, sites = attached("vit", "ssf")
    kinds = ["norm1", "qkv", "proj", "norm2", "fc1", "fc2"]
    assert sites.keys() == {*((k, i) for k in kinds for i in range(2)), ("patch_embed", None), ("final_norm", None)}

    def affine(kind: str) -> Any:
        def change(y: torch.Tensor, *context: Any) -> torch.Tensor:
            site = sites[kind, context[-1] if kind in kinds else None]
            return y * site.scale + site.shift

        return change

    assert_close(
        tokens(manager, X), NaiveViT(model, **{k: affine(k) for k in [*kinds, "patch_embed", "final_norm"]})(X)
    )


@pytest.mark.parametrize("merging_norms", [False, True])
def test_ssf_on_swin_leaves_patch_merging_alone(merging_norms: bool) -> None:
    model, manager, _ = attached("swin", "ssf", merging_norms=merging_norms)
    bank: Any = manager.attachments[0].weights.bank("birds")
    names = {name for name, part in model.named_modules() if isinstance(part, (torch.nn.Linear, torch.nn.LayerNorm))}
    names |= {"patch_embed.proj"}
    names = {name for name in names if "downsample" not in name or (merging_norms and name.endswith("norm"))}
    assert {site.path for site in manager.attachments[0].selected} == names
    assert any("downsample" in name for name in names) is merging_norms
    for site in manager.attachments[0].selected:
        own, shape = bank.sites[site.key], (-1, 1, 1) if site.path == "patch_embed.proj" else (-1,)
        model.get_submodule(site.path).register_forward_hook(
            lambda part, args, y, own=own, shape=shape: y * own.scale.view(shape) + own.shift.view(shape)
        )
    assert_close(tokens(manager, X), model.forward_features(X))


def bottleneck(adapter: Any, x: torch.Tensor, activation: Any) -> torch.Tensor:
    return activation(x @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias


@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
def test_adaptformer_reads_the_stream_before_the_norm(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "adaptformer", bottleneck_dim=8, scale=0.3)

    def mlp_branch(y: torch.Tensor, x: torch.Tensor, u: torch.Tensor, i: int) -> torch.Tensor:
        return y + 0.3 * bottleneck(sites["parallel_mlp", i].adapter, x, lambda t: t.clamp(min=0))

    assert_close(tokens(manager, X), NaiveViT(model, mlp_branch=mlp_branch)(X))


def test_adaptformer_norms() -> None:
    for where in ("in", "out"):
        model, manager, sites = attached("vit", "adaptformer", adapter_ln=where)

        def mlp_branch(
            y: torch.Tensor, x: torch.Tensor, u: torch.Tensor, i: int, where: str = where, sites: Any = sites
        ) -> Any:
            site = sites["parallel_mlp", i]
            x = naive.norm(site.norm, x) if where == "in" else x
            delta = 0.1 * bottleneck(site.adapter, x, lambda t: t.clamp(min=0))
            return y + (naive.norm(site.norm, delta) if where == "out" else delta)

        assert_close(tokens(manager, X), NaiveViT(model, mlp_branch=mlp_branch)(X))


@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
def test_houlsby_before_both_residual_additions_and_after_layer_scale(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "houlsby", bottleneck_dim=5)

    def after(kind: str) -> Any:
        return lambda y, x, u, i: y + bottleneck(sites[kind, i].adapter, y, gelu)

    plain = NaiveViT(model, attention_branch=after("after_attention"), mlp_branch=after("after_mlp"))
    assert_close(tokens(manager, X), plain(X))


@pytest.mark.parametrize("where", ["in", "out"])
def test_houlsby_norms(where: str) -> None:
    model, manager, sites = attached("vit", "houlsby", bottleneck_dim=5, adapter_ln=where)

    def after(kind: str) -> Any:
        def change(y: torch.Tensor, x: torch.Tensor, u: torch.Tensor, i: int) -> torch.Tensor:
            site = sites[kind, i]
            if where == "in":
                return y + bottleneck(site.adapter, naive.norm(site.norm, y), gelu)
            return y + naive.norm(site.norm, bottleneck(site.adapter, y, gelu))

        return change

    plain = NaiveViT(model, attention_branch=after("after_attention"), mlp_branch=after("after_mlp"))
    assert_close(tokens(manager, X), plain(X))


def test_lae_s_adapter_is_beside_attention_with_gelu_and_a_trained_scale() -> None:
    options = {"sites": ["parallel_attn_ln"], "bottleneck_dim": 5, "activation": "gelu", "scale": 1.0}
    model, manager, sites = attached("vit", "adaptformer", learnable_scale=True, dropout=0.0, blocks=[0], **options)
    assert list(sites) == [("parallel_attn_ln", 0)]
    site = sites["parallel_attn_ln", 0]
    assert isinstance(site.scale, torch.nn.Parameter) and site.scale != 1.0  # moved, as all weights here

    def beside(y: torch.Tensor, x: torch.Tensor, u: torch.Tensor, i: int) -> torch.Tensor:
        return y + site.scale * bottleneck(site.adapter, u, gelu) if i == 0 else y

    assert_close(tokens(manager, X), NaiveViT(model, attention_branch=beside)(X))


@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
def test_convpass_with_prefix_tokens_as_single_pixels(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "convpass", bottleneck_dim=6, scale=0.7)
    prefix = 1 if anatomy == "vit" else 5

    def quick(x: torch.Tensor) -> torch.Tensor:
        return x / (1 + (-1.702 * x).exp())

    def conv(layer: Any, image: torch.Tensor) -> torch.Tensor:  # (B, H, W, h): nine shifted copies of a zero-framed map
        b, height, width, h = image.shape
        framed = image.new_zeros(b, height + 2, width + 2, h)
        framed[:, 1:-1, 1:-1] = image
        out = layer.bias.expand(b, height, width, h).clone()
        for dy in range(3):
            for dx in range(3):
                out += framed[:, dy : dy + height, dx : dx + width] @ layer.weight[:, :, dy, dx].T
        return out

    def bypass(kind: str) -> Any:
        def change(y: torch.Tensor, x: torch.Tensor, u: torch.Tensor, i: int) -> torch.Tensor:
            site = sites[kind, i]
            z = quick(linear(site.down, u))
            singles = [conv(site.conv, z[:, t : t + 1, None]).flatten(1, 2) for t in range(prefix)]
            patches = conv(site.conv, z[:, prefix:].unflatten(1, (4, 4))).flatten(1, 2)
            return y + 0.7 * linear(site.up, quick(torch.cat([*singles, patches], dim=1)))

        return change

    plain = NaiveViT(model, attention_branch=bypass("parallel_attn_ln"), mlp_branch=bypass("parallel_mlp_ln"))
    assert_close(tokens(manager, X), plain(X))


@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
def test_vpt_deep_puts_fresh_prompts_behind_the_prefix_tokens(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "vpt_deep", num_tokens=3)
    prefix = 1 if anatomy == "vit" else 5

    def insert(x: torch.Tensor, i: int) -> torch.Tensor:
        prompts = sites["tokens", i].prompts.expand(len(x), -1, -1)
        return torch.cat([x[:, :prefix], prompts, x[:, prefix:]], dim=1)

    def remove(x: torch.Tensor, i: int) -> torch.Tensor:
        return torch.cat([x[:, :prefix], x[:, prefix + 3 :]], dim=1)

    assert_close(tokens(manager, X), NaiveViT(model, tokens=insert, output=remove)(X))


def test_vpt_shallow_prompts_pass_through_all_blocks() -> None:
    model, manager, sites = attached("vit", "vpt_shallow", num_tokens=3)
    assert list(sites) == [("tokens", 0)]

    def insert(x: torch.Tensor, i: int) -> torch.Tensor:
        prompts = sites["tokens", 0].prompts.expand(len(x), -1, -1)
        return torch.cat([x[:, :1], prompts, x[:, 1:]], dim=1) if i == 0 else x

    expected = NaiveViT(model, tokens=insert)(X)
    assert_close(tokens(manager, X), torch.cat([expected[:, :1], expected[:, 4:]], dim=1))


@pytest.mark.parametrize("reparam_dim", [None, 7])
def test_prefix_tuning_extends_keys_and_values(reparam_dim: int | None) -> None:
    model, manager, sites = attached("vit", "prefix_tuning", num_tokens=4, reparam_dim=reparam_dim)

    def kv(pair: tuple[torch.Tensor, torch.Tensor], i: int) -> tuple[torch.Tensor, ...]:
        site = sites["prefix", i]
        if reparam_dim is None:
            prefix = site.keys, site.values
        else:
            first, _, second = site.network
            both = linear(second, linear(first, site.embedding).tanh())
            prefix = both[:, :D], both[:, D:]
        return tuple(torch.cat([p.expand(2, -1, -1), own], dim=1) for p, own in zip(prefix, pair, strict=True))

    assert_close(tokens(manager, X), NaiveViT(model, kv=kv)(X))


def test_calibrated_prefix_attention_is_divided_by_its_own_sum() -> None:
    model, manager, sites = attached("vit", "prefix_tuning", num_tokens=4, calibrated=True)

    def kv(pair: tuple[torch.Tensor, torch.Tensor], i: int) -> tuple[torch.Tensor, ...]:
        site = sites["prefix", i]
        prefix = site.keys * site.scales[0], site.values * site.scales[1]
        return tuple(torch.cat([p.expand(2, -1, -1), own], dim=1) for p, own in zip(prefix, pair, strict=True))

    def calibrate(probabilities: torch.Tensor, i: int) -> torch.Tensor:
        prefix = probabilities[..., :4]
        return torch.cat([prefix / prefix.sum(dim=-1, keepdim=True), probabilities[..., 4:]], dim=-1)

    assert_close(tokens(manager, X), NaiveViT(model, kv=kv, probabilities=calibrate)(X))


def test_vqt_queries_read_every_block_and_join_the_features() -> None:
    model, manager, sites = attached("vit", "vqt", num_tokens=3)
    reads: list[torch.Tensor] = []

    def insert(x: torch.Tensor, i: int) -> torch.Tensor:
        return torch.cat([sites["queries", i].queries.expand(len(x), -1, -1), x], dim=1)

    def only_the_stream_s_keys(logits: torch.Tensor, i: int) -> torch.Tensor:
        return torch.cat([torch.full_like(logits[..., :3], float("-inf")), logits[..., 3:]], dim=-1)

    def remove(x: torch.Tensor, i: int) -> torch.Tensor:
        reads.append(x[:, :3].flatten(1))
        return x[:, 3:]

    stream = NaiveViT(model, tokens=insert, logits=only_the_stream_s_keys, output=remove)(X)
    assert_close(tokens(manager, X), stream)
    assert_close(stream, model.forward_features(X))  # the stream itself never sees the queries
    expected = torch.cat([part / (part**2).sum(dim=1, keepdim=True).sqrt() for part in (stream[:, 0], *reads)], dim=1)
    assert_close(manager.features(X, "birds"), expected)
    assert expected.shape == (2, D * (1 + 2 * 3))


def test_fact_tk_in_the_layout_of_the_released_code() -> None:
    """The slices (r, r, 4) of fc1 and fc2 are read as (r, 4 r) with no permutation: columns c stem from slice c mod 4."""
    model, manager, _ = attached("vit", "fact_tk", rank=5, scale=0.6, layout="code")
    bank: Any = manager.attachments[0].weights.bank("birds")
    factors = bank.model

    def slices(i: int, first: int, count: int) -> torch.Tensor:
        stacked = torch.zeros(5, 5, count, dtype=torch.float64)
        for t in range(5):
            for j in range(count):
                stacked[:, :, j] += factors.C[:, :, t] * factors.P[t, 12 * i + first + j]
        return stacked

    def flat(stacked: torch.Tensor) -> torch.Tensor:
        wide = torch.zeros(5, 20, dtype=torch.float64)
        for column in range(20):
            wide[:, column] = stacked[:, column // 4, column % 4]
        return wide

    def square(x: torch.Tensor, i: int, j: int) -> torch.Tensor:
        return 0.6 * (x @ factors.U.T) @ slices(i, j, 1)[:, :, 0] @ factors.V.T

    def fc1(y: torch.Tensor, x: torch.Tensor, i: int) -> torch.Tensor:
        inner = (x @ factors.U.T) @ flat(slices(i, 4, 4))  # (B, N, 4 r)
        return y + torch.cat([0.6 * part @ factors.V.T for part in inner.split(5, dim=-1)], dim=-1)

    def fc2(y: torch.Tensor, x: torch.Tensor, i: int) -> torch.Tensor:
        inner = torch.cat([part @ factors.U.T for part in x.split(D, dim=-1)], dim=-1)
        return y + 0.6 * inner @ flat(slices(i, 8, 4)).T @ factors.V.T

    plain = NaiveViT(
        model,
        qkv=lambda y, u, i: y + torch.cat([square(u, i, j) for j in range(3)], dim=-1),
        proj=lambda y, x, i: y + square(x, i, 3),
        fc1=fc1,
        fc2=fc2,
    )
    assert_close(tokens(manager, X), plain(X))


@pytest.mark.parametrize("method", ["fact_tt", "fact_tk"])
def test_fact_slices(method: str) -> None:
    model, manager, sites = attached("vit", method, rank=5, scale=0.6)
    bank: Any = manager.attachments[0].weights.bank("birds")
    factors = bank.model
    first = {"q": 0, "k": 1, "v": 2, "proj": 3, "fc1": 4, "fc2": 8}

    def core(kind: str, i: int, group: int) -> torch.Tensor:
        """M of a slice, to multiply U x as a row vector from the right."""
        if method == "fact_tt":
            return sites[kind, i].core[group].T
        j = 12 * i + first[kind] + group
        matrix = sum(factors.C[:, :, t] * factors.P[t, j] for t in range(5))
        assert isinstance(matrix, torch.Tensor)
        return matrix.T if kind == "fc2" else matrix

    def slice_of(kind: str, x: torch.Tensor, i: int, group: int = 0) -> torch.Tensor:
        return 0.6 * (x @ factors.U.T) @ core(kind, i, group) @ factors.V.T

    plain = NaiveViT(
        model,
        qkv=lambda y, u, i: y + torch.cat([slice_of(kind, u, i) for kind in "qkv"], dim=-1),
        proj=lambda y, x, i: y + slice_of("proj", x, i),
        fc1=lambda y, x, i: y + torch.cat([slice_of("fc1", x, i, g) for g in range(4)], dim=-1),
        fc2=lambda y, x, i: y + sum(slice_of("fc2", x[..., g * D : (g + 1) * D], i, g) for g in range(4)),
    )
    assert_close(tokens(manager, X), plain(X))


def test_lst_recursion() -> None:
    model, manager, sites = attached("vit", "lst", reduction=4, temperature=0.2)
    side = sites["side", None]
    taps: list[torch.Tensor] = []

    def keep(x: torch.Tensor, i: int) -> torch.Tensor:
        taps.append(x)
        return x

    plain = NaiveViT(model, tokens=lambda x, i: keep(x, i) if i == 0 else x, output=keep)
    plain(X)
    state = linear(side.downs[0], taps[0])
    for i, block in enumerate(side.blocks):
        mu = 1 / (1 + math.exp(-side.gates[i].item() / 0.2))
        state = plain.block(block, mu * state + (1 - mu) * linear(side.downs[i + 1], taps[i + 1]), i)
    assert_close(tokens(manager, X), linear(side.up, naive.norm(side.norm, state)))


def test_lst_starts_from_the_rows_of_largest_magnitude() -> None:
    import mtpeft
    from mtpeft.testing import tiny_backbone

    model: Any = tiny_backbone("vit")
    manager = mtpeft.attach(model, "lst", reduction=4)
    manager.add_task("birds", num_classes=3)
    side: Any = manager.attachments[0].weights.bank("birds").sites["norm-side"]
    first = model.blocks[0]

    def top(score: torch.Tensor, count: int) -> torch.Tensor:
        return torch.tensor(sorted(score.argsort(descending=True)[:count].tolist()))

    stream = top(model.patch_embed.proj.weight.abs().sum(dim=(1, 2, 3)), 12)
    assert_close(side.blocks[0].norm1.weight, first.norm1.weight[stream])
    q, k, v = first.attn.qkv.weight[:, stream].chunk(3)
    rows = top((q * k * v).abs().sum(dim=1), 12)
    assert_close(side.blocks[0].attn.qkv.weight, torch.cat([q[rows], k[rows], v[rows]]))
    assert_close(side.blocks[0].attn.qkv.bias, torch.cat([b[rows] for b in first.attn.qkv.bias.chunk(3)]))
    out = top(first.attn.proj.weight[:, rows].abs().sum(dim=1), 12)
    assert_close(side.blocks[0].attn.proj.weight, first.attn.proj.weight[out][:, rows])
    assert_close(side.blocks[0].norm2.bias, first.norm2.bias[out])
    hidden = top(first.mlp.fc1.weight[:, out].abs().sum(dim=1), 48)
    assert_close(side.blocks[0].mlp.fc1.weight, first.mlp.fc1.weight[hidden][:, out])
    stream = top(first.mlp.fc2.weight[:, hidden].abs().sum(dim=1), 12)
    assert_close(side.blocks[0].mlp.fc2.weight, first.mlp.fc2.weight[stream][:, hidden])
    assert_close(side.blocks[1].norm1.bias, model.blocks[1].norm1.bias[stream])
    assert (manager.backbone.norm.weight.shape[0], side.norm.weight.shape[0]) == (48, 12)


def test_bitfit_trains_every_bias() -> None:
    model, manager, sites = attached("vit", "bitfit")
    names = {
        "patch_embed": "patch_embed.proj",
        "final_norm": "norm",
        "qkv": "attn.qkv",
        "proj": "attn.proj",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        "norm1": "norm1",
        "norm2": "norm2",
    }
    for (kind, block), site in sites.items():
        path = names[kind] if block is None else f"blocks.{block}.{names[kind]}"
        model.get_submodule(path).bias.copy_(site.bias)
    assert len(sites) == sum(name.endswith(".bias") for name, _ in model.named_parameters())
    assert_close(tokens(manager, X), NaiveViT(model)(X))


def test_ln_tune_trains_scale_and_shift_of_every_norm() -> None:
    model, manager, sites = attached("vit", "ln_tune")
    for (kind, block), site in sites.items():
        layer = model.norm if block is None else getattr(model.blocks[block], kind)
        layer.weight.copy_(site.norm.weight)
        layer.bias.copy_(site.norm.bias)
    assert len(sites) == 5
    assert_close(tokens(manager, X), NaiveViT(model)(X))


def test_full_trains_the_backbone_itself() -> None:
    model, manager, _ = attached("vit", "full")
    before = NaiveViT(model)(X)
    model.load_state_dict(manager.backbone.state_dict())
    assert_close(tokens(manager, X), NaiveViT(model)(X))
    assert not torch.allclose(before, tokens(manager, X))


def test_vp_frame() -> None:
    model, manager, sites = attached("vit", "vp", prompt_size=10)
    site = sites["pixels", None]
    frame = torch.zeros(3, 64, 64, dtype=torch.float64)
    for row in range(64):
        for column in range(64):
            if row < 10:
                frame[:, row, column] = site.up[:, row, column]
            elif row >= 54:
                frame[:, row, column] = site.down[:, row - 54, column]
            elif column < 10:
                frame[:, row, column] = site.left[:, row - 10, column]
            elif column >= 54:
                frame[:, row, column] = site.right[:, row - 10, column - 54]
    assert_close(tokens(manager, X), NaiveViT(model, pixels=lambda x: x + frame)(X))


def test_vp_patches() -> None:
    model, manager, sites = attached("vit", "vp", prompt_size=10, template="fixed_patch")
    patch = torch.zeros(3, 64, 64, dtype=torch.float64)
    patch[:, :10, :10] = sites["pixels", None].patch
    assert_close(tokens(manager, X), NaiveViT(model, pixels=lambda x: x + patch)(X))
    _, manager, sites = attached("vit", "vp", prompt_size=10, template="random_patch")
    site = sites["pixels", None]
    drawn = [site.prompt(64, 64) for _ in range(8)]
    assert all(torch.equal(p[p != 0], site.patch.flatten()) for p in drawn)
    assert len({tuple((p != 0).nonzero()[0].tolist()) for p in drawn}) > 1


def test_methods_act_in_the_order_they_are_given() -> None:
    """LoRA, then SSF on the same output: the scale reaches LoRA's product."""
    import mtpeft
    from mtpeft.testing import tiny_backbone
    from mtpeft.testing.case import perturb

    manager = mtpeft.attach(
        tiny_backbone("vit").double(), [{"name": "lora", "sites": ["proj"]}, {"name": "ssf", "sites": ["proj"]}]
    )
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.2)
    keys = [f"blocks-{i}-attn-proj" for i in range(2)]
    lora, ssf = ([a.weights.bank("birds").sites[k] for k in keys] for a in manager.attachments)

    def proj(y: torch.Tensor, x: torch.Tensor, i: int) -> torch.Tensor:
        return (y + x @ lora[i].lora_A.T @ lora[i].lora_B.T) * ssf[i].scale + ssf[i].shift

    assert_close(tokens(manager.eval(), X), NaiveViT(tiny_backbone("vit").double(), proj=proj)(X))
