"""Which device a run takes."""

from __future__ import annotations

import pytest
import torch

from mtpeft.errors import ConfigError
from mtpeft.runs.device import usable_device


def gpus(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool = False) -> list[torch.device]:
    """A machine with so many GPUs; returns the list of those that were chosen."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    return chosen


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA before Apple's GPU before the CPU; processes of torchrun take a GPU each, unless one is named."""
    chosen = gpus(monkeypatch, 0)
    assert usable_device("auto", "small") == torch.device("cpu")
    gpus(monkeypatch, 0, mps=True)
    assert usable_device("auto", "small") == torch.device("mps")
    chosen = gpus(monkeypatch, 2, mps=True)
    assert usable_device("auto", "small") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert usable_device("auto", "small") == usable_device("cuda", "small") == torch.device("cuda", 1)
    assert usable_device("cuda:0", "small") == torch.device("cuda", 0)
    assert [device.index for device in chosen] == [0, 1, 1, 0]
    assert usable_device("cpu", "small") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "cuda", "message"),
    [
        ("cuda", 0, r"recipe small: device is 'cuda', but torch sees no GPU here; use device=cpu"),
        ("mps", 0, r"recipe small: device is 'mps', but torch sees no GPU here"),
        ("cuda:4", 2, r"recipe small: device is 'cuda:4', but torch sees 2 here"),
        ("gpu", 0, r"recipe small: device is 'gpu': "),
        (3.5, 0, r"recipe small: device is 3.5: "),
    ],
)
def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch, name: str, cuda: int, message: str) -> None:
    gpus(monkeypatch, cuda)
    with pytest.raises(ConfigError, match=message) as caught:
        usable_device(name, "small")
    assert "\n" not in str(caught.value)


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="a process wants GPU 2, but torch sees 2 here"):
        usable_device("auto", "small")
