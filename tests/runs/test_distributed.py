"""What one process can see of several: whose rows are whose, and what a device must be; test_*_distributed.py run several."""

from __future__ import annotations

from itertools import chain

import pytest
import torch

from mtpeft.errors import ConfigError
from mtpeft.runs import distributed


@pytest.mark.parametrize("at_least", [1, 2])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_rows_are_shared_out(world: int, at_least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, all of them, about equally; no share of one row where two are needed."""
    monkeypatch.setattr(distributed, "world", lambda: world)
    for number in range(at_least, 20):
        shares = []
        for rank in range(world):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            shares.append(list(distributed.own_rows(number, at_least)))
        assert list(chain.from_iterable(shares)) == list(range(number))
        lengths = [len(share) for share in shares if share]
        assert min(lengths) >= at_least and max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda:1", "device=cuda is a GPU for each"), ("mps", "device mps is for one process")],
)
def test_devices_that_processes_cannot_share(device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match=message):
        distributed.start(torch.device(device))


def test_torchrun_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    for key in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(ConfigError, match="torchrun did not start this process"):
        distributed.start(torch.device("cpu"))
