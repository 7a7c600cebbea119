"""The command line as seen by its users: exit codes, one line for a user error, interrupts and resumes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cgbench.cli.main import COMMANDS, main

CGBENCH = [sys.executable, "-m", "cgbench"]


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_smoke(out: Path, *more: str) -> list[str]:
    fixed = ["--method", "md", "--system", "muller_brown", "--preset", "smoke", "--threads", "1"]
    return ["run", *fixed, "--out", str(out), *more]


MISTAKES = {
    "command": (["fly"], f"No such command 'fly': choose from {', '.join(sorted(COMMANDS))}"),
    "system": (
        ["run", "--method", "md", "--system", "adlp"],
        "unknown system 'adlp': choose from aldp, asn, asp, cys, gly, leu, muller_brown, phe, ser, tetra, thr, tyr, "
        "val, val_chi",
    ),
    "system without a file": (
        ["system", "show", "muller_brown"],
        "system muller_brown is made by code, without a file",
    ),
    "system that nobody knows": (["system", "show", "glyc"], "unknown system 'glyc': choose from aldp, asn"),
    "ending of a file": (["system", "show", "gly.pdb"], "no installed package makes systems from .pdb files"),
    "method": (["run", "--method", "mdd", "--system", "aldp"], "unknown method 'mdd': choose from cgflow_al"),
    "preset": (["run", "--method", "md", "--system", "aldp", "--preset", "x"], "unknown preset 'x' of md on aldp"),
    "option": (["run", "--method", "md", "--system", "aldp", "--sed", "1"], "unknown option --sed: choose from"),
    "missing option": (["run", "--method", "md"], "Missing option '--system'"),
    "key": (["run", "--method", "md", "--system", "aldp", "--set", "stpes=1"], "did you mean 'steps'"),
    "type": (["run", "--method", "md", "--system", "aldp", "--set", "steps=few"], "key 'steps'"),
    "old boolean": (["run", "--method", "md", "--system", "aldp", "--set", "steps=no"], "no is ambiguous"),
    "seed": (["run", "--method", "md", "--system", "aldp", "--seed", "one"], "'one' is not a valid integer"),
    "budget": (["run", "--method", "md", "--system", "aldp", "--budget", "0"], "--budget must be at least 1, not 0"),
    "device": (["run", "--method", "md", "--system", "aldp", "--device", "tpu9"], "device 'tpu9'"),
    "engine": (["run", "--method", "md", "--system", "aldp", "--engine", "x"], "choose from openmm, torch"),
    "runs": (["leaderboard", "--runs", "nowhere"], "no folder of runs 'nowhere'"),
    "no command": ([], "cgbench: missing command: choose from check, compare"),
    "no reference command": (["reference"], "missing command: choose from build, curve, samples, show, verify"),
    "reference command": (["reference", "make"], "choose from build, curve, samples, show, verify"),
    "exact": (["reference", "build", "muller_brown", "--out", "x"], "is exact: there is nothing to build"),
    "route": (
        ["reference", "build", "aldp", "--out", "x", "--route", "y"],
        "choose from biased, double_step, half_step, importance, metropolis, openmm, umbrella, unbiased",
    ),
    "blocks": (["reference", "build", "aldp", "--out", "x", "--blocks", "0"], "--blocks must be at least 1, not 0"),
    "picture": (["reference", "show", "muller_brown", "--out", "x.doc"], "the suffix must be .png, .pdf or .svg"),
    "curve": (["reference", "curve", "aldp", "--runs", "nowhere"], "no folder of runs 'nowhere'"),
    "file": (["run", "--method", "none.py:X", "--system", "aldp"], "no file 'none.py'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(name: str, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, message = MISTAKES[name]
    code, out, err = call(capsys, *arguments)
    assert code == 2 and out == ""
    assert message in err and err.startswith("cgbench: ") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder(capsys, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = call(capsys, *run_smoke(tmp_path / "file"))
    assert code == 2 and "cannot write to" in err and "--out" in err and err.count("\n") == 1


def test_run_prints_a_summary(capsys, tmp_path) -> None:
    code, out, err = call(capsys, *run_smoke(tmp_path))
    assert code == 0 and err == ""
    for word in ("finished", "forward KLD", "basin", "evaluations", "evaluations/s", "files", "picture", "pmf.png"):
        assert word in out
    code, out, _ = call(capsys, *run_smoke(tmp_path))
    assert code == 0 and "This run is complete" in out and "--restart" in out


def test_a_failed_run_is_exit_code_1(capsys, tmp_path) -> None:
    code, out, err = call(capsys, *run_smoke(tmp_path, "--budget", "5"))
    assert code == 1 and "failed" in out and "no estimate within the budget" in err


def test_list_names_everything(capsys) -> None:
    code, out, _ = call(capsys, "list")
    assert code == 0
    for name in ("aldp", "muller_brown", "cgflow_al", "cgflow_grid", "md", "default", "paper", "smoke"):
        assert name in out


def test_every_command_has_help_and_every_option_a_description(capsys) -> None:
    import click

    from cgbench.cli.main import cgbench

    def visit(group: click.Group, words: tuple[str, ...]) -> None:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                visit(command, (*words, name))
                continue
            code, out, _ = call(capsys, *words, name, "--help")
            assert code == 0 and f"Usage: cgbench {' '.join((*words, name))}" in out and command.help
            for option in command.params:
                assert not isinstance(option, click.Option) or option.help, f"{name} {option.name}"

    visit(cgbench, ())


@pytest.mark.parametrize("words", [[], ["list"], ["--version"], ["run", "--method", "md"]])
def test_windows_is_refused_in_one_line(words: list[str], capsys, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        code = main(words)
    assert code == 2
    assert capsys.readouterr() == ("", "cgbench: cgbench runs on Linux and macOS; on Windows, use WSL\n")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from cgbench.cli.main import main; code = main(['--help']);"
        "heavy = {'torch', 'openmm', 'numpy', 'pandas', 'pydantic', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Commands" in done.stdout


def command(out: Path) -> list[str]:
    fixed = ["--method", "cgflow_al", "--system", "muller_brown", "--set", "recipe.training.rounds=8"]
    return [*CGBENCH, "run", *fixed, "--threads", "1", "--out", str(out)]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_says_how_to_resume(sent: signal.Signals, tmp_path) -> None:
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()  # the first estimate has been taken
    time.sleep(0.2)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    first, last = [line for line in err.splitlines() if line]  # click adds an empty one
    assert first.startswith(f"cgbench: {sent.name}: ")
    assert last == "cgbench: interrupted; run the same command again to resume from the last checkpoint"
    again = subprocess.run(command(tmp_path), capture_output=True, text=True, check=True)
    assert re.search(r"after [1-9][\d,]* evaluations$", again.stdout.splitlines()[0])
