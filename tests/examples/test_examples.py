"""The examples of README: what it shows is what is tested here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cgbench.cli.main import main

HERE = Path(__file__).parent
README = HERE.parent.parent / "README.md"


def run(tmp_path: Path, method: str, system: str, *more: str) -> dict:
    arguments = ["run", "--method", method, "--system", system, "--threads", "1", "--out", str(tmp_path), *more]
    assert main(arguments) == 0
    (record,) = tmp_path.rglob("record.json")
    return json.loads(record.read_text())


def test_example_method_solves_muller_brown(tmp_path) -> None:
    record = run(tmp_path, f"{HERE / 'prior_sampling.py'}:PriorSampling", "muller_brown", "--set", "width=8")
    assert record["status"] == "finished" and record["evaluations"]["by_phase"] == {"sample": 20_000}
    assert record["metrics"]["forward_kld"] < 0.05


def test_example_system_is_solved_by_md(tmp_path) -> None:
    overrides = ["--set", "walkers=200", "--set", "steps=2000", "--set", "step_size=0.7"]
    record = run(tmp_path, "md", f"{HERE / 'double_well.py'}:DoubleWell", *overrides)
    assert record["status"] == "finished"
    assert record["metrics"]["forward_kld"] < 5e-3
    assert abs(record["metrics"]["delta_f_error/right"]) < 0.1


def test_a_system_without_coordinates_is_refused_by_flows(tmp_path, capsys) -> None:
    arguments = ["run", "--method", "cgflow_al", "--system", f"{HERE / 'double_well.py'}:DoubleWell"]
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert "needs a system with coordinates; double_well has gradient" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["prior_sampling.py", "double_well.py"])
def test_readme_names_the_examples_and_its_commands_are_the_tested_ones(name: str) -> None:
    text = README.read_text(encoding="utf-8")
    assert f"tests/examples/{name}:" in text


def test_readme_shows_code_that_is_in_the_example() -> None:
    """Every Python block of README stands, line by line and in this order, in one of the examples."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    files = [*HERE.glob("*.py"), *(HERE.parent / "newcomer").rglob("*.py")]
    sources = [[line.strip() for line in path.read_text().splitlines()] for path in files]
    for block in blocks:
        lines = [line.strip() for line in block.splitlines() if line.strip() and line.strip() != "..."]
        assert any(in_order(lines, source) for source in sources), block


def in_order(lines: list[str], source: list[str]) -> bool:
    rest = iter(source)
    return all(line in rest for line in lines)


def test_readme_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
