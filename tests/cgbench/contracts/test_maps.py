"""Systems with several maps and states: estimates, scores, files, checkpoints, and methods that cannot serve them."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from cgbench.cli.main import main
from cgbench.conformance import CHECKS, Pair
from cgbench.contracts.maps import Estimate, as_estimate, load_pmfs
from cgbench.contracts.pmf import PMF
from cgbench.contracts.system import System, maps_of, traits_of
from cgbench.drawing.pmf import draw_reference
from cgbench.errors import UserError
from cgbench.results.report.arrays import decode
from cgbench.results.report.content import gather
from cgbench.results.runs import find_runs
from cgbench.running.run import prepare
from cgbench.scoring.referee import Referee
from cgbench_systems.muller_brown import MullerBrown

FILE = Path(__file__).parents[2] / "examples" / "three_angles.py"
SYSTEM = f"{FILE}:ThreeAngles"
SETTINGS = ("walkers=128", "steps=2000", "equilibration_steps=500", "step_size=0.9", "stride=2")


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("three_angles", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def system() -> System:
    return example().ThreeAngles()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("maps")
    prepare(SYSTEM, "md", out=str(out), overrides=SETTINGS).execute()
    (record,) = out.rglob("record.json")
    return record.parent


def truth(system: System) -> Estimate:
    reference = system.reference()
    populations = {name: value for name, (value, _) in reference.populations.items()}
    return Estimate(tuple(one.pmf for one in reference.maps), populations)


def test_the_maps_select_their_columns(system: System) -> None:
    first, second = maps_of(system)
    assert (first.name, second.name) == ("a and b", "b and c")
    assert second.select(np.array([[1.0, 2.0, 3.0]])).tolist() == [[2.0, 3.0]]
    assert second.cvs.names == ("b", "c") and second.cvs.bins == (24, 24)
    assert "pmf_grid" not in traits_of(system) and "pmf_grid" in traits_of(MullerBrown())
    counts = system.states.counts(np.array([[0.1, 0, 0], [3.0, 0, 0], [0.2, 1, 1], [np.nan, 0, 0]]), [1, 2, 4, 8])
    assert counts.tolist() == [5.0, 2.0]


def test_the_truth_scores_zero_on_every_map(system: System) -> None:
    referee = Referee(system)
    scores = referee.score(truth(system))
    assert tuple(scores) == referee.metric_names
    zero = {name: value for name, value in scores.items() if not name.startswith("coverage")}
    assert all(abs(value) < 1e-12 for value in zero.values())
    assert {"forward_kld/a and b", "forward_kld/b and c", "delta_f_error/front", "delta_f_error/c near 0"} <= set(zero)


def test_the_forward_kld_is_the_mean_over_maps(system: System) -> None:
    first, second = maps_of(system)
    exact = truth(system)
    flat = PMF(second.cvs, np.ones(second.cvs.bins))
    scores = Referee(system).score(Estimate((exact.pmfs[0], flat), exact.populations))
    assert scores["forward_kld/a and b"] == pytest.approx(0.0, abs=1e-12)
    assert scores["forward_kld"] == pytest.approx(scores["forward_kld/b and c"] / 2) and scores["forward_kld"] > 0.1
    wrong = Estimate(exact.pmfs, {"front": 0.5, "back": 0.5})
    front, back = (exact.populations[name] for name in ("front", "back"))
    assert Referee(system).score(wrong)["delta_f_error/back"] == pytest.approx(np.log(back / front))


def test_md_finds_all_maps_and_states(finished: Path, system: System) -> None:
    record = json.loads((finished / "record.json").read_text())
    assert record["status"] == "finished" and record["metrics"]["forward_kld"] < 0.02
    assert abs(record["metrics"]["delta_f_error/back"]) < 0.15
    with open(finished / "curve.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    last = {name: float(value) for name, value in rows[-1].items() if value}
    assert last["forward_kld"] == pytest.approx((last["forward_kld/a and b"] + last["forward_kld/b and c"]) / 2)
    first, second = maps_of(system)
    assert np.array_equal(PMF.load(finished / "pmf.npz", second.cvs, map=1).cvs.centers(0), second.cvs.centers(0))
    with pytest.raises(UserError, match="no array 'probability'"):
        PMF.load(finished / "pmf.npz", map=2)
    with np.load(finished / "pmf.npz") as arrays:
        assert arrays["state_populations"].sum() == pytest.approx(1.0, abs=1e-3)
    assert (finished / "pmf.png").exists()
    (run,) = find_runs([finished])
    assert run.final_kld == record["metrics"]["forward_kld"]


@pytest.mark.parametrize("check", ["method", "resume", "blindness", "budget"])
def test_md_keeps_the_contract(check: str, tmp_path) -> None:
    assert CHECKS[check](Pair(SYSTEM, "md", tmp_path, overrides=("walkers=8", "steps=40", "equilibration_steps=5")))


def test_parallel_tempering_finds_all_maps_and_states(tmp_path) -> None:
    settings = ("ladders=16", "hottest=4", "step_size=0.6", "evaluations=200000", "groups=4", "stride=5")
    record = prepare(SYSTEM, "parallel_tempering", out=str(tmp_path), overrides=settings).execute()
    assert record.status == "finished" and record.metrics["forward_kld"] < 0.01
    assert abs(record.metrics["delta_f_error/back"]) < 0.2
    assert set(record.diagnostics["maps"]) == {"a and b", "b and c"} and record.claimed_errors is not None


@pytest.mark.parametrize("check", ["method", "resume"])
def test_parallel_tempering_keeps_the_contract(check: str, tmp_path) -> None:
    settings = ("ladders=4", "hottest=4", "evaluations=4000", "groups=2", "stride=5")
    assert CHECKS[check](Pair(SYSTEM, "parallel_tempering", tmp_path, overrides=settings))


def test_methods_on_a_grid_say_what_they_need(tmp_path, capsys) -> None:
    assert main(["run", "--method", "umbrella", "--system", SYSTEM, "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "needs a system with pmf_grid (one map over at most two CVs; three_angles has 3 CVs and 2 maps)" in message


def test_an_incomplete_estimate_is_refused(system: System) -> None:
    maps, states = maps_of(system), system.states
    exact = truth(system)
    with pytest.raises(ValueError, match="1 PMF for 2 maps"):
        as_estimate(exact.pmfs[0], maps, states)
    with pytest.raises(ValueError, match="the states are"):
        as_estimate(Estimate(exact.pmfs), maps, states)
    with pytest.raises(ValueError, match="it must be over those of"):
        as_estimate(Estimate(exact.pmfs[::-1], exact.populations), maps, states)
    with pytest.raises(TypeError, match="ndarray"):
        as_estimate(np.ones(3), maps, states)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Estimate(exact.pmfs, {"front": 1.5, "back": 0.0})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("self.maps = ()", ""),
        ("self.maps = ((0, 0), (1, 2))", "map (0, 0) must hold one to 3 different CVs"),
        ("self.maps = ((0, 3),)", "of 0 to 2"),
        ("self.maps = (0, 1)", "a tuple of tuples"),
        ("self.maps = ((0, 1),)", "basin c near 0 is of map 1"),
    ],
)
def test_wrong_maps_are_one_line(line: str, expected: str, tmp_path, capsys) -> None:
    text = FILE.read_text().replace("self.maps = ((0, 1), (1, 2))", line)
    if not expected:  # a single map over three CVs needs no declaration, but its basins are of map 0
        text = text.replace("map=1", "map=0")
    plugin = tmp_path / "plugin.py"
    plugin.write_text(text)
    command = ["run", "--method", "umbrella", "--system", f"{plugin}:ThreeAngles", "--out", str(tmp_path)]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert (expected or "needs a system with pmf_grid") in message and message.count("\n") == 1


def test_the_reference_of_all_maps_is_drawn(system: System, tmp_path) -> None:
    draw_reference(tmp_path / "reference.png", "three_angles", system.reference())
    assert (tmp_path / "reference.png").stat().st_size > 10_000


def test_the_report_shows_every_map(finished: Path) -> None:
    content = gather([finished])
    (run,), (facts,) = content["runs"], content["systems"]
    assert [[axis["bins"] for axis in axes] for axes in facts["maps"]] == [[24, 24], [24, 24]]
    second = decode(run["pmfs"][1])
    exact = load_pmfs(finished / "pmf.npz")[1].free_energy
    assert len(run["pmfs"]) == 2 and np.allclose(second, exact, atol=1e-4)
