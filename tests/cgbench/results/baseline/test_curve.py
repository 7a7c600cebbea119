"""The curve of plain MD, on synthetic simulations with a known power law."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cgbench.cli.main import main
from cgbench.results.baseline.curve import DRAWS, MDCurve, longest_walkers, md_curves
from cgbench.results.runs import FoundRun, find_runs, first_held

ROOT = Path(__file__).parents[4]


def simulations(noise: float = 0.3, seed: int = 0, run: int = 0) -> pd.DataFrame:
    """Simulations of 1, 8 and 64 walkers up to 1e4 steps: KLD = 1e4 / N with a random factor for each simulation."""
    random = np.random.default_rng([seed, run])
    rows = []
    for walkers, replicates in ((1, 16), (8, 8), (64, 1)):
        for replicate in range(replicates):
            factor = math.exp(noise * random.normal())
            for steps in np.logspace(1, 4, 25):
                n = walkers * steps
                rows.append((f"histogram/{walkers}", replicate, n, factor * 1e4 / n))
                rows.append((f"smoothed/{walkers}", replicate, n, 0.25 * factor * 1e4 / n))
    return pd.DataFrame(rows, columns=["name", "replicate", "evaluations", "forward_kld"]).assign(run=run)


def curve_of(*tables: pd.DataFrame, estimator: str = "histogram") -> MDCurve:
    return MDCurve.from_table(longest_walkers(pd.concat(tables, ignore_index=True), estimator), "test")


def path(kld: list[float], replicates: int = 8) -> pd.DataFrame:
    """Equal simulations of one walker with these scores at 10, 100, ... evaluations."""
    n = 10.0 ** np.arange(1, len(kld) + 1)
    one = pd.DataFrame({"name": "histogram/1", "evaluations": n, "forward_kld": kld, "run": 0})
    return pd.concat([one.assign(replicate=r) for r in range(replicates)])


def test_the_longest_walkers_serve_each_number_of_evaluations() -> None:
    found = longest_walkers(simulations(), "histogram")
    for low, high, walkers in ((0, 1e4, 1), (1.01e4, 8e4, 8), (8.1e4, 1e6, 64)):
        part = found[(found["evaluations"] > low) & (found["evaluations"] <= high)]
        assert set(part["walkers"]) == {walkers}
    assert (found["steps"] >= 1e4 / 9)[found["walkers"] > 1].all()


@pytest.mark.parametrize(("estimator", "factor"), [("histogram", 1.0), ("smoothed", 0.25)])
def test_levels_of_a_power_law_and_beyond_its_ends(estimator: str, factor: float) -> None:
    """Within the curve both bounds agree; to its left and right only one is known. Nothing is extrapolated."""
    curve = curve_of(simulations(noise=0.05), estimator=estimator)
    a, b = curve.power_law
    assert b == pytest.approx(-1.0, abs=0.05) and a == pytest.approx(factor * 1e4, rel=0.5)
    low, high = curve.reached(np.array(factor * 0.5))
    assert low == high == pytest.approx(2e4, rel=0.2)
    low, high = curve.reached(np.array(factor * 1e-4))
    assert low == curve.evaluations[-1] and high == math.inf
    low, high = curve.reached(np.array(factor * 1e5))
    assert low == 0 and high == curve.evaluations[0]
    assert np.isnan(curve.reached(np.array(math.nan))).all()


def test_a_level_that_is_touched_and_left_again_is_not_reached() -> None:
    """KLD 1, 1e-2, 1e-1, 1e-2, 1e-4: 3e-2 is held from 1e4 on, though 1e2 evaluations touched it."""
    curve = curve_of(path([1.0, 1e-2, 1e-1, 1e-2, 1e-4]))
    assert (np.diff(curve.forward_kld) <= 0).all() and (np.diff(curve.held) <= 0).all()
    pooled = 10**-1.5  # the two middle ones, equally many simulations
    assert curve.forward_kld == pytest.approx([1.0, pooled, pooled, 1e-2, 1e-4])
    assert curve.held == pytest.approx([1.0, 1e-1, 1e-1, 1e-2, 1e-4])
    assert 1e3 < curve.reached(np.array(3e-2))[0] < 1e4
    assert curve.reached(np.array(pooled * (1 + 1e-9)))[0] == pytest.approx(100)
    ends, drawn = curve.to_target(1e-2)
    assert ends == pytest.approx([1e4, 1e4])  # as for a method
    assert first_held(np.array([1.0, 1e-2, 1e-1, 1e-2, 1e-4]), 1e-2) == 3
    assert drawn == pytest.approx(np.full((DRAWS, 2), 1e4))  # equal simulations


def test_reached_agrees_with_the_definition_for_methods() -> None:
    """The curve is at or below a level from the first bin on that a search over its points finds."""
    random = np.random.default_rng(3)
    curve = curve_of(*(simulations(noise=1.0, seed=s, run=s) for s in range(3)))
    for level in np.exp(random.uniform(np.log(curve.forward_kld[-1]), np.log(curve.forward_kld[0]), 50)):
        held = first_held(curve.forward_kld, level)
        assert held is not None
        at = curve.reached(np.array(level))[0]
        assert curve.evaluations[max(held - 1, 0)] <= at <= curve.evaluations[held] * (1 + 1e-12)


def test_the_band_holds_the_truth_and_a_lone_simulation_has_one_too() -> None:
    inside = []
    for seed in range(30):
        table = curve_of(simulations(seed=seed)).table
        truth = 1e4 / table["evaluations"]  # the median of the log-normal scatter
        inside += list((table["lower"] < truth) & (truth < table["upper"]))
        lone = table[table["simulations"] == 1]
        assert (lone["upper"] > 1.3 * lone["lower"]).all() and set(lone["band"]) == {"typical spread"}
        assert set(table[table["evaluations"] < 5e4]["band"]) == {"simulations"}
    assert 0.87 < np.mean(inside) <= 0.99


def test_several_long_runs_narrow_the_end_of_the_band() -> None:
    widths = []
    for number in (1, 4, 12):
        curve = curve_of(*(simulations(seed=2, run=r) for r in range(number)))
        assert curve.runs == number and curve.simulations[-1] == number
        assert curve.typical[-1] == (number < 8)
        last = curve.table.iloc[-1]
        widths.append(math.log(last["upper"] / last["lower"]))
    assert widths[0] > 1.2 * widths[1] and widths[1] > 1.2 * widths[2]


def test_draws_take_whole_simulations_and_scatter_like_the_curve() -> None:
    found = [curve_of(simulations(seed=s)) for s in range(30)]
    level = np.full(DRAWS, 0.5)
    truth = np.std([np.log(curve.reached(level[0])[0]) for curve in found])
    draws = np.std(np.log(found[0].reached_in_draws(level)[:, 0]))
    assert 0.4 * truth < draws < 2.5 * truth
    # simulations differ by constant factors: so do draws of whole simulations, along all bins of their walkers
    early = found[0].draws[:, found[0].evaluations < 9e3] * found[0].evaluations[found[0].evaluations < 9e3]
    assert (early.std(axis=1) < 1e-6 * early.mean(axis=1)).all() and early.mean(axis=1).std() > 0


def test_nothing_to_fit() -> None:
    empty = simulations()[:0]
    curve = MDCurve.from_table(empty.assign(walkers=[]))
    assert np.isnan(curve.reached(np.array(1e-2))).all() and len(curve.table) == 0
    assert np.isnan(curve.to_target(1e-2)[0]).all() and np.isnan(curve.power_law[0])


def test_runs_of_other_configurations_are_no_simulations_of_the_same_kind() -> None:
    """Same preset and seed, another engine or configuration: the one with the most evaluations makes the curve."""
    (found,) = find_runs([ROOT / "runs" / "aldp" / "md" / "long" / "seed-0"])
    alone = md_curves([found])["histogram"]
    for change in ({"engine": "openmm"}, {"config_hash": "0" * 64}):
        record = found.record.model_copy(update=change)
        worse = FoundRun(record, found.evaluations, 100 * found.forward_kld, auxiliary=found.auxiliary)
        both = md_curves([found, worse])["histogram"]
        assert np.array_equal(both.evaluations, alone.evaluations) and np.array_equal(both.held, alone.held)


def test_published_curves_never_rise() -> None:
    for system in ("aldp", "muller_brown"):
        curves = md_curves(find_runs([ROOT / "runs" / system / "md"]))
        for curve in curves.values():
            assert (np.diff(curve.forward_kld) <= 0).all() and (np.diff(curve.held) <= 0).all()
            assert (np.diff(curve.draws, axis=1) <= 0).all()
        (folder,) = (ROOT / "runs" / system).glob("md_curve/md_curve.csv")
        known = pd.read_csv(folder)
        for name, curve in curves.items():
            shown = known[known["estimator"] == name]
            assert shown["forward_kld"].to_numpy() == pytest.approx(curve.forward_kld, rel=1e-5)
            assert shown["upper"].to_numpy() == pytest.approx(curve.table["upper"].to_numpy(), rel=1e-5)


def test_command_draws_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    overrides = ["--set", "walkers=64", "--set", "steps=400"]
    assert (
        main(
            ["run", "--method", "md", "--system", "muller_brown", "--preset", "smoke", *overrides]
            + ["--threads", "1", "--out", str(runs)]
        )
        == 0
    )
    capsys.readouterr()
    assert main(["reference", "curve", "muller_brown", "--runs", str(runs), "--out", str(tmp_path / "curve")]) == 0
    printed = capsys.readouterr().out
    assert "histogram" in printed and "smoothed" in printed and "one long run" in printed and "at least" in printed
    table = pd.read_csv(tmp_path / "curve" / "md_curve.csv")
    assert set(table["estimator"]) == {"histogram", "smoothed"}
    assert (table["lower"] <= table["forward_kld"]).all() and (table["forward_kld"] <= table["upper"]).all()
    fits = json.loads((tmp_path / "curve" / "md_curve.json").read_text())["fits"]
    assert set(fits) == {"histogram", "smoothed"} and fits["histogram"]["runs"] == 1
    assert (tmp_path / "curve" / "md_curve.png").stat().st_size > 10_000
    assert main(["reference", "curve", "aldp", "--runs", str(runs)]) == 2
    assert "no finished run of method md on aldp" in capsys.readouterr().err
