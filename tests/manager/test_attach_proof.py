"""Attaching proves that it runs: special families work or are refused in one line, and nothing of the proof stays behind."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

import mtpeft
import mtpeft.manager.attach as attaching
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.site import NEEDS, Site
from mtpeft.cli.methods_page import claims
from mtpeft.errors import ConfigError
from mtpeft.methods import METHODS, MethodConfig, SiteModule, register
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import Case, Snapshot
from mtpeft.testing.families import SPECIAL, UNSUPPORTED

NAMES = [name for name in METHODS if METHODS.get(name).module.__module__.startswith("mtpeft.")]
#: {method: where it works}, as the page of methods has it
CLAIMS = claims((Path(__file__).parents[2] / "METHODS.md").read_text(encoding="utf-8"))


def one_line(error: BaseException, method: str, backbone: nn.Module) -> None:
    message = str(error)
    assert "\n" not in message and method in message and type(backbone).__name__ in message
    assert not any(word in message for word in ("site '", "Did you mean", "Error", "object has no attribute")), message


@pytest.mark.parametrize("family", SPECIAL)
def test_special_families_work_or_are_refused_in_one_line(family: str) -> None:
    torch.manual_seed(0)
    backbone: Any = SPECIAL[family]()
    before = Snapshot(backbone, Case("lora", "vit"))
    refused = set()
    for method in NAMES:
        case = Case(method, "vit")
        try:
            manager = mtpeft.attach(backbone, method, **case.all_options)
        except ConfigError as error:
            one_line(error, method, backbone)
            refused.add(method)
        else:
            case.add_task(manager, "birds", num_classes=3)
            manager.train()
            output = manager(case.inputs(2), "birds")
            assert output.shape == (2, 3) and output.isfinite().all()
            output.sum().backward()
            manager.detach()
    before.compare(backbone, "after all of that")
    assert refused == {name for name in NAMES if family not in CLAIMS[name]}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_models_are_told_what_is_supported(name: str) -> None:
    backbone = timm.create_model(name, num_classes=0)
    with pytest.raises(ConfigError, match=r"is not supported: .*; supported are timm's ViT") as error:
        mtpeft.attach(backbone, ["lora", "ssf"])
    assert "'lora' and 'ssf'" in str(error.value) and "\n" not in str(error.value)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())


#: parts of the backbone that a method is kept to, or from
PARTS: list[dict[str, Any]] = [{"blocks": (0,)}, {"blocks": (-1,)}, {"exclude": ("proj", "parallel_mlp_ln", "qkv")}]


@pytest.mark.parametrize("anatomy", ["vit", "swin"])
@pytest.mark.parametrize("method", NAMES)
def test_a_part_of_the_backbone_works_or_is_refused_in_words(method: str, anatomy: str) -> None:
    backbone: Any = tiny_backbone(anatomy)
    for part in PARTS:
        case = Case(method, anatomy, part)
        try:
            manager = mtpeft.attach(backbone, method, **case.all_options)
        except ConfigError as error:
            assert method in str(error) and not re.search(r"Error|\n", str(error)), str(error)
        else:
            case.add_task(manager, "birds", num_classes=3)
            manager(case.inputs(2), "birds").sum().backward()
            manager.detach()


@pytest.mark.slow
@pytest.mark.parametrize("anatomy", ["vit", "swin", "pvt_v2"])
@pytest.mark.parametrize("method", NAMES)
def test_every_method_at_every_kind_of_site_works_or_is_refused(method: str, anatomy: str) -> None:
    """No method may fail later at a site that it took."""
    backbone: Any = tiny_backbone(anatomy)
    kinds = sorted(Anatomy(backbone).kinds)
    for kind in kinds:
        case = Case(method, anatomy, {"sites": (kind,)})
        try:
            manager = mtpeft.attach(backbone, method, **case.all_options)
        except ConfigError as error:
            assert method in str(error) and "\n" not in str(error)
        else:
            case.add_task(manager, "birds", num_classes=3)
            manager(case.inputs(2), "birds").sum().backward()
            manager.detach()


def test_matrix_methods_need_a_matrix() -> None:
    backbone = tiny_backbone("vit")
    for method, kind in [("lora", "norm1"), ("lora", "final_norm"), ("lora", "patch_embed"), ("ln_tune", "fc1")]:
        with pytest.raises(
            ConfigError, match=rf"'{method}' cannot be attached to VisionTransformer: site '{kind}' is not"
        ):
            mtpeft.attach(backbone, method, sites=(kind,))
    with pytest.raises(ConfigError, match=r"'fact_tt' cannot be attached .* it acts on q, k, v"):
        mtpeft.attach(backbone, "fact_tt", sites=("norm1",))


@dataclass(frozen=True, kw_only=True)
class WrongConfig(MethodConfig):
    """`fault`: what the module does wrong."""

    sites: tuple[str, ...] = ("after_mlp",)
    fault: str = "raises"


def wrong(name: str) -> type[SiteModule]:
    class Wrong(SiteModule):
        def __init__(self, config: WrongConfig, site: Site) -> None:
            super().__init__(config, site)
            self.fault, self.weight = config.fault, nn.Parameter(torch.ones(site.dim))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            if self.fault == "raises":
                raise RuntimeError("two\nlines")
            return y * self.weight.detach() if self.fault == "detached" else y[:, :1] * self.weight

    return register(name, type(f"{name}Config", (WrongConfig,), {}), paper="none", taxonomy="adapter")(Wrong)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raises", "RuntimeError two$"),
        ("detached", r"the features do not depend on its weights sites\.blocks-0-drop_path2-after_mlp\.weight"),
    ],
)
def test_faults_of_a_method_are_found_at_attach(fault: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    wrong("wrong")
    backbone = tiny_backbone("vit").train()
    before = Snapshot(backbone, Case("lora", "vit"))
    with pytest.raises(ConfigError, match=f"'wrong' cannot be attached to VisionTransformer: {words}"):
        mtpeft.attach(backbone, "wrong", fault=fault)
    before.compare(backbone, "after a refused attach")


SHARINGS = [("lora", "per_task"), ("lora", "shared"), ("adaptformer", "hyperformer"), ("adaptformer", "polyhistor")]


@pytest.mark.parametrize(("method", "sharing"), [*SHARINGS, ("vmt_adapter", "split"), ("aim", "per_task")])
def test_the_proof_leaves_nothing_behind(method: str, sharing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, random states and modes are those of an attach without the probing forward."""
    seen = []
    for proof in (attaching.prove, lambda manager: None):
        monkeypatch.setattr(attaching, "prove", proof)
        torch.manual_seed(3)
        random.seed(3)
        backbone = tiny_backbone("vit").train()
        manager = mtpeft.attach(backbone, method, sharing=sharing)
        modes = [module.training for module in manager.modules()]
        empty = manager.state_dict()
        states = torch.get_rng_state(), random.getstate()
        manager.add_task("birds", num_classes=3)
        seen.append((modes, empty, states, manager.state_dict(), manager.tasks, manager.runtime.context is not None))
    proved, plain = seen
    assert proved[0] == plain[0] and proved[4:] == plain[4:]
    assert torch.equal(proved[2][0], plain[2][0]) and proved[2][1] == plain[2][1]
    for position in (1, 3):
        torch.testing.assert_close(dict(proved[position]), dict(plain[position]), atol=0, rtol=0)


def test_needs_are_words_for_kinds_that_exist() -> None:
    kinds = {kind for family in ("vit", "swin", "pvt_v2", "beit") for kind in Anatomy(tiny_backbone(family)).kinds}
    assert set(NEEDS) <= kinds


def test_a_saved_folder_and_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, depth=1)
    save_for_hf(model, tmp_path, model_args={"img_size": 64, "depth": 1}, safe_serialization=True)
    manager = mtpeft.attach(f"local-dir:{tmp_path}", "lora")
    torch.testing.assert_close(manager.backbone.state_dict(), model.state_dict(), atol=0, rtol=0)
    asked = []

    def offline(name: str, **_: Any) -> Any:
        asked.append(name)
        raise OSError("the hub cannot be reached\nand more")

    monkeypatch.setattr("timm.models._factory.load_model_config_from_hf", offline)
    with pytest.raises(ConfigError) as error:
        mtpeft.attach("hf-hub:timm/vit_tiny_patch16_224.augreg_in21k", "lora")
    assert asked == ["timm/vit_tiny_patch16_224.augreg_in21k"]
    assert "OSError the hub cannot be reached" in str(error.value) and "\n" not in str(error.value)
    for name, words in {
        "timm/vit_tiny_patch16_224": "Use 'hf-hub:timm/vit_tiny_patch16_224'",
        "local-dir:/nowhere": "model 'local-dir:/nowhere' cannot be created",
        "ftp:model": "Unknown model source 'ftp'",
    }.items():
        with pytest.raises(ConfigError, match=words) as error:
            mtpeft.create_backbone(name)
        assert "\n" not in str(error.value)


def test_compiled_models_are_refused() -> None:
    model = tiny_backbone("vit")
    with pytest.raises(ConfigError, match=r"VisionTransformer: it is compiled, .* attach to the model itself"):
        mtpeft.attach(torch.compile(model, backend="eager"), "lora")  # type: ignore[arg-type]
    assert mtpeft.attach(model, "lora").detach() is model


@pytest.mark.parametrize(("method", "path"), [("vpt_deep", "blocks.1"), ("prefix_tuning", "blocks.0.attn")])
def test_a_forward_that_something_else_has_replaced_is_not_replaced_again(method: str, path: str) -> None:
    """It would be bypassed while the method is there, and gone with it; the patched model stays as it is."""
    model, x = tiny_backbone("vit").eval(), torch.zeros(2, 3, 64, 64)
    module: Any = model.get_submodule(path)
    native = module.forward
    module.forward = lambda *args, **kwargs: 2 * native(*args, **kwargs)
    before = model(x)
    with pytest.raises(ConfigError, match=r"replaced the forward of .*: attach first"):
        mtpeft.attach(model, method)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    assert "lambda" in module.forward.__qualname__
