"""`mtpeft ls` and `mtpeft diff`: every state of a run, broken folders named, 80 columns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from results_factory import make_results

from mtpeft.cli.main import main
from mtpeft.evaluation.results import write
from mtpeft.runs.config_file import write_config
from mtpeft.runs.lock import TRAINING


def make_folder(path: Path, events: list[dict[str, object]], **recipe: object) -> Path:
    """A run folder with a log whose events are ten seconds apart."""
    path.mkdir(parents=True)
    write_config(path, {"name": "small", "seed": 2, **recipe}, ())
    lines = [json.dumps({"time": 1000.0 + 10 * number, **event}) for number, event in enumerate(events)]
    (path / "log.jsonl").write_text("\n".join(lines) + "\n")
    return path


START = {"event": "start", "recipe": "small", "seed": 2}
SAVED = {"event": "checkpoint", "experience": 2, "epoch": 1, "batch": 3, "step": 40, "tasks": 5, "epochs": 4}
JOINT = {"event": "checkpoint", "step": 40, "steps": 100}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    make_folder(root / "stopped", [START, SAVED])
    make_folder(root / "deep/joint", [START, JOINT, {"event": "resume", "step": 40}, JOINT])
    make_folder(root / "begun", [START])
    make_folder(root / "failed", [START, SAVED, {"event": "failed", "reason": "task 'b': the loss is nan"}])
    done = make_folder(root / "done", [START, SAVED, {"event": "done"}])
    write(done / "results.json", make_results("lora", 0))
    (make_folder(root / "torn", [START]) / "config.py").write_text("recipe = {")
    bad = make_folder(root / "half", [START, {"event": "done"}])
    (bad / "results.json").write_text('{"schema": 1')
    (make_folder(root / "mute", [START]) / "log.jsonl").write_bytes(b'\xff\x00 no json\n[1]\n{"event": 3}\n')
    return root


def test_every_state_is_told(runs, capsys):
    assert main(["ls", str(runs), "--json"]) == 0
    found = {run["folder"]: run for run in json.loads(capsys.readouterr().out)}
    assert list(found) == ["begun", "deep/joint", "done", "failed", "half", "mute", "stopped", "torn"]
    assert {name: run["state"] for name, run in found.items()} == {
        "begun": "interrupted", "deep/joint": "interrupted", "done": "finished", "failed": "failed", "half": "damaged",
        "mute": "interrupted", "stopped": "interrupted", "torn": "damaged",
    }  # fmt: skip
    assert found["stopped"]["detail"] == "at task 3 of 5, epoch 2 of 4"
    assert found["deep/joint"]["detail"] == "at step 40 of 100"
    assert found["begun"]["detail"] == "before its first checkpoint" == found["mute"]["detail"]
    assert found["done"]["figure"]["title"] == "average accuracy" and found["done"]["seconds"] == 20.0
    assert found["deep/joint"]["seconds"] == 20.0, "two sessions of ten seconds; the time between does not count"
    assert found["mute"]["seconds"] is None
    assert "not JSON" in found["half"]["detail"] and "config.py is damaged" in found["torn"]["detail"]
    assert found["failed"]["detail"] == "task 'b': the loss is nan"


def test_the_list_has_80_columns(runs, capsys):
    assert main(["ls", str(runs)]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for text in ("finished", "failed: failed: task 'b': the loss is nan", "torn: damaged: config.py", "0:00:20"):
        assert text in out


def test_a_run_that_runs(runs, capsys):
    code = (
        "import sys, time; from pathlib import Path; from mtpeft.runs.lock import Lock\n"
        "held = Lock(Path(sys.argv[1]), 'it'); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(runs / "stopped" / TRAINING)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        main(["ls", str(runs / "stopped"), "--json"])
        (run,) = json.loads(capsys.readouterr().out)
        assert (run["state"], run["folder"]) == ("running", ".")
    finally:
        process.kill()
        process.wait()


def test_empty_and_missing_folders(tmp_path, capsys):
    assert main(["ls", str(tmp_path)]) == 0
    assert "no run below" in capsys.readouterr().out
    assert main(["ls", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"mtpeft: there is no folder {tmp_path / 'none'}\n"


def test_listing_needs_no_torch(runs):
    code = "import sys; from mtpeft.cli.main import main; main(['ls', sys.argv[1]]); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, str(runs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_diff_names_keys_and_figures(tmp_path, capsys):
    first = make_folder(tmp_path / "a", [START], method={"name": "lora", "rank": 4}, baselines=False)
    second = make_folder(tmp_path / "b", [START], method={"name": "lora", "rank": 8}, strips=2, baselines=False)
    assert main(["diff", str(first), str(second)]) == 0
    out = capsys.readouterr().out
    for word in ("method.rank", "4", "8", "strips", "not given"):
        assert word in out
    assert "baselines" not in out and "difference" not in out
    write(first / "results.json", make_results("lora", 0))
    write(second / "results.json", make_results("lora", 0, drop=2.0))
    assert main(["diff", str(first), str(second)]) == 0
    out = capsys.readouterr().out
    assert "average accuracy" in out and "difference" in out and max(map(len, out.splitlines())) <= 80
    assert main(["diff", str(first), str(first)]) == 0
    assert "the recipes are the same" in capsys.readouterr().out
    assert main(["diff", str(first), str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err
