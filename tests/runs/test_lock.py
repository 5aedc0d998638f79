"""A run folder belongs to one process at a time, for as long as that process lives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mtpeft.errors import ConfigError, DataError
from mtpeft.runs import lock
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.lock import TRAINING, Lock, locked

HOLD = """
import sys, time
from pathlib import Path
from mtpeft.runs.lock import Lock
held = Lock(Path(sys.argv[1]), "it")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the lock of the run in `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / TRAINING)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_another_process_is_refused_until_the_first_is_gone(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    assert locked(tmp_path / TRAINING)
    folder = RunFolder(tmp_path / "run", {"name": "a"})
    folder.open()
    (tmp_path / "config.py").write_bytes((tmp_path / "run/config.py").read_bytes())
    with pytest.raises(ConfigError, match=r"is being written by another process; wait for it"):
        RunFolder(tmp_path, {"name": "a"}).saved()
    holder.kill()
    holder.wait()
    assert not locked(tmp_path / TRAINING)
    assert RunFolder(tmp_path, {"name": "a"}).saved() is None


def test_a_process_does_not_shut_itself_out(tmp_path):
    first = RunFolder(tmp_path / "run", {"name": "a"})
    first.open()
    RunFolder(tmp_path / "run", {"name": "a"}).open()
    RunFolder(tmp_path / "run", {"name": "a"}, fresh=True).open()
    assert (tmp_path / "run" / TRAINING).is_file()


def test_no_lock_no_process(tmp_path):
    assert not locked(tmp_path / "none")
    Lock(tmp_path / "one", "it").release()
    assert not locked(tmp_path / "one")


@pytest.mark.parametrize(("error", "extra"), [(DataError("no image\nat all"), False), (KeyError("x"), True)])
def test_what_stopped_a_run_is_in_its_log(tmp_path, error, extra):
    folder = RunFolder(tmp_path / "run", {"name": "a"})
    with pytest.raises(type(error)), folder.session():
        folder.open()
        folder.accept(0)
        raise error
    last = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "failed" and "\n" not in last["reason"]
    assert ("traceback" in last) == extra


def test_a_refusal_leaves_no_word(tmp_path):
    RunFolder(tmp_path / "run", {"name": "a"}).open()
    again = RunFolder(tmp_path / "run", {"name": "a"})
    with pytest.raises(DataError), again.session():
        again.saved()
        raise DataError("no")
    assert not (tmp_path / "run/log.jsonl").exists()


def test_an_error_before_the_folder_is_ours_leaves_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run", {"name": "a"})
    with pytest.raises(DataError), folder.session():
        raise DataError("wrong")
    assert not (tmp_path / "run").exists()
