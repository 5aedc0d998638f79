"""Side-Tuning, SAM-LST and E3VA, written out in plain tensor algebra."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive import NaiveViT, T, assert_close, attached, gelu, norm, tokens
from naive_maps import batch_norm, conv, enlarged, group_norm, maximum, relu, sigmoid
from torch import nn

import mtpeft
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, perturb

X = images(2, torch.float64)


def test_the_naive_operations_are_torch_s() -> None:
    """Without this, nothing below would mean anything."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    for layer in (
        nn.Conv2d(4, 6, 3, 2, 1),
        nn.Conv2d(4, 6, 8, 4, 2, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
    ):
        layer = layer.double()
        assert_close(conv(x, layer), layer(x))
    assert_close(group_norm(x, group := nn.GroupNorm(2, 4).double()), group(x))
    assert_close(batch_norm(x, batch := nn.BatchNorm2d(4).double().eval()), batch(x))
    assert_close(maximum(x, 3, 2, 1), nn.functional.max_pool2d(x, 3, 2, 1))
    resized = nn.functional.interpolate(x, (5, 12), mode="bilinear", align_corners=False)
    assert_close(enlarged(x, 5, 12), resized)


# Side-Tuning and SAM-LST --------------------------------------------------------------------------------------------


def mixed_into(y: T, side: T, gate: T, prefix: int) -> T:
    """Tokens y and a side's map on the same grid."""
    mean = side.mean(dim=(2, 3)).unsqueeze(1).expand(-1, prefix, -1)
    return gate * y + (1 - gate) * torch.cat([mean, side.flatten(2).transpose(1, 2)], dim=1)


def fcn(x: T, layers: Any) -> T:
    return relu(group_norm(conv(x, layers[0]), layers[1])) if len(layers) == 3 else relu(conv(x, layers[0]))


@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
@torch.no_grad()
def test_side_tuning_mixes_a_convolutional_side_into_every_token(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "side_tuning")
    net, out = sites["pixels", None].side, sites["features", None]
    inner = fcn(fcn(X, net.stem[0]), net.stem[1])
    side = fcn(inner, net.skip) + fcn(fcn(fcn(inner, net.body[0]), net.body[1]), net.body[2])
    side = torch.einsum("bchw,dc->bdhw", side, out.project.weight)
    expected = mixed_into(NaiveViT(model)(X), side, sigmoid(out.alpha), 1 if anatomy == "vit" else 5)
    assert_close(tokens(manager, X), expected)


@torch.no_grad()
def test_side_tuning_s_map_is_enlarged_to_that_of_the_features() -> None:
    model, manager, sites = attached("swin", "side_tuning", side="fcn5")
    net, out = sites["pixels", None].side, sites["features", None]
    side = enlarged(torch.einsum("bchw,dc->bdhw", net(X), out.project.weight), 8, 8).permute(0, 2, 3, 1)
    gate = sigmoid(out.alpha)
    assert_close(tokens(manager, X), gate * model.forward_features(X) + (1 - gate) * side)


@torch.no_grad()
def test_side_tuning_with_alexnet_adds_one_vector() -> None:
    model, manager, sites = attached("vit", "side_tuning", side="alexnet", alpha=1.0)
    net, out = sites["pixels", None].side, sites["features", None]
    x = X
    for layer in net[0]:
        kind = type(layer).__name__
        x = conv(x, layer) if kind == "Conv2d" else relu(x) if kind == "ReLU" else maximum(x, 3, 2, 0)
    assert x.shape[2:] == (1, 1)  # each of the 6 x 6 cells is then the one there is
    vector = x.expand(-1, -1, 6, 6).flatten(1) @ out.project.weight.T
    gate = sigmoid(out.alpha)
    assert_close(tokens(manager, X), gate * NaiveViT(model)(X) + (1 - gate) * vector[:, None])
    pooled = gate * NaiveViT(model)(X)[:, 0] + (1 - gate) * vector
    assert_close(manager.features(X, "birds"), pooled)


@torch.no_grad()
def test_sam_lst_mixes_a_resnet_s_map_in() -> None:
    model, manager, sites = attached("vit", "sam_lst")
    net, out = sites["pixels", None].side, sites["features", None]

    def basic(x: T, block: Any) -> T:
        y = relu(batch_norm(conv(x, block.conv1), block.bn1))
        y = batch_norm(conv(y, block.conv2), block.bn2)
        short = x if block.downsample is None else batch_norm(conv(x, block.downsample[0]), block.downsample[1])
        return relu(y + short)

    x = maximum(relu(batch_norm(conv(X, net[0]), net[1])), 3, 2, 1)
    for block in (*net[4], *net[5], *net[6]):
        x = basic(x, block)
    assert x.shape == (2, 256, 4, 4)
    expected = mixed_into(NaiveViT(model)(X), conv(x, out.project), sigmoid(out.alpha), 1)
    assert_close(tokens(manager, X), expected)


def test_sam_lst_needs_no_projection_beside_sam_s_neck() -> None:
    import timm

    small: dict[str, Any] = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3, "window_size": 2}
    model = timm.create_model("samvit_base_patch16", num_classes=0, global_attn_indexes=(1,), **small).double().eval()
    manager = mtpeft.attach(model, "sam_lst")
    manager.add_task("organs", head="dense_linear", channels=9)
    sites: Any = manager.attachments[0].weights.bank("organs").sites
    assert isinstance(sites["neck-features"].project, nn.Identity)
    with torch.no_grad():
        found = manager.eval().backbone.forward_features(X)  # type: ignore[operator]
        own = sites["patch_embed-pixels"].side(X)
        manager.detach()
        assert_close(found, 0.5 * model.forward_features(X) + 0.5 * own)


@pytest.mark.parametrize("method", ["sam_lst", "vit_adapter"])
def test_batch_norms_of_a_mixed_batch_see_one_task_at_a_time(method: str) -> None:
    options = {"drop_path": 0.0} if method == "vit_adapter" else {}
    batch, names = images(6), ["birds", "depth", "birds", "birds", "depth", "birds"]

    def manager_of() -> Any:
        torch.manual_seed(0)
        manager = mtpeft.attach(tiny_backbone("vit"), method, **options)
        for task in ("birds", "depth"):
            manager.add_task(task, head="stage_linear", channels=2)
        perturb(manager)
        return manager.train()

    mixed, alone = manager_of(), manager_of()
    outputs = mixed(batch, names)
    for task in ("birds", "depth"):
        rows = [row for row, name in enumerate(names) if name == task]
        torch.testing.assert_close(outputs[task][1], alone(batch[rows], task), atol=1e-5, rtol=1e-4)
    found, expected = mixed.trained_state(), alone.trained_state()
    moved = [name for name in expected if name.endswith("running_mean")]
    assert moved and all(expected[name].any() for name in moved)
    for name in moved:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-5)


# E3VA ---------------------------------------------------------------------------------------------------------------


def adapter(layer: Any, z: T) -> T:
    hidden = z @ layer.down[0].weight.T @ layer.down[1].weight.T + layer.down[1].bias
    return z + gelu(hidden) @ layer.up[0].weight.T @ layer.up[1].weight.T + layer.up[1].bias


@torch.no_grad()
def test_e3va_sums_what_its_adapters_make_of_both_branches() -> None:
    model, manager, sites = attached("dinov2", "e3va", rank=3)
    stream: list[T] = []

    def begin(x: T, i: int) -> T:
        if i == 0:
            stream.append(x)
        return x

    def attention(y: T, x: T, u: T, i: int) -> T:
        stream.append(stream[-1] + adapter(sites["after_attention", i].adapter, y))
        return y

    def mlp(y: T, x: T, u: T, i: int) -> T:
        stream.append(stream[-1] + adapter(sites["after_mlp", i].adapter, y))
        return y

    plain = NaiveViT(model, tokens=begin, attention_branch=attention, mlp_branch=mlp)(X)
    assert_close(tokens(manager, X), norm(sites["features", None].norm, stream[-1]))
    assert not torch.allclose(plain, stream[-1])


@torch.no_grad()
def test_e3va_crosses_the_stages_of_a_swin_by_its_own_patch_merging() -> None:
    model, manager, sites = attached("swin", "e3va")
    branches: list[T] = []
    for module in model.modules():
        if hasattr(module, "drop_path1"):
            module.drop_path1.register_forward_pre_hook(lambda m, args: branches.append(args[0]))
            module.drop_path2.register_forward_pre_hook(lambda m, args: branches.append(args[0]))
    entered: list[T] = []
    model.layers[0].blocks[0].register_forward_pre_hook(lambda m, args: entered.append(args[0]))
    model.forward_features(X)
    h, ends = entered[0], []
    for i in range(4):
        if i == 2:
            ends.append(h)
            h = model.layers[1].downsample(h)
        h = h + adapter(sites["after_attention", i].adapter, branches[2 * i])
        h = h + adapter(sites["after_mlp", i].adapter, branches[2 * i + 1]).reshape(h.shape)
    final = norm(sites["features", None].norm, h)
    assert_close(tokens(manager, X), final)
    manager.add_task("depth", head="stage_linear", channels=2)
    first = norm(sites["scales", None].norms[0], ends[0])
    head: Any = manager.head("depth")
    other: Any = manager.attachments[0].weights
    other.tasks["task=depth"].load_state_dict(other.tasks["task=birds"].state_dict())
    maps = [first.permute(0, 3, 1, 2), final.permute(0, 3, 1, 2)]
    assert_close(manager(X, "depth"), head(maps, (64, 64)))


def test_e3va_s_final_norm_is_trained_where_it_stands_behind_the_pooling() -> None:
    manager = mtpeft.attach(tiny_backbone("mae"), "e3va")
    kinds = [site.kind for site in manager.attachments[0].selected if site.block is None]
    assert kinds == ["final_norm", "features", "scales"]
    assert "final_norm" not in {s.kind for s in mtpeft.attach(tiny_backbone("vit"), "e3va").attachments[0].selected}


@torch.no_grad()
def test_states_do_not_leak_from_one_direct_call_to_the_next() -> None:
    """`forward_intermediates` calls the norm in between, at states of its own."""
    backbone: Any = tiny_backbone("vit")
    manager = mtpeft.attach(backbone, "e3va")
    manager.add_task("birds", num_classes=3)
    perturb(manager)
    kept = {"intermediates_only": True, "norm": True, "output_fmt": "NLC"}
    once = backbone.forward_intermediates(images(2), **kept)
    backbone.forward_features(images(4))
    again = backbone.forward_intermediates(images(2), **kept)
    torch.testing.assert_close(again, once, atol=0, rtol=0)
    assert torch.equal(once[-1], backbone.forward_features(images(2))[:, 1:])
