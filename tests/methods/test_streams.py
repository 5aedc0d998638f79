"""Methods with shared and task weights: formulas by hand, one pass, counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.manager.manager import TaskManager
from mtpeft.testing import tiny_backbone

TASKS = ("depth", "normals")


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()


def manager(anatomy: str, method: str, **options: Any) -> TaskManager:
    made = mtpeft.attach(tiny_backbone(anatomy).double(), method, **options)
    for task in TASKS:
        made.add_task(task, head="stage_linear", channels=2)
    for _, parameter in made.trainable_parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


def stage_features(made: TaskManager, task: str) -> list[torch.Tensor]:
    """What the task's head reads."""
    kept: list[Any] = []
    handle = made.head(task).register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    made(images(), task)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("method", ["vmt_adapter", "vmt_adapter_lite"])
@pytest.mark.parametrize(
    ("position", "blocks"), [("bottleneck", "stage_end"), ("output", "stage_end"), ("bottleneck", "all")]
)
@torch.no_grad()
def test_vmt_adapter_equals_its_formula_on_swin(method: str, position: str, blocks: str) -> None:
    """y = x + MLP(u) + g feeds the next block; the task reads x + MLP(u) + g_t at the stage ends."""
    made = manager("swin", method, ke_position=position, ke_blocks=blocks, activation="relu")
    found = stage_features(made, "normals")
    plain: Any = tiny_backbone("swin").double().eval()
    bank: Any = made.attachments[0].weights.common  # type: ignore[union-attr]
    streams: Any = made.attachments[0].weights.tasks["task=normals"]  # type: ignore[union-attr, index]
    x = plain.patch_embed(images())
    expected, index = [], 0
    for number, layer in enumerate(plain.layers):
        x = layer.downsample(x)
        extra = torch.zeros(())
        for place, block in enumerate(layer.blocks):
            site = bank.sites[f"layers-{number}-blocks-{place}-drop_path2-parallel_mlp_ln"]
            up = site.up_matrix if method == "vmt_adapter" else site.scale * site.down.T
            x = x + block._attn(block.norm1(x))
            u = block.norm2(x)
            z = F.relu(u @ site.down.T + site.down_bias)
            g = z @ up.T + site.up_bias
            if str(index) in streams:
                stream = streams[str(index)]
                if position == "bottleneck":
                    own = (stream.scale * z + stream.shift) @ up.T + site.up_bias
                else:
                    own = stream.scale * g + stream.shift
                extra = extra + own - g
            x = x + block.mlp(u) + g
            index += 1
        expected.append(x + extra)
    expected[-1] = plain.norm(expected[-1])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.permute(0, 3, 1, 2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("final_norm", [False, True])
@torch.no_grad()
def test_mtlora_equals_its_formula_on_swin(final_norm: bool) -> None:
    """Shared LoRA everywhere; in the last block of a stage a stream per task through proj, fc1 and fc2.

    As in the authors' code the last stage is read without the final norm, unless it is asked for.
    """
    options = {"final_norm": True} if final_norm else {}
    made = manager("swin", "mtlora", rank=3, task_rank=2, scale=2.0, **options)
    found = stage_features(made, "depth")
    plain: Any = tiny_backbone("swin").double().eval()
    plain.load_state_dict(made.backbone.state_dict())  # norms, tables and reductions were moved as well
    bank: Any = made.attachments[0].weights.common  # type: ignore[union-attr]
    streams: Any = made.attachments[0].weights.tasks["task=depth"]  # type: ignore[union-attr, index]

    def low_rank(part: Any, x: torch.Tensor) -> torch.Tensor:
        return 2.0 * x @ part.lora_A.T @ part.lora_B.T

    x, index, expected = plain.patch_embed(images()), 0, []
    for number, layer in enumerate(plain.layers):
        x = layer.downsample(x)
        own = x
        for place, block in enumerate(layer.blocks):
            site = {
                k: bank.sites[f"layers-{number}-blocks-{place}-{p}-{k}".replace(f"-{k}-{k}", f"-{k}")]
                for k, p in (("qkv", "attn-qkv"), ("proj", "attn-proj"), ("fc1", "mlp-fc1"), ("fc2", "mlp-fc2"))
            }
            stream = streams[str(index)].updates if str(index) in streams else None
            attn, sides = block.attn, {}

            def qkv(v: torch.Tensor, attn: Any = attn, site: Any = site) -> torch.Tensor:
                return F.linear(v, attn.qkv.weight, attn.qkv.bias) + low_rank(site["qkv"], v)

            def attend(rows: torch.Tensor, proj: Any, mask: Any, attn: Any = attn, qkv: Any = qkv) -> torch.Tensor:
                count, area, width = rows.shape
                q, k, v = qkv(rows).reshape(count, area, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
                scores = (q * attn.scale) @ k.transpose(-1, -2) + attn._get_rel_pos_bias()
                if mask is not None:
                    scores = (scores.view(-1, len(mask), *scores.shape[1:]) + mask[None, :, None]).view(scores.shape)
                return proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(count, area, width))

            def windows(v: torch.Tensor, proj: Any, block: Any = block, attend: Any = attend) -> torch.Tensor:
                side, shift = block.window_size[0], block.shift_size[0]
                b, h, w, c = v.shape
                v = v.roll((-shift, -shift), (1, 2))
                rows = v.view(b, h // side, side, w // side, side, c).transpose(2, 3).reshape(-1, side * side, c)
                out = attend(rows, proj, block.attn_mask)
                out = out.view(b, h // side, w // side, side, side, c).transpose(2, 3).reshape(b, h, w, c)
                return out.roll((shift, shift), (1, 2))

            frozen = attn.proj
            shared = windows(block.norm1(x), lambda v, s=site, f=frozen: f(v) + low_rank(s["proj"], v))
            if stream is not None:
                sides["attn"] = windows(block.norm1(x), lambda v, s=stream, f=frozen: f(v) + low_rank(s["proj"], v))
            entry, x = x, x + shared
            u = block.norm2(x)
            first = block.mlp.fc1(u)
            hidden = F.gelu(first + low_rank(site["fc1"], u))
            second = block.mlp.fc2(hidden)
            if stream is not None:
                own = entry + sides["attn"]
                task_hidden = F.gelu(first + low_rank(stream["fc1"], block.norm2(own)))
                own = own + second + low_rank(stream["fc2"], task_hidden)
            x = x + second + low_rank(site["fc2"], hidden)
            index += 1
        expected.append(own)
    if final_norm:
        expected[-1] = plain.norm(expected[-1])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.permute(0, 3, 1, 2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["vmt_adapter", "mtlora"])
def test_all_tasks_take_one_pass_of_the_backbone(method: str) -> None:
    made = manager("swin", method)
    calls: list[int] = []
    made.backbone.patch_embed.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    with torch.no_grad():
        outputs = made.forward_tasks(images(), list(TASKS))
        assert len(calls) == 1
        for task in TASKS:
            torch.testing.assert_close(outputs[task], made(images(), task), rtol=0, atol=1e-10)
    assert (outputs["depth"] - outputs["normals"]).abs().max() > 1e-3


def test_mtlora_trains_the_backbone_s_own_parts_and_gives_them_back() -> None:
    backbone = tiny_backbone("swin")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    made = mtpeft.attach(backbone, "mtlora")
    made.add_task("depth", head="stage_linear", channels=1)
    own = {n.removeprefix("backbone.") for n, _ in made.trainable_parameters() if n.startswith("backbone.")}
    assert {"patch_embed.proj.weight", "layers.1.downsample.norm.bias", "layers.1.downsample.reduction.weight"} <= own
    assert not {"norm.weight", "norm.bias"} & own  # nothing reads what the final norm gives
    assert "layers.0.blocks.0.attn.relative_position_bias_table" in own
    assert not any("qkv" in name or "fc1" in name for name in own)
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            parameter.data.add_(1.0)
    after = made.detach().state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("anatomy", ["vit", "mae", "swin"])
@torch.no_grad()
def test_mtlora_gives_pooled_features_and_maps_without_the_final_norm(anatomy: str) -> None:
    made = mtpeft.attach(tiny_backbone(anatomy).double(), "mtlora")
    with_norm = mtpeft.attach(tiny_backbone(anatomy).double(), "mtlora", final_norm=True)
    plain: Any = tiny_backbone(anatomy).double().eval()
    for part in (made, with_norm):
        part.add_task("depth", num_classes=2)
        part.add_task("normals", head="stage_linear", channels=2)
    torch.testing.assert_close(
        with_norm.features(images(), "depth"), plain.forward_head(plain.forward_features(images()), pre_logits=True)
    )
    name = "fc_norm" if anatomy == "mae" else "norm"
    own = {n.removeprefix("backbone.") for n, _ in with_norm.trainable_parameters()}
    assert {f"{name}.weight", f"{name}.bias"} <= own
    setattr(plain, name, nn.Identity())
    raw = plain.forward_features(images())
    torch.testing.assert_close(made.features(images(), "depth"), plain.forward_head(raw, pre_logits=True))
    torch.testing.assert_close(stage_features(made, "normals")[-1], made.anatomy.feature_map(raw))


def test_mtlora_without_plain_mlps_is_refused() -> None:
    for anatomy in ("swinv2", "pvt_v2"):
        with pytest.raises(ConfigError, match="task streams need blocks that norm first"):
            mtpeft.attach(tiny_backbone(anatomy), "mtlora")
    with pytest.raises(ConfigError, match="ke_blocks is 'some', expected one of stage_end, all"):
        mtpeft.attach(tiny_backbone("vit"), "vmt_adapter", ke_blocks="some")


def test_vmt_adapter_on_vit_b_taps_the_quarters() -> None:
    import timm

    made = mtpeft.attach(timm.create_model("vit_base_patch16_224", num_classes=0), "vmt_adapter", ke_blocks="all")
    for task in "abcd":
        made.add_task(task, head=nn.Identity())
    assert made.num_trainable(heads=False) == 3_568_896
    assert [stage.block for stage in made.anatomy.stages] == [2, 5, 8, 11]
