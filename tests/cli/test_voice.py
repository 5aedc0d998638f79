"""Commands for one process under torchrun: refused, and said once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMMANDS = {
    "pretrain": ["train", "pretrain/vit_mini"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_of_one_process_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By both processes with exit code 2; the second says nothing."""
    from mtpeft.cli.main import main

    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert main(COMMANDS[name]) == 2
        shown = capfd.readouterr()
        assert shown.out == "" and (rank == "1" or "torchrun started 2: run the command without torchrun" in shown.err)
        assert shown.err == "" or rank == "0"


def test_what_a_second_process_and_its_children_write_leads_nowhere_and_comes_back() -> None:
    code = (
        "import os, sys, warnings\n"
        "from mtpeft.cli.voice import first_speaks\n"
        "with first_speaks():\n"
        "    print('one'); warnings.warn('two'); os.system('echo three; echo four >&2')\n"
        "print('five'); print('six', file=sys.stderr)\n"
    )
    for rank, out, err in (("1", "five\n", "six\n"), ("0", "one\nthree\nfive\n", None)):
        environment = {**os.environ, "RANK": rank, "PYTHONUNBUFFERED": "1"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert done.stdout == out
        assert done.stderr == err if err else all(word in done.stderr for word in ("two", "four", "six"))
