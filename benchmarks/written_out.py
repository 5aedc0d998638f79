"""Methods against their modules written out in plain torch, one operation after the other as papers print them: a training step.

Each is put into the blocks of a timm ViT by hand, as most of the authors' repositories do: the module stands beside or behind a
layer and the block's forward calls it. Both train as many weights, which is checked; MTLoRA's is in `written_out_mtlora.py`.

Beside them runs the backbone with no method at all and a gradient through all its blocks: no way of writing a method is faster.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from _common import arguments, goal, interleave, milliseconds, ratio, show, wake, write
from single_task import CLASSES, Probed, step
from torch import nn
from torch.nn import functional

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.manager.attach import create_backbone


class Adapter(nn.Module):
    """AdaptFormer's branch: down, ReLU, dropout, up, times a scale."""

    def __init__(self, width: int, hidden: int = 64) -> None:
        """Linear layers of `width` and `hidden`."""
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, width) -> the same."""
        x = functional.dropout(torch.relu(self.down(x)), 0.1, self.training)
        return self.up(x) * 0.1


class Bypass(nn.Module):
    """Convpass's branch: 1 x 1, QuickGELU, 3 x 3 over the patches and over the class token, QuickGELU, dropout, 1 x 1."""

    def __init__(self, width: int, hidden: int = 8) -> None:
        """Convolutions of `hidden` channels."""
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1 + n * n, width) -> the same."""
        x = self.down(x)
        x = x * torch.sigmoid(1.702 * x)
        side = round((x.shape[1] - 1) ** 0.5)
        patches = self.conv(x[:, 1:].transpose(1, 2).unflatten(2, (side, side))).flatten(2).transpose(1, 2)
        token = self.conv(x[:, :1].transpose(1, 2).unsqueeze(3)).flatten(2).transpose(1, 2)
        x = torch.cat([token, patches], dim=1)
        x = x * torch.sigmoid(1.702 * x)
        return self.up(functional.dropout(x, 0.1, self.training))


class ScaleShift(nn.Module):
    """SSF behind one operation."""

    def __init__(self, inner: nn.Module, width: int) -> None:
        """`inner` gives `width` channels, the last axis."""
        super().__init__()
        self.inner, self.scale, self.shift = inner, nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `inner`."""
        return self.inner(x) * self.scale + self.shift


class Fact(nn.Module):
    """FacT-TT's increment of one layer of a model with U and V: s V drop(M U x) slice by slice."""

    def __init__(self, rank: int, slices_in: int, slices_out: int) -> None:
        """A core of `rank` for every pair of slices."""
        super().__init__()
        self.core, self.slices = nn.Linear(rank * slices_in, rank * slices_out, bias=False), (slices_in, slices_out)

    def forward(self, x: torch.Tensor, u: nn.Linear, v: nn.Linear) -> torch.Tensor:
        """(B, N, slices_in * d) -> (B, N, slices_out * d)."""
        first, last = self.slices
        x = u(x.unflatten(-1, (first, -1))).flatten(-2)
        x = functional.dropout(self.core(x), 0.1, self.training)
        return v(x.unflatten(-1, (last, -1))).flatten(-2)


class Facted(nn.Module):
    """A linear layer with FacT's increment of each of its parts."""

    def __init__(self, layer: nn.Linear, u: nn.Linear, v: nn.Linear, *increments: Fact) -> None:
        """`increments` of the parts of the output, in order; U and V belong to the model."""
        super().__init__()
        self.layer, self.increments, self.shared = layer, nn.ModuleList(increments), (u, v)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `layer`."""
        y = self.layer(x)
        y += torch.cat([increment(x, *self.shared) for increment in self.increments], dim=-1)
        return y


def adaptformer(model: Any) -> None:
    """The branch beside every MLP."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        side = self.adapter(x)
        return x + self.mlp(self.norm2(x)) + side

    for block in model.blocks:
        block.adapter = Adapter(model.embed_dim)
        block.forward = MethodType(forward, block)


def convpass(model: Any) -> None:
    """A branch beside attention and beside the MLP, each behind the norm."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x)) + self.first(self.norm1(x)) * 1.0
        return x + self.mlp(self.norm2(x)) + self.second(self.norm2(x)) * 1.0

    for block in model.blocks:
        block.first, block.second = Bypass(model.embed_dim), Bypass(model.embed_dim)
        block.forward = MethodType(forward, block)


def ssf(model: Any) -> None:
    """A scale and a shift behind every operation."""
    width = model.embed_dim
    for block in model.blocks:
        for owner, name in ((block, "norm1"), (block, "norm2"), (block.attn, "proj"), (block.mlp, "fc2")):
            setattr(owner, name, ScaleShift(getattr(owner, name), width))
        block.attn.qkv = ScaleShift(block.attn.qkv, 3 * width)
        block.mlp.fc1 = ScaleShift(block.mlp.fc1, block.mlp.fc1.out_features)
    model.patch_embed, model.norm = ScaleShift(model.patch_embed, width), ScaleShift(model.norm, width)


def fact_tt(model: Any, rank: int = 16) -> None:
    """An increment of every linear layer in the blocks."""
    width = model.embed_dim
    model.fact_u, model.fact_v = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
    shared = (model.fact_u, model.fact_v)
    for block in model.blocks:
        attn, mlp = block.attn, block.mlp
        groups = mlp.fc1.out_features // width
        attn.qkv = Facted(attn.qkv, *shared, *(Fact(rank, 1, 1) for _ in range(3)))
        attn.proj = Facted(attn.proj, *shared, Fact(rank, 1, 1))
        mlp.fc1, mlp.fc2 = (
            Facted(mlp.fc1, *shared, Fact(rank, 1, groups)),
            Facted(mlp.fc2, *shared, Fact(rank, groups, 1)),
        )


METHODS: dict[str, Callable[[Any], None]] = {
    "adaptformer": adaptformer,
    "ssf": ssf,
    "convpass": convpass,
    "fact_tt": fact_tt,
}


def contestants(name: str, backbone: Any) -> dict[str, nn.Module]:
    """The method of both kinds, on copies of the backbone, with as many weights each; and what trains the class token alone."""
    backbone = copy.deepcopy(backbone).requires_grad_(False)
    bare = copy.deepcopy(backbone)
    manager = mtpeft.attach(copy.deepcopy(backbone), name)
    manager.add_task("task", num_classes=CLASSES)
    METHODS[name](backbone)
    plain = Probed(backbone, backbone.num_features)
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (manager, plain)]
    if counts[0] != counts[1]:
        raise ConfigError(f"{name}: mtpeft trains {counts[0]} weights and the module written out {counts[1]}")
    wake(manager)
    wake(plain)
    return {"mtpeft": manager.train(), "written out": plain.train(), "no method": through(bare)}


def through(backbone: Any) -> nn.Module:
    """A backbone whose class token and head learn: a gradient passes through all blocks, and no weight of theirs has one."""
    backbone.cls_token.requires_grad_(True)
    return Probed(backbone, backbone.num_features).train()


def main() -> None:
    """All of them, or those named."""
    parser = arguments("written_out", __doc__)
    parser.add_argument("methods", nargs="*", help="names; all without")
    parser.add_argument("--model", default="vit_small_patch16_224", help="a plain ViT of timm; random weights")
    parser.add_argument("--batch", type=int, default=4, help="images")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    backbone = create_backbone(options.model, pretrained=False)
    images, labels = torch.randn(options.batch, 3, 224, 224), torch.randint(CLASSES, (options.batch,))
    rows: dict[str, tuple[float, ...]] = {}
    for name in options.methods or METHODS:
        models = contestants(name, backbone)
        times = interleave({n: step(model, images, labels) for n, model in models.items()}, options.repeats)
        ratios = [ratio(times, case, "written out") for case in ("mtpeft", "no method")]
        rows[name] = (*milliseconds(times).values(), *ratios)
    columns = ("mtpeft ms", "written out ms", "no method ms", "mtpeft ratio", "no method ratio")
    show(f"{options.model}, batch {options.batch}, training step", rows, columns)
    goals = [goal(f"training step of {name} / written out", row[-2], 0.95) for name, row in rows.items()]
    write(options, {"rows": {name: [round(value, 4) for value in row] for name, row in rows.items()}, "goals": goals})


if __name__ == "__main__":
    main()
