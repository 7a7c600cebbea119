"""Drift between the halves of a simulation: no alarm without one, and the size of the error with one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench_methods.lib.estimators.drift import SIGNIFICANT, drift, with_drift
from cgbench_methods.lib.estimators.jackknife import Fitted

BINS, GROUPS, WALKERS, STEPS = 36, 8, 64, 300
CVS = CollectiveVariables(("x",), (-math.pi,), (math.pi,), (True,), (BINS,), "rad")
WELLS = np.array([-1.5, 1.5])
POPULATION = 0.3  # of the second well


def histograms(rng: np.random.Generator, memory: float, start: int | None) -> NDArray[np.float64]:
    """Walkers that hop between two wells and forget where they were after `memory` steps, ``[2, groups, bins]``."""
    well = (rng.random(WALKERS) < POPULATION).astype(int) if start is None else np.full(WALKERS, start)
    found = np.zeros((2, GROUPS, BINS))
    group = np.arange(WALKERS) * GROUPS // WALKERS
    for step in range(STEPS):
        well = np.where(rng.random(WALKERS) < 1 / memory, rng.random(WALKERS) < POPULATION, well).astype(int)
        bins = CVS.bin_index((WELLS[well] + 0.3 * rng.standard_normal(WALKERS))[:, None])
        np.add.at(found[2 * step // STEPS], (group, bins), 1.0)
    return found


def error(halves: NDArray[np.float64]) -> tuple[float, float]:
    """The error of the second well's free energy, and the standard deviation that the drift adds there, in kT."""
    total = halves.sum((0, 1))
    share = total[BINS // 2 :].sum() / total.sum()
    at = int(CVS.bin_index(WELLS[1:, None])[0])
    # both for free energies whose mean over the density is zero
    return (1 - POPULATION) * -math.log(share / POPULATION), math.sqrt(drift(CVS, halves).variance[at])


@pytest.mark.parametrize("memory", [5.0, 30.0, 150.0])
def test_scatter_is_no_drift(memory: float) -> None:
    rng = np.random.default_rng(1)
    found = [drift(CVS, histograms(rng, memory, None)) for _ in range(60)]
    assert np.mean([one.ratio > SIGNIFICANT for one in found]) <= 0.1
    assert np.median([one.ratio for one in found]) < 1.5
    assert all(one.variance.any() == (one.ratio > SIGNIFICANT) for one in found)


def test_a_start_that_is_not_forgotten_shows_in_the_error() -> None:
    """All walkers start in one well, and remember it for half of the simulation: the error is 0.4 kT."""
    rng = np.random.default_rng(2)
    found = np.array([error(histograms(rng, 150.0, 0)) for _ in range(40)])
    true = math.sqrt(np.mean(found[:, 0] ** 2))
    assert true > 0.3 and found[:, 0].min() > 0  # too few in the second well, every time
    assert true < math.sqrt(np.mean(found[:, 1] ** 2)) < 2 * true
    assert np.mean(found[:, 1] > 0.3 * found[:, 0]) > 0.6


def test_without_scatter_the_drift_is_the_difference() -> None:
    """All groups alike: the second well holds 0.2 in the first half and 0.4 in the second."""
    shape = np.exp(-0.5 * ((CVS.centers(0)[:, None] - WELLS) / 0.15) ** 2)
    shape /= shape.sum(0)
    halves = np.stack([np.tile(shape @ [1 - share, share], (GROUPS, 1)) for share in (0.2, 0.4)])
    found = drift(CVS, halves)
    logs = np.log([0.8 / 0.6, 0.2 / 0.4])
    expected = (logs - logs @ [0.7, 0.3]) ** 2
    at = CVS.bin_index(WELLS[:, None])
    np.testing.assert_allclose(found.variance[at], expected, rtol=1e-3)
    assert found.ratio > 1e6


def test_too_little_to_say() -> None:
    rng = np.random.default_rng(3)
    halves = histograms(rng, 30.0, None)
    one_group = np.where(np.arange(GROUPS)[None, :, None] == 2, halves, 0.0)
    first_half = halves * np.array([1.0, 0.0])[:, None, None]
    for few in (one_group, first_half, np.zeros_like(halves)):
        found = drift(CVS, few)
        assert math.isnan(found.ratio) and not found.variance.any()
    elsewhere = halves.copy()
    elsewhere[0, :, BINS // 2 :] = elsewhere[1, :, : BINS // 2] = 0.0  # the halves share no bin but the kernel's
    assert np.isfinite(drift(CVS, elsewhere).variance).all()


def test_standard_errors_contain_it() -> None:
    rng = np.random.default_rng(2)
    halves = histograms(rng, 150.0, 0)
    probability = np.full(BINS, 1 / BINS)
    std = np.full(BINS, 0.1)
    fitted = Fitted(PMF(CVS, probability, std), {"expected_kld": 0.005, "fourier_order": 2}, 0.3)
    found, alone = with_drift(fitted, halves), drift(CVS, halves)
    assert alone.ratio > SIGNIFICANT and found.held_out == 0.3 and found.facts["fourier_order"] == 2
    assert found.pmf.free_energy_std is not None
    np.testing.assert_allclose(found.pmf.free_energy_std, np.sqrt(0.01 + alone.variance))
    assert found.facts["drift"] == alone.ratio
    assert found.facts["expected_kld"] == pytest.approx(0.5 * (0.01 + alone.variance).mean())
    without = Fitted(PMF(CVS, probability), {})
    assert with_drift(without, halves) is without
