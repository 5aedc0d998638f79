"""How many threads a run takes, and that waiting ones sleep."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtpeft.runs import threads
from mtpeft.runs.threads import set_threads, suitable_threads, usable_cores


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing of threads."""
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 8),
        ({"cpu.max": "what is this"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_cores_within_a_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    """A container's limit counts, by either version of cgroups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("environment", "workers", "expected"),
    [
        ({}, 0, 8),
        ({}, 3, 5),
        ({}, 20, 1),
        ({"OMP_NUM_THREADS": "2"}, 0, 0),
        ({"LOCAL_WORLD_SIZE": "2"}, 1, 3),
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}, 0, 4),
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "3", "TORCHELASTIC_RUN_ID": "none"}, 0, 0),
        ({"LOCAL_WORLD_SIZE": "16", "OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}, 0, 1),
    ],
)
def test_threads_of_a_run(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], workers: int, expected: int
) -> None:
    """Cores are shared by processes and workers; OMP_NUM_THREADS holds unless it is torchrun's own."""
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert suitable_threads(workers) == expected


def test_the_recipes_number_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    now = torch.get_num_threads()
    set_threads(now + 2, workers=1)
    set_threads(now, workers=1)
    set_threads(0, workers=1)
    assert used == [now + 2]


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_the_command_line_lets_waiting_threads_sleep(given: str | None, expected: str) -> None:
    """Before torch is there; what the user says holds."""
    code = (
        "import os, sys, mtpeft.cli.main as cli\n"
        "cli._run = lambda options: print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])\n"
        "cli.main(['recipes'])"
    )
    environment = {**os.environ} | ({} if given is None else {"OMP_WAIT_POLICY": given})
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.split() == ["False", expected]
