"""Unbiased MD against exact answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cgbench.errors import UserError
from cgbench.running.run import prepare, run
from cgbench.scoring.divergences import forward_kld
from cgbench_systems.muller_brown import MullerBrown

DOUBLE_WELL = f"{Path(__file__).parents[2] / 'examples' / 'double_well.py'}:DoubleWell"


@pytest.mark.parametrize("system", ["muller_brown", "aldp"])
def test_no_sample_at_all_is_no_result(system: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stride must not exceed steps"):
        run(system, "md", preset="smoke", overrides=["steps=5", "stride=10"], out=tmp_path)


def test_metropolis_converges_within_the_basin_that_it_starts_in(tmp_path) -> None:
    """On Müller-Brown the barrier of 10 kT is out of reach, but within the main basin the estimate is right."""
    overrides = ["walkers=200", "steps=4000", "equilibration_steps=500"]
    record = run("muller_brown", "md", preset="default", overrides=overrides, out=tmp_path, threads=1)
    assert record.status == "finished"
    assert record.evaluations.by_phase["production"] == 200 * 4000
    (path,) = tmp_path.rglob("pmf.npz")
    with np.load(path) as arrays:
        basin = arrays["centers_0"] < -1.6
        estimate = arrays["probability"][basin]
    exact = MullerBrown().reference().pmf.probability[basin]
    assert forward_kld(exact, estimate) < 2e-4  # 8e5 correlated samples, 25 bins
    assert record.metrics["delta_f_error/product (lower right)"] > 1.0  # not found, and the score says so


def test_langevin_counts_every_step_of_every_walker(tmp_path) -> None:
    overrides = ["walkers=8", "steps=50", "equilibration_steps=10"]
    record = run("aldp", "md", preset="smoke", overrides=overrides, out=tmp_path, threads=1)
    assert record.evaluations.by_phase == {"equilibrate": 80, "production": 400}
    assert record.evaluations.publication_convention == 400
    assert record.metrics["forward_kld"] > 0.1  # four hundred steps are far too few


def test_auxiliary_estimates_are_parts_of_the_same_steps(tmp_path) -> None:
    """Groups of walkers cost their share, and the group of all smoothed is the estimate smoothed."""
    overrides = ["walkers=16", "steps=200", "equilibration_steps=20", "estimates_per_decade=4"]
    job = prepare("muller_brown", "md", preset="smoke", overrides=overrides, out=tmp_path, threads=1)
    job.execute()
    side = pd.read_csv(job.folder.path / "side_estimates.csv")
    assert set(side["name"]) == {"smoothed/16", "histogram/1", "smoothed/1", "histogram/8", "smoothed/8"}
    last = side[side["evaluations"] == side["evaluations"].max()]
    assert (
        last["name"].tolist() == ["smoothed/16"] and last["evaluations"].iloc[0] == 16 * 221
    )  # the start is evaluated too
    eights = side[side["name"] == "histogram/8"].tail(2)
    assert eights["evaluations"].tolist() == [8 * 221] * 2 and eights["forward_kld"].nunique() == 2
    (counts,) = job.method.counts
    assert int(counts.sum()) == 16 * 200 and counts.shape == (2, 16, 100)


def test_walkers_that_do_not_come_back_are_not_reliable(tmp_path) -> None:
    """A barrier of 10 kT and one of 3 kT, with the same steps."""
    overrides = ["walkers=50", "steps=4000", "step_size=0.3"]
    for number, (system, back) in enumerate({"muller_brown": False, DOUBLE_WELL: True}.items()):
        record = run(system, "md", preset="smoke", overrides=overrides, out=tmp_path / str(number), threads=1)
        (trips,) = record.diagnostics["round_trips_per_walker"].values()
        assert (trips > 0.5) is back and record.diagnostics["reliable"] is back
        assert any("few round trips per walker" in line for line in record.diagnostics["warnings"]) is not back
