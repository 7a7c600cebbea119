"""The curve of plain MD, on synthetic simulations with a known power law."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cgbench.cli.main import main
from cgbench.results.baseline.curve import MDCurve, longest_walkers


def simulations(noise: float = 0.3, seed: int = 0) -> pd.DataFrame:
    """Simulations of 1, 8 and 64 walkers up to 1e4 steps: KLD = 1e4 / N with a random factor for each simulation."""
    random = np.random.default_rng(seed)
    rows = []
    for walkers, replicates in ((1, 16), (8, 8), (64, 1)):
        for replicate in range(replicates):
            factor = math.exp(noise * random.normal())
            for steps in np.logspace(1, 4, 25):
                n = walkers * steps
                rows.append((f"histogram/{walkers}", replicate, n, factor * 1e4 / n))
                rows.append((f"smoothed/{walkers}", replicate, n, 0.25 * factor * 1e4 / n))
    return pd.DataFrame(rows, columns=["name", "replicate", "evaluations", "forward_kld"]).assign(run=0)


def test_the_longest_walkers_serve_each_number_of_evaluations() -> None:
    found = longest_walkers(simulations(), "histogram")
    for low, high, walkers in ((0, 1e4, 1), (1.01e4, 8e4, 8), (8.1e4, 1e6, 64)):
        part = found[(found["evaluations"] > low) & (found["evaluations"] <= high)]
        assert set(part["walkers"]) == {walkers}
    assert (found["steps"] >= 1e4 / 9)[found["walkers"] > 1].all()


@pytest.mark.parametrize(("estimator", "factor"), [("histogram", 1.0), ("smoothed", 0.25)])
def test_power_law_and_interpolation(estimator: str, factor: float) -> None:
    curve = MDCurve.from_table(longest_walkers(simulations(noise=0.05), estimator))
    a, b = curve.power_law
    assert b == pytest.approx(-1.0, abs=0.05) and a == pytest.approx(factor * 1e4, rel=0.5)
    needed, extrapolated = curve.evaluations_to(factor * 0.5)
    assert needed == pytest.approx(2e4, rel=0.2) and not extrapolated
    needed, extrapolated = curve.evaluations_to(factor * 1e-4)
    assert needed == pytest.approx(1e8, rel=0.4) and extrapolated


def test_the_band_holds_the_truth_and_a_lone_simulation_has_one_too() -> None:
    inside = []
    for seed in range(30):
        table = MDCurve.from_table(longest_walkers(simulations(seed=seed), "histogram")).table
        mean = math.exp(0.3**2 / 2) * 1e4  # of the log-normal scatter
        inside += list((table["lower"] < mean / table["evaluations"]) & (mean / table["evaluations"] < table["upper"]))
        lone = table[table["replicates"] == 1]
        assert (lone["upper"] > 1.3 * lone["lower"]).all()
    assert 0.85 < np.mean(inside) <= 0.99


def test_draws_scatter_like_the_curve() -> None:
    found = [MDCurve.from_table(longest_walkers(simulations(seed=s), "histogram")) for s in range(30)]
    truth = np.std([np.log(curve.evaluations_to(0.1)[0]) for curve in found])
    draws = np.std([np.log(drawn.evaluations_to(0.1)[0]) for drawn in found[0].draws])
    assert 0.4 * truth < draws < 2.5 * truth


def test_nothing_to_fit() -> None:
    empty = simulations()[:0]
    curve = MDCurve.from_table(empty.assign(walkers=[]))
    assert math.isnan(curve.evaluations_to(1e-2)[0])


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
    assert "histogram" in printed and "smoothed" in printed
    table = pd.read_csv(tmp_path / "curve" / "md_curve.csv")
    assert set(table["estimator"]) == {"histogram", "smoothed"}
    assert (table["lower"] <= table["forward_kld"]).all() and (table["forward_kld"] <= table["upper"]).all()
    fits = json.loads((tmp_path / "curve" / "md_curve.json").read_text())["fits"]
    assert set(fits) == {"histogram", "smoothed"}
    assert (tmp_path / "curve" / "md_curve.png").stat().st_size > 10_000
    assert main(["reference", "curve", "aldp", "--runs", str(runs)]) == 2
    assert "no finished run of method md on aldp" in capsys.readouterr().err
