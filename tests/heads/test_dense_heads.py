from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from mtpeft.backbones.stages import Scales, Stage
from mtpeft.errors import ConfigError, UnknownNameError
from mtpeft.heads import HEADS, mmlab
from mtpeft.heads.build import head_options

SMALL = {"embed_dim": 16}
OPTIONS = {
    "fcn": SMALL,
    "segformer": SMALL,
    "uper": SMALL,
    "setr": SMALL,
    "segmenter": {"embed_dim": 12, "num_layers": 1},
    "dpt": SMALL,
    "hrnet": {"widths": (4, 4, 8, 8)},
    "mmseg": {"config": {"type": "ASPPHead", "channels": 8, "dilations": (1, 2)}},
}
BACKBONES = {
    "pyramid": ([Stage(8, 4, 1), Stage(16, 8, 3), Stage(32, 16, 5), Stage(64, 32, 7)], 64),
    "merged": ([Stage(16, 8, 1), Stage(32, 16, 3), Stage(64, 32, 5), Stage(64, 32, 7)], 64),
    "plain": ([Stage(24, 8, b) for b in (2, 5, 8, 11)], 48),
    "padded": ([Stage(8, 4, 1), Stage(16, 8, 3), Stage(32, 16, 5), Stage(64, 32, 7)], 50),
}


def maps(stages, side: int, batch: int = 2) -> list[torch.Tensor]:
    return [torch.randn(batch, s.dim, -(-side // s.stride), -(-side // s.stride)) for s in stages]


def make(name: str, backbone: str, channels: int, **options) -> nn.Module:
    stages, side = BACKBONES[backbone]
    return HEADS.get(name)(Scales(stages, (side, side)), **head_options(name, {"channels": channels, **options}))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", OPTIONS)
def test_output_at_image_size_and_every_weight_trained(name, backbone):
    stages, side = BACKBONES[backbone]
    for channels in (1, 2, 5):
        head = make(name, backbone, channels, **OPTIONS[name]).train()
        out = head(maps(stages, side))
        assert out.shape == (2, channels, side, side)
        out.square().sum().backward()
        still = [n for n, p in head.named_parameters() if p.grad is None]
        assert not still, still
        if channels == 1:  # a single output must be able to differ between pixels
            assert out.std() > 0


@pytest.mark.parametrize("name", OPTIONS)
def test_other_image_sizes(name):
    stages, side = BACKBONES["pyramid"]
    head = make(name, "pyramid", 3, **OPTIONS[name]).eval()
    assert head(maps(stages, side * 2)).shape == (2, 3, side * 2, side * 2)


@pytest.mark.parametrize("name", ["segformer", "segmenter", "dpt"])
def test_one_output_learns_arbitrary_values(name):
    torch.manual_seed(0)
    stages, side = BACKBONES["plain"]
    head = make(name, "plain", 1, **OPTIONS[name]).eval()
    inputs = maps(stages, side, batch=1)
    target = 4 + 3 * torch.sign(torch.randn(1, 1, 6, 6)).repeat_interleave(8, 2).repeat_interleave(8, 3)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = (head(inputs) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_published_counts_of_four_tasks():
    """Swin-T, PASCAL-Context: 21 classes, 7 parts, saliency, normals. Published: 2.55 M and 1.94 M."""
    swin = [Stage(96 * 2**i, 4 * 2**i, 0) for i in range(4)]
    merged = [Stage(192, 8, 0), Stage(384, 16, 0), Stage(768, 32, 0), Stage(768, 32, 0)]

    def count(name: str, stages) -> int:
        kind = HEADS.get(name)
        heads = [kind(Scales(stages, (224, 224)), channels=c) for c in (21, 7, 1, 3)]
        return sum(p.numel() for head in heads for p in head.parameters())

    segformer = sum((1440 + 2 * 4 + 4 * 256 + 2) * 256 + 257 * c for c in (21, 7, 1, 3))
    assert count("segformer", swin) == segformer
    assert 2.54e6 <= segformer <= 2.55e6
    assert count("hrnet", merged) == 1_946_624


def test_plain_taps_are_resampled_like_the_neck():
    from mtpeft.heads.decode import as_pyramid
    from mtpeft.heads.mmlab import mmseg

    taps = [torch.randn(1, 4, 6, 6) for _ in range(4)]
    resize = mmseg("mmseg.models.utils").resize
    for scale, tap, got in zip((4, 2, 1, 0.5), taps, as_pyramid(taps), strict=True):
        assert torch.allclose(got, resize(tap, scale_factor=scale, mode="bilinear"), atol=1e-6)


def test_norm_can_be_chosen():
    head = make("segformer", "pyramid", 3, embed_dim=16, norm_cfg={"type": "GN", "num_groups": 4})
    kinds = {type(m) for m in head.modules()}
    assert nn.GroupNorm in kinds and nn.BatchNorm2d not in kinds
    assert nn.BatchNorm2d in {type(m) for m in make("segformer", "pyramid", 3, embed_dim=16).modules()}


def test_dpt_readouts():
    stages, side = BACKBONES["plain"]
    for readout in ("add", "project"):
        head = make("dpt", "plain", 3, embed_dim=8, readout=readout)
        assert head(maps(stages, side)).shape == (2, 3, side, side)
    with pytest.raises(ConfigError, match="readout='add' is for plain"):
        make("dpt", "pyramid", 3, embed_dim=8, readout="add")


def test_building_leaves_no_trace_of_the_trial():
    torch.manual_seed(3)
    head = make("segmenter", "plain", 3, **OPTIONS["segmenter"])
    assert {p.device.type for p in head.parameters()} == {"cpu"}
    assert head.training


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "FCNHed", "channels": 8}, "unknown type 'FCNHed'.*Did you mean 'FCNHead'"),
        ({"type": "FCNHead", "channels": 8, "colour": 1}, "mmseg.FCNHead: .*colour"),
        ({"type": "FCNHead", "channels": 8, "in_index": 7}, "in_index=7, and the backbone has 4 stages"),
        (
            {"type": "mmseg.PSAHead", "channels": 8, "mask_size": (2, 2)},
            "PSAHead.*(compiled operators|PSAMask ops)",
        ),
        (
            {"type": "mmseg.PointHead", "channels": 8, "in_index": [0], "in_channels": [8]},
            "PointHead.*(does not work alone|point_sample ops)",
        ),
    ],
)
def test_heads_that_cannot_serve_say_so(config, message):
    with pytest.raises(ConfigError, match=message) as error:
        make("mmseg", "pyramid", 3, config=config)
    assert "\n" not in str(error.value)


def test_unknown_head_type_is_an_unknown_name():
    with pytest.raises(UnknownNameError):
        make("mmseg", "pyramid", 3, config={"type": "Nothing"})


@pytest.mark.parametrize(
    ("name", "channels", "options", "message"),
    [
        ("hrnet", 0, {}, "channels is 0, expected a whole number from 1"),
        ("hrnet", 1, {"widths": (4, 8)}, "2 widths, and the backbone gives 4 scales"),
        ("setr", 1, {"up_scale": 1}, "up_scale is 1, expected a whole number from 2"),
        ("segmenter", 1, {"embed_dim": 10, "num_heads": 3}, "embed_dim=10 is not a multiple of num_heads=3"),
    ],
)
def test_wrong_options(name, channels, options, message):
    with pytest.raises(ConfigError, match=message):
        make(name, "pyramid", channels, **options)


def test_heads_build_under_the_default_scope_of_a_runner():
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmengine"):
        head = make("uper", "pyramid", 3, embed_dim=8)
    assert head(maps(BACKBONES["pyramid"][0], 64)).shape == (2, 3, 64, 64)


def test_mmseg_is_imported_when_needed_and_its_absence_names_the_extra():
    code = """
        import sys
        from mtpeft.backbones.stages import Scales, Stage
        import mtpeft.dense
        from mtpeft.errors import ConfigError
        from mtpeft.heads import HEADS
        assert "mmseg" not in sys.modules and "mmcv" not in sys.modules
        for name in ("mmseg", "mmcv"):
            sys.modules[name] = None  # what Python keeps for a module that cannot be imported
        scales = Scales([Stage(8, 4, 0), Stage(8, 8, 1), Stage(8, 16, 2), Stage(8, 32, 3)], (32, 32))
        HEADS.get("hrnet")(scales, channels=3)  # ours: needs no extra
        try:
            HEADS.get("fcn")(scales, channels=3)
        except ConfigError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mtpeft[dense]" in done.stdout


def test_a_config_names_registered_modules_alone(tmp_path: Path) -> None:
    """MMEngine would import anything else by its name and call it."""
    file = tmp_path / "executed"
    inner = {"type": "pathlib.Path.touch", "self": str(file)}
    for config in (
        {"type": "FCNHead", "norm_cfg": {"type": "os.system", "command": f"touch {file}"}},
        {"type": "FCNHead", "loss_decode": [{"type": "mmseg.CrossEntropyLoss"}, inner]},
        {"type": "FCNHead", "sampler": {"type": "subprocess.Popen", "args": ["touch", str(file)]}},
        {"type": "FCNHead", "init_cfg": {"type": "Normal", "override": {"type": "builtins.exec", "name": "x"}}},
    ):
        with pytest.raises(UnknownNameError, match=r"unknown type '[a-z]+\."):
            mmlab.build({"in_channels": 8, "channels": 8, "num_classes": 2, **config})
    assert not file.exists()
