"""What a shell is offered at a tab."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mtpeft.cli.completion import SCRIPTS, method_names, words
from mtpeft.cli.main import FILES, main
from mtpeft.methods import METHODS
from mtpeft.runs.recipe import recipe_names


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MTPEFT_RUNS", str(tmp_path / "runs"))
    for name in ("lora-seed0", "demo/lae"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.py").write_text("")
    return tmp_path / "runs"


def offered(line: str) -> list[str]:
    commands = argparse.ArgumentParser().add_subparsers()
    for file in FILES:
        file.add(commands)
    return words(commands.choices, line)


def test_commands_and_options():
    assert {"continual", "sweep", "ls", "diff", "completion"} <= set(offered("mtpeft "))
    assert offered("mtpeft con") == ["continual"]
    assert offered("mtpeft continual x --dry") == ["--dry-run"]
    assert offered("mtpeft completion ") == ["bash", "zsh", "fish"]
    assert offered("mtpeft sweep fashion_lora --select ") == ["validation"]
    assert offered("mtpeft nothing ") == [] == offered("mtpeft continual 'open")


def test_recipes_by_both_names():
    assert offered("mtpeft train ") == recipe_names()
    assert "fashion_lora" in offered("mtpeft continual fash")
    assert "continual/fashion_lora" in offered("mtpeft continual continual/fashion_lo")


def test_methods_without_importing_them():
    assert method_names() == sorted(name for name in METHODS)
    assert offered("mtpeft methods adaptf") == ["adaptformer"]
    assert offered("mtpeft sweep r --grid method=lora,adaptf") == ["method=lora,adaptformer"]
    assert offered("mtpeft continual r --set method.name=adaptf") == ["method.name=adaptformer"]


def test_run_folders(runs):
    assert offered("mtpeft evaluate ") == [f"{runs}/lora-seed0", f"{runs}/demo/"]
    assert offered(f"mtpeft diff {runs}/lora-seed0 {runs}/demo/") == [f"{runs}/demo/lae"]
    assert offered("mtpeft evaluate a b") == []


def test_it_is_quick():
    code = (
        "import sys; from mtpeft.cli.main import main; main(['completion', 'words', sys.argv[1]])\n"
        "assert not {'torch', 'timm', 'mmengine', 'rich', 'ray', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    for line in ("mtpeft train ", "mtpeft methods lo", "mtpeft evaluate "):
        done = subprocess.run([sys.executable, "-c", code, line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shell", SCRIPTS)
def test_scripts_parse_where_the_shell_is_there(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "mtpeft completion words" in script
    if shutil.which(shell):
        done = subprocess.run([shell, "-n", "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_bash_completes(tmp_path, runs):
    """The script in a real bash, whose words break at "="."""
    (tmp_path / "mtpeft").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mtpeft.cli.main "$@"\n')
    (tmp_path / "mtpeft").chmod(0o755)
    script = f"{SCRIPTS['bash']}\ncompopt() {{ :; }}\n" + (
        'try() { COMP_LINE="$1" COMP_POINT=${#1}; _mtpeft; echo "${COMPREPLY[*]}"; }\n'
        "try 'mtpeft eval'; try 'mtpeft sweep r --grid method=lora,adaptf'; try 'mtpeft evaluate '\n"
    )
    (tmp_path / "script.sh").write_text(script)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "MTPEFT_RUNS": str(runs),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        ["bash", str(tmp_path / "script.sh")], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.splitlines() == ["evaluate", "lora,adaptformer", f"{runs}/lora-seed0 {runs}/demo/"], done.stderr
