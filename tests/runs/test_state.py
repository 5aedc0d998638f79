"""The saved state: what is read is what was written, only what changed is written, and nothing damaged is read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from mtpeft.errors import CheckpointError, MtpeftError
from mtpeft.runs import state as module
from mtpeft.runs.state import Parts, State


def value(step: int, tasks: int) -> dict[str, Any]:
    """A state of `tasks` tasks after `step` steps."""
    return {
        "step": step,
        "nested": {1: (2, None, True), "x": [1.5, {"y": {3, 1}}], "t": torch.arange(step + 1)},
        "weights": Parts("weights", {f"task {t}": {"w": torch.full((4, 4), float(t))} for t in range(tasks)}),
        "rows": Parts("rows", {t: [t, t / 3] for t in range(tasks)}),
        "nothing": Parts("nothing", {}),
    }


def equal(a: Any, b: Any) -> bool:
    """Whether two nested values are the same, tensors by value."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def files(folder: Path) -> dict[str, bytes]:
    """All files by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    assert State(tmp_path / "s").read() is None
    written = State(tmp_path / "s")
    for step in range(40):  # more than the journal holds without being written anew
        written.write(value(step, tasks=step % 5))
        found = State(tmp_path / "s").read()
        assert found is not None and equal(
            found, {k: dict(v) if isinstance(v, Parts) else v for k, v in value(step, step % 5).items()}
        )
    live = 1 + 2 * (39 % 5)
    assert len(list((tmp_path / "s").glob("part-*"))) <= live and len(list((tmp_path / "s").glob("journal-*"))) == 1


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    """The hundredth task costs what the first one does, though all tasks are there to be read."""
    state, sizes = State(tmp_path), []
    for task in range(100):
        before = files(tmp_path) if task else {}
        own = {"w": torch.randn(16, 16)}
        state.write({"task": task, "weights": Parts("weights", {f"task {task}": own}, partial=True)})
        after = files(tmp_path)
        new = [len(data) for name, data in after.items() if name not in before and name.startswith("part-")]
        grown = [len(data) - len(before.get(name, b"")) for name, data in after.items() if name.startswith("journal-")]
        sizes.append(sum(new) + max(*grown, 0))
    found = State(tmp_path).read()
    assert found is not None and len(found["weights"]) == 100 and found["task"] == 99
    assert max(sizes[50:]) <= 1.05 * max(sizes[:50])


def test_partial_parts_keep_the_others_and_whole_ones_drop_them(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.write({"w": Parts("w", {"a": 1, "b": 2})})
    state.write({"w": Parts("w", {"b": 3}, partial=True)})
    assert State(tmp_path).read() == {"w": {"a": 1, "b": 3}}
    state.write({"w": Parts("w", {"b": 3})})
    assert State(tmp_path).read() == {"w": {"b": 3}}
    state.write({"other": 1})
    assert State(tmp_path).read() == {"other": 1}


@pytest.mark.parametrize("moment", ["part", "journal", "index"])
def test_a_kill_at_any_write_leaves_the_state_before(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    State(tmp_path).write(value(1, tasks=2))
    before = State(tmp_path).read()

    class Killed(BaseException):
        pass

    def dying(path: Path, *args: Any) -> None:
        if path.name.startswith({"part": "part-", "journal": "journal-", "index": "state"}[moment]):
            if moment == "journal":  # half of a line
                with open(path, "ab") as stream:
                    stream.write(args[0][:10])
            raise Killed
        {"journal": append, "index": write}["journal" if len(args) == 2 else "index"](path, *args)

    append, write = module.append, module.write_atomic
    monkeypatch.setattr(module, "append", dying)
    monkeypatch.setattr(module, "write_atomic", dying)
    with pytest.raises(Killed):
        State(tmp_path).write(value(2, tasks=3))
    monkeypatch.undo()
    assert equal(State(tmp_path).read(), before)
    State(tmp_path).write(value(3, tasks=3))
    found = State(tmp_path).read()
    assert found is not None and found["step"] == 3 and len(list(tmp_path.glob("part-*"))) == 1 + 3 + 3


def test_whatever_is_damaged_is_refused(tmp_path: Path) -> None:
    """Bytes flipped, files cut short, emptied or gone: an error that says so, or (what never counted) no difference."""
    State(tmp_path).write(value(2, tasks=3))
    State(tmp_path).write(value(3, tasks=3))
    good, before = files(tmp_path), State(tmp_path).read()
    draw = random.Random(0)
    for trial in range(300):
        name = draw.choice(sorted(good))
        data = bytearray(good[name])
        kind = draw.choice(["flip", "cut", "gone", "more"])
        if kind == "flip":
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del data[draw.randrange(len(data)) :]
        elif kind == "more":
            data += b"\n[1]"
        if kind == "gone":
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_bytes(bytes(data))
        try:
            assert equal(State(tmp_path).read(), before) or kind == "gone", (trial, name, kind)
        except MtpeftError as error:
            assert isinstance(error, CheckpointError) and "\n" not in str(error)
        (tmp_path / name).write_bytes(good[name])


def test_a_state_of_another_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"tensors": "state-1.safetensors", "sha256": "", "value": {}}')
    with pytest.raises(CheckpointError, match="another version"):
        State(tmp_path).read()


def test_what_is_no_plain_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object"):
        State(tmp_path).write({"a": object()})
    with pytest.raises(TypeError, match="twice"):
        State(tmp_path).write({"a": Parts("p", {}), "b": Parts("p", {})})
