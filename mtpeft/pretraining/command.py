"""`tools/pretrain.py RECIPE [--set a.b=c]`: data, training, weights file, probe, card."""

from __future__ import annotations

import argparse
import ast
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from mmengine.config import Config
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer

from mtpeft.errors import ConfigError, MtpeftError, UnknownNameError
from mtpeft.files import sha256, write_atomic
from mtpeft.pretraining import dense_probe, probe
from mtpeft.pretraining.card import DenseResult, ProbeResult, write_card
from mtpeft.pretraining.config import PretrainConfig, parse
from mtpeft.pretraining.synthetic import load_synthetic
from mtpeft.pretraining.trainer import Trainer, build_backbone, check_model

MAX_BYTES = 12 * 2**20
"""The largest weights file that goes into the package."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (2 for a mistake of the user, after one line on stderr)."""
    parser = argparse.ArgumentParser(prog="pretrain.py", description="Make an embedded backbone from a recipe.")
    parser.add_argument("recipe", help="a recipe file, for example recipes/pretrain/vit_mini.py")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change recipe values"
    )
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(words)
    try:
        config = read_recipe(options.recipe, options.set)
        weights = pretrain(config, shlex.join(["python", "tools/pretrain.py", *words]))
    except MtpeftError as error:
        print(f"mtpeft: {error}", file=sys.stderr)
        return 2
    print(f"{weights}\n{weights.with_suffix('.md')}")
    return 0


def read_recipe(path: str | Path, changes: Sequence[str] = ()) -> PretrainConfig:
    """Open a recipe and apply `a.b=c` changes, c in Python notation or a plain word. Raises `ConfigError`."""
    if not Path(path).is_file():
        raise ConfigError(f"there is no recipe file {path}")
    try:
        values: dict[str, Any] = Config.fromfile(str(path)).to_dict()
    except (SyntaxError, OSError, ValueError, NameError) as error:
        raise ConfigError(f"{path} is not a recipe: {error}") from error
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"--set {change}: write KEY=VALUE")
        *parents, last = key.split(".")
        section = values
        for parent in parents:
            section = section.get(parent, {}) if isinstance(section, dict) else {}
        if last not in section:
            raise UnknownNameError("recipe key", key, _keys(values), f"--set {change}")
        section[last] = _value(text)
    return parse(values, str(path))


def pretrain(config: PretrainConfig, command: str) -> Path:
    """Train (or go on training), then write `MODEL.safetensors` and `MODEL.md`; returns the path of the weights.

    `command` is only quoted in the card. The state of an unfinished run is `MODEL.resume.pt` in the output folder.
    """
    folder = Path(config.output).expanduser()
    check_model(config.model, config.train)
    torch.set_num_threads(config.train.threads)
    probes = _probe_data(config)
    scenes = None
    if config.probe.scenes is not None:
        scenes = dense_probe.scenes(*config.probe.scenes, config.data.size, config.data.cache)
    images, labels = load_synthetic(config.data, config.seed)
    trainer = Trainer(config, torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))
    checkpoint = folder / f"{config.model}.resume.pt"
    if checkpoint.exists():
        trainer.restore(checkpoint)
        print(f"going on after epoch {trainer.epoch} of {checkpoint}")
    trainer.fit(checkpoint)
    half = {name: value.half().contiguous() for name, value in trainer.backbone.state_dict().items()}
    content = save(half)
    plain = isinstance(trainer.backbone, VisionTransformer)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"the weights of {config.model} take {len(content):,} bytes, more than {MAX_BYTES:,}")
    stored = build_backbone(config.model)
    stored.load_state_dict(half)  # the probe measures what the file holds, rounding included
    results = [_measure(config, stored, data) for data in probes]
    dense = None if scenes is None else _measure_maps(config, stored, scenes)
    facts = {
        "command": command,
        "kind": "ViT" if plain else "Swin",
        "output": "class token" if plain else "mean of the last map",
        "bytes": len(content),
        "sha256": sha256(content),
        "parameters": sum(value.numel() for value in half.values()),
        "mean": timm.get_pretrained_cfg_value(config.model, "mean"),
        "std": timm.get_pretrained_cfg_value(config.model, "std"),
        "images": len(images),
        "steps": trainer.steps_per_epoch,
        "minutes": trainer.seconds / 60,
        "torch": torch.__version__.partition("+")[0],
    }
    weights = folder / f"{config.model}.safetensors"
    write_atomic(weights, content)
    write_atomic(weights.with_suffix(".md"), write_card(config, facts, trainer.history[-1], results, dense))
    checkpoint.unlink()
    return weights


def _probe_data(config: PretrainConfig) -> list[probe.ProbeData]:
    """Read before the training starts, so that a missing folder shows at once."""
    data = [probe.digits()]
    if config.probe.fashion_mnist is not None:
        data.append(probe.fashion_mnist(config.probe.fashion_mnist))
    return data


def _measure(config: PretrainConfig, trained: torch.nn.Module, data: probe.ProbeData) -> ProbeResult:
    inputs = probe.to_input(data.images, config.data.size)
    random = [probe.accuracy(probe.features(untrained, inputs), data) for untrained in _untrained(config)]
    return ProbeResult(
        name=data.name,
        fitted=data.fitted,
        tested=len(data.labels) - data.fitted,
        trained=probe.accuracy(probe.features(trained, inputs), data),
        random=tuple(random),
        pixels=probe.accuracy(data.images.reshape(len(data.images), -1).astype(float), data),
    )


def _measure_maps(config: PretrainConfig, trained: torch.nn.Module, data: dense_probe.DenseData) -> DenseResult:
    def regress(model: torch.nn.Module) -> dict[str, float]:
        return dense_probe.measure(dense_probe.map_features(model, data.images), data)

    return DenseResult(
        fitted=data.fitted,
        tested=len(data.images) - data.fitted,
        trained=regress(trained),
        random=tuple(regress(untrained) for untrained in _untrained(config)),
        pixels=dense_probe.measure(dense_probe.patches(data.images), data),
    )


def _untrained(config: PretrainConfig) -> Iterator[torch.nn.Module]:
    """The network as timm initialises it, once per seed of the recipe."""
    for seed in config.probe.random_seeds:
        torch.manual_seed(seed)
        yield build_backbone(config.model)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _keys(values: dict[str, Any], prefix: str = "") -> list[str]:
    """All dotted keys."""
    keys = []
    for key, value in values.items():
        keys.append(prefix + key)
        if isinstance(value, dict):
            keys += _keys(value, f"{prefix}{key}.")
    return keys
