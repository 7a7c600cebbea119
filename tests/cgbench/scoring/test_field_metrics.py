"""Metrics of publications against their definitions, analytic values and independent code."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.scoring.field_metrics import (
    OF_SAMPLES,
    WeightedSamples,
    clipped_ess,
    energy_distances,
    ess,
    of_pmf,
    of_samples,
    phi_difference,
    ramachandran_kld,
    torus_w2,
)
from cgbench.scoring.referee import Referee
from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.molecular.system import torsion_cvs

CVS = torsion_cvs(("phi", "psi"))


def test_ramachandran_kld_as_published() -> None:
    """Densities of numpy's histogram plus 1e-10, and the area of a bin, as the publication writes it down."""
    random = np.random.default_rng(0)
    md, model = (random.vonmises([-1.0, 2.0], 2.0 + k, size=(20_000, 2)) for k in range(2))
    edges = np.linspace(-np.pi, np.pi, 101)
    p, q = (np.histogram2d(*s.T, bins=(edges, edges), density=True)[0] + 1e-10 for s in (md, model))
    expected = (p * np.log(p / q)).sum() * (2 * np.pi / 100) ** 2
    assert ramachandran_kld(CVS, CVS.histogram(md), CVS.histogram(model)) == pytest.approx(expected)


def test_empty_bins_cost_a_finite_amount(aldp: AlanineDipeptide) -> None:
    """The epsilon keeps it finite where the forward KLD is infinite."""
    reference = aldp_pmf(aldp)
    half = PMF(CVS, np.where(CVS.centers(0)[:, None] < 0, reference.probability, 0.0))
    found = of_pmf(reference, half)
    assert found["ramachandran_kld"] is not None and 0.01 < found["ramachandran_kld"] < 1.0
    lost = reference.probability[50:].sum()
    assert found["ramachandran_tv"] == pytest.approx(lost)
    assert found["delta_f_phi"] == math.inf


def aldp_pmf(aldp: AlanineDipeptide) -> PMF:
    reference = Referee(aldp).reference
    assert reference is not None
    return reference.pmf


def test_effective_sample_size_of_lognormal_weights() -> None:
    """Kish's size of exp(sigma z) is exp(-sigma^2); clipping the largest 1e-4 only raises it."""
    weights = np.exp(0.7 * np.random.default_rng(1).normal(size=400_000))
    assert ess(weights) == pytest.approx(math.exp(-(0.7**2)), rel=0.01)
    largest = np.sort(weights)[-40:]
    clipped = np.minimum(weights, largest[0])
    assert clipped_ess(weights) == pytest.approx(clipped.sum() ** 2 / len(weights) / (clipped**2).sum())
    assert clipped_ess(weights) > ess(weights)
    assert ess(np.ones(7)) == clipped_ess(np.ones(7)) == 1.0


def test_torus_w2_is_the_best_assignment() -> None:
    """Against all permutations, across the seam; a rigid shift is its own length."""
    random = np.random.default_rng(2)
    a, b = random.uniform(-np.pi, np.pi, (2, 6, 2))
    cost = (((a[:, None] - b[None] + np.pi) % (2 * np.pi) - np.pi) ** 2).sum(-1)
    best = min(sum(cost[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(6)))
    assert torus_w2(CVS, a, b) == pytest.approx(math.sqrt(best / 6))
    s = CVS.wrap(np.array([3.1, 0.0]) + 0.01 * random.normal(size=(50, 2)))
    assert torus_w2(CVS, s, CVS.wrap(s + [0.2, -0.1])) == pytest.approx(math.hypot(0.2, 0.1))


def test_energy_distances_against_scipy() -> None:
    """Equal samples have none; a shift has its own length; weights count as copies."""
    reference = np.random.default_rng(3).normal(size=2000)
    distance, w2 = energy_distances(reference, reference, np.ones(2000))
    assert distance == 0.0 and w2 == pytest.approx(0.0, abs=1e-12)
    shifted = energy_distances(reference, reference + 1.5, np.ones(2000))
    assert shifted[1] == pytest.approx(1.5) and 0.4 < shifted[0] < 0.7
    assert energy_distances(reference, reference + 100, np.ones(2000))[0] == pytest.approx(1.0)
    values, copies = np.array([0.0, 1.0]), np.array([1.0, 3.0])
    weighted = energy_distances(reference, values, copies)
    repeated = energy_distances(reference, np.repeat(values, [1, 3]), np.ones(4))
    assert weighted == pytest.approx(repeated)
    wasserstein = stats.wasserstein_distance(reference, values, v_weights=copies)  # of order 1: a lower bound
    assert wasserstein <= weighted[1] < 2 * wasserstein + 1


def test_free_energy_of_phi() -> None:
    """Bins at the ends of [0, 2] rad count in part: a flat PMF has the share 1 / pi."""
    flat = PMF(CVS, np.ones((100, 100)))
    found = of_pmf(flat, flat)
    assert found["delta_f_phi"] == pytest.approx(math.log(math.pi - 1)) and found["delta_f_phi_error"] == 0.0
    assert phi_difference(0.0) == math.inf and phi_difference(1.0) == -math.inf


def test_samples_of_the_reference_score_well(aldp: AlanineDipeptide) -> None:
    """All metrics of independent samples are near their best value; equally of weighted ones from a flat density."""
    reference = aldp_pmf(aldp)
    random = np.random.default_rng(4)
    grid, width = CVS.grid(), 2 * np.pi / 100
    for weighted in (False, True):
        p = np.full(10_000, 1e-4) if weighted else reference.probability.reshape(-1)
        index = random.choice(10_000, 200_000, p=p)
        s = grid[index] + random.uniform(-0.5, 0.5, (200_000, 2)) * width
        weights = reference.probability.reshape(-1)[index] if weighted else np.ones(200_000)
        samples = WeightedSamples(s, weights / weights.mean(), weighted)
        other = grid[random.choice(10_000, 2000, p=reference.probability.reshape(-1))]
        found = of_samples(reference, samples, random, other)
        assert set(found) == set(OF_SAMPLES)
        assert found["ramachandran_tv"] < 0.12 and found["ramachandran_kld"] < 0.12
        assert abs(found["delta_f_phi_error"]) < 0.15
        assert found["torus_w2"] < 0.4
        assert (found["ess"] is None) == (not weighted)
        assert found["energy_w2"] is None and found["eubo"] is None


def test_other_systems_have_no_ramachandran_plot() -> None:
    line = CollectiveVariables(("s",), (0.0,), (1.0,), (False,), (10,), unit="nm")
    pmf = PMF(line, np.ones(10))
    assert set(of_pmf(pmf, pmf).values()) == {None}
