"""The training loop: name the synthetic category, redraw a thumbnail, predict gradient histograms of the whole image.

A pyramid also predicts the relief of rendered objects. Part of the patches of a plain transformer is left out in each
step: cheaper, and the image must be completed, not copied.
An epoch depends on the seed, its number and the state before it, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import time
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mtpeft.backbones import embedded  # noqa: F401  (registers the models)
from mtpeft.bars import bar
from mtpeft.errors import CheckpointError, ConfigError, UnknownNameError
from mtpeft.files import write_atomic
from mtpeft.pretraining.augment import move, move_relief, paste, recolour
from mtpeft.pretraining.config import PretrainConfig, TrainSection
from mtpeft.pretraining.heads import Batch, build_heads

Backbone = VisionTransformer | SwinTransformer


class Trainer:
    """Model, heads, optimiser and the numbers of the run so far."""

    def __init__(self, config: PretrainConfig, images: Tensor, labels: Tensor) -> None:
        """`images` uint8 (N, 3, S, S), or (N, 4, S, S) with the relief; `labels` int64 (N,)."""
        self.config, self.images, self.labels = config, images, labels
        train = config.train
        torch.manual_seed(config.seed)
        drop = {"patch_drop_rate": train.patch_drop} if train.patch_drop else {}
        self.backbone = build_backbone(config.model, **drop)
        initialise(self.backbone)
        self.heads = build_heads(self.backbone, config.data.size, int(labels.max()) + 1)
        self.modules = nn.ModuleDict({"backbone": self.backbone, "heads": self.heads})
        self.optimizer = _optimizer(self.modules, train)
        self.steps_per_epoch = max(1, len(images) // train.batch_size)
        self.epoch, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []

    def fit(self, checkpoint: Path) -> None:
        """Train the epochs that are left; `checkpoint` is replaced after each of them."""
        while self.epoch < self.config.train.epochs:
            start = time.monotonic()
            self.history.append(self._epoch())
            self.epoch += 1
            self.seconds += time.monotonic() - start
            write_atomic(checkpoint, self._state())

    def restore(self, checkpoint: Path) -> None:
        """Go on from `checkpoint`. Raises `CheckpointError` when it is damaged or belongs to another recipe."""
        try:
            state = torch.load(io.BytesIO(checkpoint.read_bytes()), weights_only=True)
            recipe = state["recipe"]
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{checkpoint} is damaged ({reason}); delete it to start again") from error
        if recipe != self._recipe():
            raise CheckpointError(f"{checkpoint} belongs to another recipe; delete it or choose another output folder")
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.seconds, self.history = state["epoch"], state["seconds"], state["history"]

    def _epoch(self) -> dict[str, float]:
        """One pass over the images; returns the means of the losses and the accuracy on the training batches."""
        train = self.config.train
        torch.manual_seed(self.config.seed * 100_003 + self.epoch)  # the choice of the dropped patches
        generator = torch.Generator().manual_seed(self.config.seed * 100_003 + self.epoch + 50_000)
        order = torch.randperm(len(self.images), generator=generator)
        self.modules.train()
        sums: dict[str, float] = {}
        title = f"epoch {self.epoch + 1}/{train.epochs}"
        progress = bar(range(self.steps_per_epoch), title, "step")
        for step in progress:
            chosen = order[step * train.batch_size : (step + 1) * train.batch_size]
            numbers = self._step(chosen, self.epoch * self.steps_per_epoch + step, generator)
            sums = {key: sums.get(key, 0.0) + value for key, value in numbers.items()}
            progress.set_postfix({key: f"{value / (step + 1):.3f}" for key, value in sums.items()}, refresh=False)
        return {key: value / self.steps_per_epoch for key, value in sums.items()}

    def _step(self, chosen: Tensor, step: int, generator: torch.Generator) -> dict[str, float]:
        train = self.config.train
        batch = self._batch(chosen, generator)
        readings = self.heads.losses(self.backbone, batch, train.label_smoothing)
        weights = {
            "entropy": train.classification,
            "thumbnail": train.thumbnail,
            "gradients": train.gradients,
            "relief": train.relief,
        }
        loss = torch.stack([weights[k] * v for numbers in readings for k, v in numbers.items() if k in weights]).sum()
        for group in self.optimizer.param_groups:
            group["lr"] = train.learning_rate * self._schedule(step)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        self.optimizer.step()
        return {name: value.item() for name, value in readings[-1].items()}

    def _batch(self, chosen: Tensor, generator: torch.Generator) -> Batch:
        train = self.config.train
        stored = self.images[chosen].float() / 255
        relief = None
        if stored.shape[1] == 4:
            layers = move_relief(stored, generator)
            for _ in range(2 if train.paste else 0):
                layers = paste(layers, train.paste, generator)
            moved, relief = layers[:, :3], layers[:, 3]
        else:
            moved = move(stored, generator)
        return Batch(recolour(moved, generator, train.gray), moved, self.labels[chosen], relief)

    def _schedule(self, step: int) -> float:
        """Share of the learning rate: linear warm-up, then half a cosine to zero."""
        total = self.config.train.epochs * self.steps_per_epoch
        warm = max(1, round(self.config.train.warmup * total))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    def _recipe(self) -> str:
        """What must not change between the parts of a resumed run (folders and processes may)."""
        config, train = self.config, self.config.train
        content = [config.model, config.seed, sorted(config.data.categories.items()), config.data.instances, train]
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def _state(self) -> bytes:
        state: dict[str, Any] = {
            "recipe": self._recipe(),
            "modules": self.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "history": self.history,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()


def build_backbone(name: str, **arguments: Any) -> Backbone:
    """A timm model without head and without trained weights."""
    model = timm.create_model(name, num_classes=0, **arguments)
    assert isinstance(model, Backbone)
    return model


def check_model(name: str, train: TrainSection) -> None:
    """Raise `ConfigError` when `name` is not a timm model, or not one that can be trained so."""
    if not timm.is_model(name):
        raise UnknownNameError("model", name, timm.list_models(), "recipe key model")
    model = timm.create_model(name, num_classes=0)
    if not isinstance(model, Backbone):
        raise ConfigError(f"recipe key model: {name} is not a timm VisionTransformer or SwinTransformer")
    plain = isinstance(model, VisionTransformer)
    if train.patch_drop and not plain:
        raise ConfigError(f"recipe key train.patch_drop: {name} cannot leave patches out; set it to 0")
    if train.relief and plain:
        raise ConfigError(f"recipe key train.relief: {name} is no pyramid and predicts no relief; set it to 0")


def initialise(backbone: Backbone) -> None:
    """Uniform Xavier matrices, and a position embedding that starts as sines and cosines of row and column.

    With timm's start (positions of 0.02) the class token takes far longer to learn where in the image something is.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    if isinstance(backbone, SwinTransformer):
        return
    rows, columns = backbone.patch_embed.grid_size
    positions = build_sincos2d_pos_embed([rows, columns], int(backbone.num_features), interleave_sin_cos=False)
    assert backbone.pos_embed is not None
    with torch.no_grad():
        backbone.pos_embed[0, 1:] = positions * 0.5


def _optimizer(modules: nn.Module, train: TrainSection) -> torch.optim.AdamW:
    """Weight decay for matrices and kernels only."""
    groups = [
        {"params": [p for p in modules.parameters() if p.ndim > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in modules.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=(0.9, 0.95), fused=True)
