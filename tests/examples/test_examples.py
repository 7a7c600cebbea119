"""The examples of the documentation run, and give the right PMF."""

from __future__ import annotations

import json
from pathlib import Path

from cgbench.cli.main import main

HERE = Path(__file__).parent


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
    assert "needs a system with coordinates; double_well has few_cvs, gradient" in capsys.readouterr().err
