"""The card of an embedded backbone: where its weights come from and what its frozen features are worth."""

from __future__ import annotations

from dataclasses import dataclass

from mtpeft.pretraining.config import PretrainConfig

TEMPLATE = """# {model}

A ViT for {size} x {size} images, trained from synthetic images only. This card is written by `tools/pretrain.py`.

- **Load**: `import mtpeft.backbones.embedded, timm; timm.create_model("{model}", pretrained=True)`
- **Input normalisation**: mean {mean}, standard deviation {std} on values in [0, 1], three channels (repeat a gray one)
- **File**: `{model}.safetensors`, {bytes:,} bytes, {parameters:,} parameters in fp16
- **SHA-256**: {sha256}

## Data
{images:,} images of {categories} generated categories ({families}), {instances} images each.
Fractals, contours, part assemblies, textures and line drawings come from formulas (`mtpeft/data/fractals.py`,
`mtpeft/data/patterns.py`), objects are pybullet's, rendered from random views (`mtpeft/data/rendered.py`).
No photograph, no digit and no garment is among them.

## Training
- **Command**: `{command}`
- **Recipe**: seed {seed}, {epochs} epochs of {steps} steps of {batch_size} images, AdamW, learning rate {learning_rate},
  weight decay {weight_decay}, {patch_drop:.0%} of the patches left out; all other values are in the recipe
- **Loss**: {classification} x cross-entropy over the categories + {thumbnail} x redrawn thumbnail + {gradients} x gradient histograms
- **Last epoch, training images**: {history}
- **Duration**: {minutes:.1f} minutes of training (data generation not counted) with {threads} CPU thread(s), torch {torch}

## Frozen features
Accuracy of a logistic regression on the class token, on data that the training never saw (a linear probe).
Random weights: the same network as timm initialises it, mean of the seeds {random_seeds} (lowest to highest).

| data | images to fit / test | these weights | random weights | raw pixels |
|---|---|---|---|---|
{rows}
"""  # noqa: E501


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies in [0, 1] on one data set; `random` has one per seed."""

    name: str
    fitted: int
    tested: int
    trained: float
    random: tuple[float, ...]
    pixels: float


def write_card(
    config: PretrainConfig, facts: dict[str, object], history: dict[str, float], probes: list[ProbeResult]
) -> str:
    """The card as Markdown. `facts` are the measured values that the template names and the recipe does not hold."""
    values: dict[str, object] = {**vars(config.train), **vars(config.data), **facts}
    values |= {
        "model": config.model,
        "seed": config.seed,
        "random_seeds": ", ".join(map(str, config.probe.random_seeds)),
    }
    values["categories"] = sum(config.data.categories.values())
    values["families"] = ", ".join(f"{count} {family}" for family, count in config.data.categories.items())
    values["history"] = ", ".join(f"{name} {value:.3f}" for name, value in history.items())
    values["rows"] = "\n".join(_row(probe) for probe in probes)
    return TEMPLATE.format(**values)


def _row(probe: ProbeResult) -> str:
    mean = sum(probe.random) / len(probe.random)
    spread = f"{mean:.1%} ({min(probe.random):.1%} to {max(probe.random):.1%})"
    return f"| {probe.name} | {probe.fitted} / {probe.tested} | {probe.trained:.1%} | {spread} | {probe.pixels:.1%} |"
