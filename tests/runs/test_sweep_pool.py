"""Runs side by side in Ray's workers: what finishes, fails, dies and is stopped. One Ray for all, with runs that do nothing."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mtpeft.errors import ConfigError, DataError
from mtpeft.runs.console import interrupts
from mtpeft.runs.sweep import pool
from mtpeft.runs.sweep.plan import Trial
from mtpeft.runs.sweep.pool import DIED, Resources, check_installed, open_ray, run_trials


def work(recipe: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """What a recipe of these tests says."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = len(list(folder.iterdir()))
    (folder / str(begun)).write_text(os.environ["OMP_NUM_THREADS"])
    if recipe["does"] == "fails":
        raise DataError("no image\nin it")
    if recipe["does"] == "is wrong":
        raise ZeroDivisionError("a mistake")
    if begun < recipe.get("deaths", 0):
        os.kill(os.getpid(), signal.SIGKILL)
    with interrupts() as stop:
        while recipe["does"] == "goes on" and not stop:
            time.sleep(0.05)
        return None if stop else {}


def trial(name: str, does: str = "finishes", **more: Any) -> Trial:
    return Trial(name, 0, None, {"does": does, **more})


@pytest.fixture(scope="module")
def ray():
    with open_ray(None, Resources()) as opened:
        opened.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield opened


def test_runs_that_fail_and_die_do_not_stop_the_others(ray, tmp_path):
    told: list[tuple[str, str | None]] = []
    trials = [
        trial("bad", "fails"), trial("good"), trial("wrong", "is wrong"), trial("dies once", deaths=1),
        trial("dies", deaths=9),
    ]  # fmt: skip
    failed = run_trials(
        ray,
        trials,
        tmp_path,
        work,
        Resources(parallel=2),
        lambda: False,
        lambda one, why: told.append((one.folder, why)),
    )
    assert failed == {"bad": "no image in it", "wrong": "ZeroDivisionError: a mistake", "dies": DIED}
    assert sorted(name for name, _ in told) == sorted(one.folder for one in trials)
    assert dict(told)["good"] is None and dict(told)["dies once"] is None
    assert len(list((tmp_path / "dies once").iterdir())) == 2 == len(list((tmp_path / "dies").iterdir()))
    assert (tmp_path / "good/0").read_text() == "1", "the threads of its share"


def test_ctrl_c_reaches_the_runs(ray, tmp_path):
    trials = [trial("a", "goes on"), trial("b", "goes on"), trial("c")]
    ended: list[str] = []

    def stop() -> bool:
        return all((tmp_path / name / "0").is_file() for name in "ab")

    told = lambda one, why: ended.append(one.folder)  # noqa: E731
    assert run_trials(ray, trials, tmp_path, work, Resources(parallel=2), stop, told) is None
    assert not ended and not (tmp_path / "c").exists()


def test_a_run_no_machine_has_room_for(ray):
    with pytest.raises(ConfigError, match=r"a run asks for 999 CPUs and 0 GPUs .* machines of up to \d+ CPUs"):
        pool._check_room(ray, Resources(cpus=999))


def test_without_ray(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    with pytest.raises(ConfigError, match=r"a sweep needs Ray: pip install 'mtpeft\[ray\]'"):
        check_installed()


@pytest.mark.slow  # Ray tries for half a minute
def test_a_cluster_that_is_not_there():
    with (
        pytest.raises(ConfigError, match=r"Ray cannot reach ray://127.0.0.1:1"),
        open_ray("ray://127.0.0.1:1", Resources()),
    ):
        pass
