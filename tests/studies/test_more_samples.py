"""A run compared with more samples of its own flow."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from cgbench.cli.main import guarded
from cgbench.contracts.pmf import PMF, basin_mask
from cgbench_systems.muller_brown import MullerBrown
from studies import more_samples

PARTS = 20


def truth() -> tuple[MullerBrown, PMF]:
    system = MullerBrown()
    return system, system.reference().pmf


def parts_of(pmf: PMF, count: int, seed: int) -> np.ndarray:
    """Sums of weights of one, for independent samples of a PMF."""
    p = np.asarray(pmf.probability, dtype=np.float64)
    p = p / p.sum()
    return np.random.default_rng(seed).multinomial(count // PARTS, p.reshape(-1), size=PARTS).reshape(PARTS, *p.shape)


def test_a_perfect_pmf_differs_by_the_noise_of_the_samples() -> None:
    system, exact = truth()
    claimed = np.full(exact.cvs.bins, 1e-3)
    pmf = PMF(exact.cvs, exact.probability, claimed)
    *places, blocks = more_samples.table_of(pmf, system, parts_of(exact, 200_000, 1))
    assert [row["place"] for row in places] == [b.name for b in system.basins]
    for row in places:
        assert abs(row["run_minus_samples"]) < 4 * row["samples_se"] < 0.2
    assert blocks["forward_kld"] == pytest.approx(blocks["noise"], rel=0.7)
    assert blocks["coverage_95"] > 0.8


def test_a_basin_that_is_too_high_is_found() -> None:
    """One basin of the run is 0.2 kT too high, and its errors claim 0.01 kT."""
    system, exact = truth()
    basin = system.basins[1]
    inside = basin_mask(exact.cvs, basin.contains)
    wrong = np.where(inside, np.exp(-0.2), 1.0) * exact.probability
    pmf = PMF(exact.cvs, wrong / wrong.sum(), np.full(exact.cvs.bins, 0.01))
    rows = {row["place"]: row for row in more_samples.table_of(pmf, system, parts_of(exact, 1_000_000, 2))}
    found = rows[basin.name]
    share = float(exact.probability[inside].sum() / exact.probability.sum())
    expected = 0.2 + np.log(1 - share * (1 - np.exp(-0.2)))
    assert found["run_minus_samples"] == pytest.approx(expected, abs=4 * found["samples_se"])
    assert found["run_minus_samples"] > 10 * found["samples_se"]
    kld = share * 0.2 + np.log(1 - share * (1 - np.exp(-0.2)))
    assert rows["blocks"]["forward_kld"] == pytest.approx(kld + rows["blocks"]["noise"], rel=0.3)
    assert kld > 4 * rows["blocks"]["noise"]


def test_command(tmp_path: Path, capsys) -> None:
    arguments = ["--system", "muller_brown", "--samples", "40000", "--out", str(tmp_path)]
    assert guarded(more_samples.command, "more_samples", arguments) == 0
    assert "place blocks, forward_kld" in capsys.readouterr().out
    with (tmp_path / "more_samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["place"] == "blocks" and rows[-1]["run"] == ""
    assert float(rows[-1]["forward_kld"]) < 2e-3
    for row in rows[:-1]:
        assert abs(float(row["run_minus_samples"])) < max(5 * float(row["samples_se"]), 0.02)


def test_mistakes_cost_one_line(tmp_path: Path, capsys) -> None:
    for arguments, message in (
        (["--system", "muller_brown", "--preset", "paper"], "only our recipe is served"),
        (["--system", "val_chi"], "at most two CVs"),
        (["--samples", "3"], "--samples 3: at least 20 are needed"),
    ):
        assert guarded(more_samples.command, "more_samples", ["--out", str(tmp_path), *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
