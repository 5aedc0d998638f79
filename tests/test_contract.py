"""The contract of a method: one file of a user's own is enough, and the library names no method outside its file."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mtpeft
from mtpeft.cli.main import main
from mtpeft.methods import METHODS
from mtpeft.testing import check_method, tiny_backbone
from mtpeft.testing.case import Case, images, perturb
from mtpeft.testing.conformance import CHECKS, check_weights

METHOD_FILE = '''
"""A scale per channel on the output of both branches' last layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mtpeft import MethodConfig, Properties, SiteModule, register


@dataclass(frozen=True, kw_only=True)
class GainConfig(MethodConfig):
    """`strength` multiplies what is learned."""

    sites: tuple[str, ...] = ("proj", "fc2")
    strength: float = 1.0


@register("gain", GainConfig, paper="none", taxonomy="reparameter", properties=Properties(inference_efficient=True))
class Gain(SiteModule):
    """y * (1 + strength * g)."""

    def __init__(self, config, site):
        super().__init__(config, site)
        self.strength = config.strength
        self.gain = nn.Parameter(torch.zeros(site.dim_out))

    def forward(self, x, y):
        return y * (1 + self.strength * self.gain)

    def merged(self, weight, bias, **model):
        factor = 1 + self.strength * self.gain
        return weight * factor[:, None], None if bias is None else bias * factor
'''


@pytest.fixture
def gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    file = tmp_path / "gain.py"
    file.write_text(METHOD_FILE)
    spec = importlib.util.spec_from_file_location("gain_method", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    yield "gain"
    METHODS.discard("gain")


def test_a_method_of_ones_own_conforms(gain: str) -> None:
    assert len(METHOD_FILE.splitlines()) <= 80
    assert check_method(gain, ["vit", "swin"]) == ["vit", "swin"]
    for check in CHECKS:
        check(Case(gain, "pvt_v2", {"strength": 0.5, "blocks": (0,)}))


def test_a_method_of_ones_own_is_saved_and_loaded(gain: str, tmp_path: Path) -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), gain, strength=2.0)
    manager.add_task("birds", num_classes=3)
    assert manager.num_trainable("birds", heads=False) == 2 * 2 * 48
    perturb(manager.eval())
    manager.save(tmp_path / "run")
    loaded = mtpeft.load(tmp_path / "run", tiny_backbone("vit")).eval()
    assert torch.equal(loaded(images(2), "birds"), manager(images(2), "birds"))
    METHODS.discard(gain)
    with pytest.raises(mtpeft.MtpeftError, match="unknown method 'gain'"):
        mtpeft.load(tmp_path / "run", tiny_backbone("vit"))


def test_a_file_of_ones_own_is_all_a_run_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Named in a recipe, the method trains a stream, is saved, evaluated and reported; no file of ours is edited."""
    file = tmp_path / "gain.py"
    file.write_text(METHOD_FILE)
    command = ["continual", "fashion_lora", "--out", str(tmp_path / "run")]
    for change in (
        f"imports=['{file}']", "method.name=gain", 'stream.data={"type": "Digits"}', "stream.train_per_class=8",
        "stream.test_per_class=4", "training.epochs=1", "baselines=False", "name=gain",
    ):  # fmt: skip
        command += ["--set", change]
    try:
        assert main(command) == 2  # rank is LoRA's
        assert "method 'gain' takes no option 'rank'" in capsys.readouterr().err
        command[command.index("method.name=gain")] = "method={'name': 'gain', 'strength': 2.0}"
        assert main([*command, "--fresh"]) == 0
        assert main(["evaluate", str(tmp_path / "run"), "--trust-imports"]) == 0
        assert "gain" in (tmp_path / "run/report.html").read_text()
        assert main(["methods", "--names"]) == 0
        assert "gain" in capsys.readouterr().out.split()
    finally:
        METHODS.discard("gain")


def test_a_name_is_registered_once(gain: str) -> None:
    with pytest.raises(mtpeft.MtpeftError, match="method 'gain' is registered twice"):
        mtpeft.register("gain", METHODS.get(gain).config, paper="none", taxonomy="adapter")(METHODS.get(gain).module)


def test_a_method_needs_a_known_place_in_the_taxonomy() -> None:
    with pytest.raises(mtpeft.MtpeftError, match="method 'gain': taxonomy 'adapters' is none of adapter, prompt"):
        mtpeft.register("gain", mtpeft.MethodConfig, paper="none", taxonomy="adapters")(mtpeft.SiteModule)
    assert "gain" not in METHODS


def test_the_taxonomy_is_the_folder() -> None:
    for name in METHODS:
        spec = METHODS.get(name)
        assert spec.module.__module__.split(".")[2] == spec.taxonomy


def test_no_file_names_a_method_but_its_own() -> None:
    """Code, not prose: a quoted name, an import of a method's module, or a class of one.

    A folder of methods is theirs: one may be built on another, and so may what several of them share. The two baselines are
    exempt: evaluation and reports measure others against them, by name.
    """
    package = Path(mtpeft.__file__).parent
    specs = [METHODS.get(name) for name in METHODS if METHODS.get(name).taxonomy != "baseline"]
    homes = {package.joinpath(*spec.module.__module__.split(".")[1:]).with_suffix(".py") for spec in specs}
    folders = {home.parent for home in homes}
    names = "|".join(re.escape(spec.name) for spec in specs)
    modules = "|".join({re.escape(spec.module.__module__) for spec in specs})
    classes = "|".join({c.__name__ for spec in specs for c in (spec.module, spec.config)})
    pattern = re.compile(rf"[\"'](?:{names})[\"']|(?:from|import) +(?:{modules})\b|\b(?:{classes})\b")
    assert (
        len(specs) >= 15
        and package / "methods" not in folders
        and pattern.search('"lora"')
        and pattern.search("from mtpeft.methods.reparameter.lora import LoRA")
    )
    skipped = {"recipes", "tasks"}
    offenders = []
    for file in sorted(package.rglob("*.py")):
        if file.parent in folders or skipped & set(file.relative_to(package).parts):
            continue
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            code = line.split("#")[0]
            if pattern.search(code) and '"""' not in line and "`" not in line:
                offenders.append(f"{file.relative_to(package)}:{number}: {line.strip()}")
    assert not offenders, "\n".join(offenders)


def test_a_wrong_formula_is_named(gain: str) -> None:
    spec = METHODS.get("gain")
    METHODS.discard(gain)
    METHODS.add("gain", replace(spec, weights="2 * L * d"))
    check_weights(Case("gain", "vit"))
    METHODS.discard(gain)
    METHODS.add("gain", replace(spec, weights="L * d"))
    with pytest.raises(AssertionError, match=r"its formula 'L \* d' gives 9216 on ViT-B/16, which has 18432"):
        check_weights(Case("gain", "vit"))
