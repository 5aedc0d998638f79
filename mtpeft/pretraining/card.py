"""The card of an embedded backbone: where its weights come from and what its frozen features are worth."""

from __future__ import annotations

from dataclasses import dataclass

from mtpeft.pretraining.config import PretrainConfig
from mtpeft.pretraining.dense_probe import MEASURES

TEMPLATE = """# {model}

A {kind} for {size} x {size} images, trained from synthetic images only. This card is written by `tools/pretrain.py`.

- **Load**: `import mtpeft.backbones.embedded, timm; timm.create_model("{model}", pretrained=True)`
- **Input normalisation**: mean {mean}, standard deviation {std} on values in [0, 1], three channels (repeat a gray one)
- **File**: `{model}.safetensors`, {bytes:,} bytes, {parameters:,} parameters in fp16
- **SHA-256**: {sha256}

## Data
{images:,} images of {categories} generated categories ({families}), {instances} images each.
Fractals, contours, part assemblies, textures and line drawings come from formulas (`mtpeft/data/fractals.py`,
`mtpeft/data/patterns.py`), objects are pybullet's, rendered from random views (`mtpeft/data/rendered.py`).
{objects}No photograph, no digit and no garment is among them.

## Training
- **Command**: `{command}`
- **Recipe**: seed {seed}, {epochs} epochs of {steps} steps of {batch_size} images, AdamW, learning rate {learning_rate},
  weight decay {weight_decay}, {patch_drop:.0%} of the patches left out; all other values are in the recipe
- **Loss**: {loss}
- **Last epoch, training images**: {history}
- **Duration**: {minutes:.1f} minutes of training (data generation not counted) with {threads} CPU thread(s), torch {torch}

## Frozen features
Accuracy of a logistic regression on the {output}, on data that the training never saw (a linear probe).
Random weights: the same network as timm initialises it, mean of the seeds {random_seeds} (lowest to highest).

| data | images to fit / test | these weights | random weights | raw pixels |
|---|---|---|---|---|
{rows}
"""

DENSE = """
## Frozen maps
Linear regression (a 1 x 1 convolution) from the maps of all stages, enlarged to one grid of 4 x 4 pixels, to the labels
of rendered scenes averaged over the same cells: {fitted} scenes to fit, {tested} scenes of other objects to test.
None of their objects and robots is among the images of the training. Raw pixels: the same from the pixels of the cell.

| label | measure | these weights | random weights | raw pixels |
|---|---|---|---|---|
{rows}
"""

RANDOM_OBJECTS = """Of pybullet's objects only the random ones 000 to {last:03d} are among them, no robot and no other
named object, so that scenes made of others are new to these weights.
"""
LOSSES = {
    "classification": "cross-entropy over the categories",
    "thumbnail": "redrawn thumbnail",
    "gradients": "gradient histograms",
    "relief": "relief of the objects",
}


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies in [0, 1] on one data set; `random` has one per seed."""

    name: str
    fitted: int
    tested: int
    trained: float
    random: tuple[float, ...]
    pixels: float


@dataclass(frozen=True)
class DenseResult:
    """Measures of the linear regression by task, in the units of `dense_probe.MEASURES`; `random` has one per seed."""

    fitted: int
    tested: int
    trained: dict[str, float]
    random: tuple[dict[str, float], ...]
    pixels: dict[str, float]


def write_card(
    config: PretrainConfig,
    facts: dict[str, object],
    history: dict[str, float],
    probes: list[ProbeResult],
    dense: DenseResult | None,
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
    weights = {name: getattr(config.train, name) for name in LOSSES}
    values["loss"] = " + ".join(f"{weight} x {LOSSES[name]}" for name, weight in weights.items() if weight)
    categories = config.data.categories
    only_random = categories.get("random_objects", 0) and not categories.get("objects", 0)
    values["objects"] = RANDOM_OBJECTS.format(last=categories["random_objects"] - 1) if only_random else ""
    return TEMPLATE.format(**values) + (_dense(dense) if dense is not None else "")


def _dense(result: DenseResult) -> str:
    rows = []
    for task, measure in MEASURES.items():
        values = [numbers[task] for numbers in result.random]
        spread = f"{sum(values) / len(values):.3g} ({min(values):.3g} to {max(values):.3g})"
        rows.append(f"| {task} | {measure} | {result.trained[task]:.3g} | {spread} | {result.pixels[task]:.3g} |")
    return DENSE.format(fitted=result.fitted, tested=result.tested, rows="\n".join(rows))


def _row(probe: ProbeResult) -> str:
    mean = sum(probe.random) / len(probe.random)
    spread = f"{mean:.1%} ({min(probe.random):.1%} to {max(probe.random):.1%})"
    return f"| {probe.name} | {probe.fitted} / {probe.tested} | {probe.trained:.1%} | {spread} | {probe.pixels:.1%} |"
