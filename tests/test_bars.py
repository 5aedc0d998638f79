"""Progress: a bar on a terminal, one line in a pipe; every part of the package goes through the two that know this."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import mtpeft

SHOWN = {
    "bar": "from mtpeft.bars import bar\nfor _ in bar(range(300), 'making clips', 'clip'): time.sleep(0.001)",
    "updated by hand": "from mtpeft.bars import bar\nwith bar(None, 'making clips', 'clip', total=300) as shown:\n"
    "    for _ in range(300): shown.update(1); time.sleep(0.001)",
    "run": "from mtpeft.runs.console import open_console, progress_bar\nwith progress_bar(open_console()) as shown:\n"
    "    shown.stage('making clips', 300)\n    for _ in range(300): shown.step(); time.sleep(0.001)",
}


def script(name: str) -> list[str]:
    return [sys.executable, "-c", f"import time\n{SHOWN[name]}"]


def on_a_terminal(command: list[str]) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait() == 0, written
    return written.decode()


@pytest.mark.parametrize("name", SHOWN)
def test_one_line_in_a_pipe(name: str) -> None:
    done = subprocess.run(script(name), capture_output=True, text=True, check=True)
    assert (done.stdout + done.stderr).split("\n") == [f"making clips: 300{' steps' if name == 'run' else ''}", ""]


@pytest.mark.parametrize("name", SHOWN)
def test_a_bar_on_a_terminal(name: str) -> None:
    written = on_a_terminal(script(name))
    assert "making clips" in written and "\r" in written and "/300" in written


def test_little_is_not_worth_a_word() -> None:
    code = "from mtpeft.bars import bar\nprint(list(bar([1, 2], 'making clips', 'clip', least=3)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[1, 2]\n", "")


def test_nothing_else_draws_bars() -> None:
    """A new loop that draws its own would fill logs again."""
    root = Path(mtpeft.__file__).parent
    drawing = {
        file.relative_to(root).as_posix()
        for file in root.rglob("*.py")
        if any(word in file.read_text() for word in ("from tqdm", "import tqdm", "rich.progress", "rich.live"))
    }
    assert drawing == {"bars.py", "runs/console.py"}
