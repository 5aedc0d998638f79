"""MTLoRA on Swin-T with four tasks against its layers written out in plain torch, as papers print them: a training step.

Every linear layer adds the shared update; in the last block of a stage proj, fc1 and fc2 give each task an output of its own, one
task after the other. Both train as many weights (checked), and every task has the same head on the maps of all stages.
"""

from __future__ import annotations

import copy
import math
from types import MethodType
from typing import Any

import torch
from _common import arguments, goal, interleave, milliseconds, ratio, show, wake, write
from timm.models.swin_transformer import window_reverse
from torch import nn
from torch.nn import functional

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.manager.attach import create_backbone
from mtpeft.methods import METHODS

TASKS = ("a", "b", "c", "d")
SCALE, DROPOUT = 4.0, 0.05


def low_rank(layer: nn.Linear, rank: int) -> nn.ParameterList:
    """A (rank, in) and B (out, rank)."""
    a = nn.Parameter(torch.empty(rank, layer.in_features))
    nn.init.kaiming_uniform_(a, a=math.sqrt(5))
    return nn.ParameterList([a, nn.Parameter(torch.zeros(layer.out_features, rank))])


class Updated(nn.Module):
    """A frozen linear layer with a shared update, and one of each task's where `own`."""

    def __init__(self, layer: nn.Linear, rank: int, task_rank: int, own: bool) -> None:
        """Updates of `rank`, and of `task_rank` for a task."""
        super().__init__()
        self.layer, self.shared = layer, low_rank(layer, rank)
        self.own = nn.ModuleList(low_rank(layer, task_rank) for _ in TASKS) if own else None
        self.inputs: list[torch.Tensor] | None = None
        self.outputs: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The shared output; `outputs` are those of the tasks, of their `inputs` or of the shared one."""
        plain = self.layer(x)
        x = functional.dropout(x, DROPOUT, self.training)
        update = (x @ self.shared[0].T @ self.shared[1].T) * SCALE
        if self.own is not None:
            inputs = [x] * len(TASKS) if self.inputs is None else self.inputs
            pairs = zip(inputs, self.own, strict=True)
            self.outputs = [plain + (own @ w[0].T @ w[1].T * SCALE) for own, w in pairs]  # type: ignore[index]
        return plain + update


def last_block(self: Any, x: torch.Tensor) -> torch.Tensor:
    """A block whose tasks leave behind the attention product; `streams` are their outputs."""
    height, width = x.shape[1:3]
    shared = x + self._attn(self.norm1(x))
    streams = []
    for rows in self.attn.proj.outputs:
        grid = window_reverse(rows.view(-1, *self.window_size, rows.shape[-1]), self.window_size, height, width)
        streams.append(x + torch.roll(grid, shifts=self.shift_size, dims=(1, 2)))
    mlp = self.mlp
    mlp.fc1.inputs = [self.norm2(stream) for stream in streams]
    hidden = mlp.act(mlp.fc1(self.norm2(shared)))
    mlp.fc2.inputs = [mlp.act(own) for own in mlp.fc1.outputs]
    shared = shared + mlp.fc2(hidden)
    self.streams = [stream + own for stream, own in zip(streams, mlp.fc2.outputs, strict=True)]
    return shared


class WrittenOut(nn.Module):
    """A Swin with these layers, and the heads of all tasks."""

    def __init__(self, backbone: Any, heads: nn.Module, rank: int, task_rank: int, trained: list[str]) -> None:
        """`trained` names the backbone's own weights that are trained."""
        super().__init__()
        self.backbone, self.heads = backbone.requires_grad_(False), heads
        for name in trained:
            backbone.get_parameter(name).requires_grad_(True)
        for stage in backbone.layers:
            for number, block in enumerate(stage.blocks):
                last = number == len(stage.blocks) - 1
                block.attn.qkv = Updated(block.attn.qkv, rank, task_rank, own=False)
                block.attn.proj = Updated(block.attn.proj, rank, task_rank, own=last)
                block.mlp.fc1 = Updated(block.mlp.fc1, rank, task_rank, own=last)
                block.mlp.fc2 = Updated(block.mlp.fc2, rank, task_rank, own=last)
                if last:
                    block.forward = MethodType(last_block, block)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The mean square of what all heads give."""
        x = self.backbone.patch_embed(images)
        maps = []
        for stage in self.backbone.layers:
            x = stage(x)
            maps.append([stream.permute(0, 3, 1, 2) for stream in stage.blocks[-1].streams])
        features = [list(scales) for scales in zip(*maps, strict=True)]
        outputs = [head(scales, images.shape[2:]) for head, scales in zip(self.heads.children(), features, strict=True)]
        return torch.stack([output.square().mean() for output in outputs]).sum()


def main() -> None:
    """Forward and backward of both."""
    parser = arguments("written_out_mtlora", __doc__)
    parser.add_argument("--batch", type=int, default=4, help="images of 224 px")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    backbone = create_backbone("swin_tiny_patch4_window7_224", pretrained=False)
    manager = mtpeft.attach(copy.deepcopy(backbone), "mtlora")
    for task in TASKS:
        manager.add_task(task, head="stage_linear", channels=3)
    config, spec = manager.methods[0].config, METHODS.get("mtlora")
    owned = spec.owned(config, manager.anatomy) if spec.owned is not None else []
    plain = WrittenOut(
        copy.deepcopy(backbone), copy.deepcopy(manager.heads), config.rank, config.task_rank, list(owned)
    )
    counts = [
        sum(p.numel() for p in model.parameters() if p.requires_grad) - sum(p.numel() for p in heads.parameters())
        for model, heads in ((manager, manager.heads), (plain, plain.heads))
    ]
    if counts[0] != counts[1]:
        raise ConfigError(f"mtpeft trains {counts[0]} weights and the layers written out {counts[1]}")
    wake(manager.attachments)
    wake(plain)
    images = torch.randn(options.batch, 3, 224, 224)

    def ours() -> None:
        outputs = manager.forward_tasks(images, list(TASKS)).values()
        torch.stack([output.square().mean() for output in outputs]).sum().backward()

    cases = {"mtpeft": ours, "written out": lambda: plain(images).backward()}
    manager.train()
    plain.train()
    times = interleave(cases, options.repeats)
    row = (*milliseconds(times).values(), ratio(times, "mtpeft", "written out"))
    show(
        f"MTLoRA, Swin-T, {len(TASKS)} tasks, batch {options.batch}",
        {"step": row},
        ("mtpeft ms", "written out ms", "ratio"),
    )
    write(options, {"row": row, "goals": [goal("training step of mtlora / written out", row[-1], 0.95)]})


if __name__ == "__main__":
    main()
