"""Speedups: bounds, seeds that missed a target, and MD against itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cgbench.results.baseline.curve import MDCurve, longest_walkers
from cgbench.results.baseline.speedups import Seeds
from cgbench.results.runs import FoundRun, find_runs, first_held

ROOT = Path(__file__).parents[4]
NOMINAL = 0.95
TIMES = np.logspace(2, 4.5, 21)
WALKERS = 64


def exact_curve(factor: float = 1.0) -> MDCurve:
    """KLD = 100 / N from 1e3 to 1e6, eight equal simulations."""
    n = np.logspace(3, 6, 25)
    one = pd.DataFrame({"walkers": 1, "run": 0, "evaluations": n, "forward_kld": factor * 100 / n})
    return MDCurve.from_table(pd.concat([one.assign(replicate=r) for r in range(8)]))


def test_the_median_over_seeds_of_the_ratio_of_costs() -> None:
    curve = exact_curve()
    scores, costs = np.array([1e-2, 2e-2, 5e-3]), np.array([10.0, 20.0, 40.0])
    found = Seeds(scores, 0.0, "x").at_scores(curve, costs)
    assert found.value == pytest.approx(np.median(100 / scores / costs), rel=0.02) and found.bound == ""
    assert (found.low, found.high) == pytest.approx((250, 1000), rel=0.02)  # the range of three seeds
    in_time = Seeds(scores, 0.0, "x").at_scores(curve, costs, 1e-3)
    assert in_time.value == pytest.approx(1e-3 * found.value)


def test_beyond_the_ends_of_the_curve_there_are_bounds() -> None:
    curve = exact_curve()
    right = Seeds(np.full(3, 1e-6), 0.0, "x").at_scores(curve, np.full(3, 10.0))
    assert right.bound == "at least" and right.value == pytest.approx(curve.evaluations[-1] / 10)
    assert right.low == right.value and right.high == math.inf
    left = Seeds(np.full(3, 1.0), 0.0, "x").at_scores(curve, np.full(3, 10.0))
    assert left.bound == "at most" and left.value == pytest.approx(curve.evaluations[0] / 10) and left.low == 0
    floor = Seeds(np.full(3, 1e-4), 1e-3, "x").at_scores(curve, np.full(3, 10.0))
    assert floor.bound == "at least" and floor.value == pytest.approx(1e4, rel=0.02) and floor.high == math.inf
    mixed = Seeds(np.array([1e-6, 1e-2, 2e-2]), 0.0, "x").at_scores(curve, np.full(3, 10.0))
    assert mixed.bound == "" and mixed.value == pytest.approx(1e3, rel=0.02)  # the median seed is on the curve
    assert mixed.high == math.inf
    none = Seeds(np.array([math.nan]), 0.0, "x").at_scores(curve, np.array([1.0]))
    assert math.isnan(none.value)


def test_a_seed_below_the_noise_floor_is_a_bound_from_below() -> None:
    """One of five seeds is below the floor at a large cost: its own speedup is anything from 100 on."""
    scores, costs = np.array([1e-3, 1e-3, 1e-3, 1e-3, 1e-5]), np.array([40.0, 50.0, 20.0, 25.0, 1e4])
    found = Seeds(scores, 1e-4, "x").at_scores(exact_curve(), costs)
    assert found.bound == "at least" and found.value == pytest.approx(1e5 / 40, rel=0.03)


def test_at_a_target_a_miss_is_an_infinite_cost() -> None:
    curve = exact_curve()
    seeds = Seeds(np.full(3, 1e-3), 0.0, "x")
    found = seeds.at_target(curve, 1e-2, np.array([100.0, 200.0, math.inf]))
    assert found.value == pytest.approx(50, rel=0.02) and found.low == 0 and found.high == pytest.approx(100, rel=0.02)
    assert math.isnan(seeds.at_target(curve, 1e-2, np.array([100.0, math.inf, math.inf])).value)
    beyond = seeds.at_target(curve, 1e-5, np.full(3, 10.0))
    assert beyond.bound == "at least" and beyond.high == math.inf


def test_fewer_than_three_seeds_get_the_scatter_of_md() -> None:
    random = np.random.default_rng(0)
    n = np.logspace(3, 6, 25)
    parts = [
        pd.DataFrame({"walkers": 1, "run": 0, "evaluations": n, "forward_kld": factor * 100 / n, "replicate": r})
        for r, factor in enumerate(np.exp(0.5 * random.normal(size=64)))
    ]
    curve = MDCurve.from_table(pd.concat(parts))
    assert curve.spread == pytest.approx(0.5, rel=0.25)
    lone, three = Seeds(np.array([1e-2]), 0.0, "x"), Seeds(np.full(3, 1e-2), 0.0, "x")
    assert lone.assumed and not three.assumed
    found = lone.at_scores(curve, np.array([10.0]))
    assert math.log(found.high / found.low) == pytest.approx(2 * 1.96 * curve.spread, rel=0.3)
    alike = three.at_scores(curve, np.full(3, 10.0))
    assert math.log(alike.high / alike.low) < 0.5 * math.log(found.high / found.low)


def test_streams_of_seeds_and_of_simulations_are_independent() -> None:
    """Seeds and simulations that are drawn by one stream would be drawn alike."""
    curve = exact_curve()
    a, b = Seeds(np.ones(8), 0.0, "a"), Seeds(np.ones(8), 0.0, "b")
    assert not np.array_equal(a._drawn, b._drawn)
    assert np.array_equal(a._drawn, Seeds(np.ones(8), 0.0, "a")._drawn)
    assert curve.draws.shape[0] == len(a._drawn)


# ---- MD against itself ------------------------------------------------------------------------------------


def md_run(random: np.random.Generator, modes: int, run: int) -> pd.DataFrame:
    """A long run whose walkers have independent errors of `modes` slow modes, which fall with the square root of time.

    The KLD of a group of walkers is half the sum of squares of its mean errors, as for small errors of a PMF. With one
    mode it scatters as on a double well, with eight as on alanine dipeptide.
    """
    gaps = np.diff(TIMES, prepend=0.0)
    walks = (random.normal(size=(len(TIMES), WALKERS, modes)) * np.sqrt(gaps)[:, None, None]).cumsum(0)
    parts = []
    for size in (1, 8, 64):
        for replicate in range(min(16, WALKERS // size)):
            error = walks[:, replicate * size : (replicate + 1) * size].sum(1) / (size * TIMES[:, None])
            columns = {"name": f"histogram/{size}", "replicate": replicate, "evaluations": size * TIMES, "run": run}
            parts.append(pd.DataFrame(columns | {"forward_kld": 500 / modes * (error**2).sum(1)}))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(("modes", "long_runs"), [(1, 4), (8, 1)])
def test_md_has_no_speedup_over_itself(modes: int, long_runs: int) -> None:
    """The 95 % interval covers 1 in most of many sets of replicates: at reached scores and at a target.

    Five independent long runs are the seeds of the "method", cut anywhere in their second half. Measured over 100 sets
    of each kind, with one, three and five seeds: 92 % to 98 % at reached scores, 91 % to 100 % at a target. Here 20
    sets: at a coverage of 95 %, 17 or more hold 1 with a probability of 98 %.
    """
    random = np.random.default_rng([modes, long_runs])
    target, sets = 5e-4, 20
    at_scores, at_target = [], []
    for number in range(sets):
        runs = pd.concat([md_run(random, modes, r) for r in range(long_runs)])
        curve = MDCurve.from_table(longest_walkers(runs, "histogram"), str(number))
        own = [md_run(random, modes, 0) for _ in range(5)]
        own = [table[table["name"] == f"histogram/{WALKERS}"] for table in own]
        klds, n = (np.array([table[name] for table in own]) for name in ("forward_kld", "evaluations"))
        at = int(random.integers(10, len(TIMES)))
        seeds = Seeds(klds[:, at], 0.0, str(number))
        found = seeds.at_scores(curve, n[:, at])
        at_scores.append(found.low <= 1 <= found.high)
        held = [first_held(kld, target) for kld in klds]
        costs = np.array([math.inf if h is None else n[0, h] for h in held])
        found = seeds.at_target(curve, target, costs)
        at_target.append(math.isnan(found.value) or found.low <= 1 <= found.high)
    assert np.mean(at_scores) >= NOMINAL - 0.1 and np.mean(at_target) >= NOMINAL - 0.1


def own_table(runs: Sequence[FoundRun], estimator: str) -> pd.DataFrame:
    """Return the simulations of several long runs, each whole run as one more simulation."""
    tables = []
    for number, run in enumerate(runs):
        whole = {"name": f"histogram/{run.record.config['walkers']}", "replicate": 0, "evaluations": run.evaluations}
        assert run.auxiliary is not None
        everything = pd.concat([run.auxiliary, pd.DataFrame(whole | {"forward_kld": run.forward_kld})])
        tables.append(everything.assign(run=number))
    return longest_walkers(pd.concat(tables), estimator)


@pytest.mark.parametrize("estimator", ["histogram", "smoothed"])
@pytest.mark.parametrize("system", ["aldp", "muller_brown"])
def test_leave_one_out_over_the_published_simulations(system: str, estimator: str) -> None:
    """Each simulation against the curve of all others: the interval covers 1 for at least 90 % of them (41 a run)."""
    runs = find_runs([ROOT / "runs" / system / "md" / "long"])
    table = own_table(runs, estimator)
    simulation = table.groupby(["run", "walkers", "replicate"]).ngroup()
    covered, values = [], []
    for number in range(simulation.max() + 1):
        last = table[simulation == number].iloc[-1]
        curve = MDCurve.from_table(table[simulation != number], str(number))
        seeds = Seeds(np.array([last["forward_kld"]]), 0.0, str(number))
        found = seeds.at_scores(curve, np.array([last["evaluations"]]))
        covered.append(found.low <= 1 <= found.high)
        values.append(found.value)
    assert len(covered) == 41 * len(runs) and np.mean(covered) >= 0.9
    assert 0.5 < np.median(values) < 2
