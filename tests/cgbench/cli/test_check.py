"""``cgbench check``: one line per check, its exit code, and its answers to invalid requests."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from cgbench.cli.main import main
from cgbench.conformance import CHECKS

EXAMPLES = Path(__file__).parents[2] / "examples"
METHOD = f"{EXAMPLES / 'prior_sampling.py'}:PriorSampling"
SYSTEM = f"{EXAMPLES / 'double_well.py'}:DoubleWell"


def sets(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


SMALL = sets("width=8", "rounds=3", "samples_per_bin=2")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--method", METHOD, "--system", "muller_brown", *SMALL],
        ["--method", "md", "--system", SYSTEM, *sets("walkers=5", "steps=10", "equilibration_steps=2")],
    ],
    ids=["method", "system"],
)
def test_the_examples_pass(arguments: list[str], capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[1:-1]] == [f"ok     {name}" for name in CHECKS]
    assert lines[-1].endswith(f"none of {len(CHECKS)} checks failed")
    assert not list(tmp_path.iterdir())


def test_a_relative_path_is_found(capsys, monkeypatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    arguments = ["--method", "prior_sampling.py:PriorSampling", "--system", "muller_brown", *SMALL]
    assert main(["check", *arguments, "--check", "counting"]) == 0
    assert "ok     counting: 600 evaluations (sample 600)" in capsys.readouterr().out


def broken(tmp_path: Path, old: str, new: str) -> str:
    source = (EXAMPLES / "prior_sampling.py").read_text(encoding="utf-8")
    assert source.count(old) == 1
    (tmp_path / "broken.py").write_text(source.replace(old, new), encoding="utf-8")
    return f"{tmp_path / 'broken.py'}:PriorSampling"


def test_a_failed_check_is_one_line_and_exit_code_1(tmp_path, capsys) -> None:
    method = broken(tmp_path, "self.problem.reduced_energy(x)", "self.problem._system.reduced_energy(x)")
    arguments = ["--method", method, "--system", "muller_brown", *SMALL]
    assert main(["check", *arguments, "--check", "counting", "--check", "pmf"]) == 1
    told = capsys.readouterr()
    assert "ok     pmf: 3 estimates" in told.out
    assert (
        "FAILED counting: at estimate 1 the ledger has 0 evaluations, but 200 were made: 200 bypassed self.problem"
        in told.out
    )
    assert told.out.splitlines()[-1].endswith("1 of 2 checks failed") and not told.err


def test_an_exception_is_one_line_and_its_traceback_an_option(tmp_path, capsys) -> None:
    method = broken(tmp_path, "self.round += 1", "self.round += 1 / 0")
    arguments = ["check", "--method", method, "--system", "muller_brown", *SMALL, "--check", "method"]
    assert main(arguments) == 1
    told = capsys.readouterr()
    line = "FAILED method: estimates() fails after 0 estimates: ZeroDivisionError: division by zero (broken.py, line "
    assert line in told.out and "Traceback" not in told.out + told.err
    assert main([*arguments, "--traceback"]) == 1
    assert "self.round += 1 / 0" in capsys.readouterr().out


@pytest.mark.parametrize("logs", [(), ("--traceback",)])
def test_a_method_that_cannot_be_constructed_is_one_line(logs: tuple[str, ...], tmp_path, capsys) -> None:
    method = broken(tmp_path, "        self.round = 0\n", "        self.round = problem.steps\n")
    assert main(["check", "--method", method, "--system", "muller_brown", *SMALL, *logs]) == 1
    told = capsys.readouterr()
    assert (
        "FAILED start: the run cannot be set up: AttributeError: 'Problem' object has no attribute 'steps'" in told.out
    )
    assert ("problem.steps\n" in told.out) == bool(logs) and not told.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "md"], "Missing option '--system'"),
        (["--method", "mb", "--system", "muller_brown"], "unknown method 'mb': choose from"),
        (["--method", "nowhere.py:It", "--system", "muller_brown"], "no file"),
        (["--method", METHOD, "--system", SYSTEM], "needs a system with coordinates; double_well has few_cvs"),
        (
            ["--method", "md", "--system", "muller_brown", "--check", "speed"],
            "unknown check 'speed': choose from blind",
        ),
        (["--method", "md", "--system", "muller_brown", "--preset", "huge"], "unknown preset 'huge' of md"),
        (
            ["--method", "md", "--system", "muller_brown", "--set", "walkers=x"],
            "key 'walkers': Input should be a valid",
        ),
        (["--method", "md", "--system", "muller_brown", "--engine", "gromacs"], "has no engine 'gromacs'"),
        (["--method", "md", "--system", "muller_brown", "--seed", "-1"], "--seed must be at least 0"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], words: str, capsys) -> None:
    assert main(["check", *arguments]) == 2
    told = capsys.readouterr()
    assert words in told.err and told.err.count("\n") == 1 and "FAILED" not in told.out


def test_without_a_temporary_folder_there_is_one_line(capsys, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", Mock(side_effect=FileNotFoundError(2, "No usable temporary directory")))
    assert main(["check", "--system", "muller_brown", "--method", "md"]) == 2
    said = capsys.readouterr().err
    assert said == "cgbench: no temporary folder can be written: No usable temporary directory; set TMPDIR to another\n"
