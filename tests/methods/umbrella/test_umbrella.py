"""Windows, their combination and the whole method, against exact answers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.stats
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.running.run import prepare
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.lib.estimators.fourier_fit import _basis
from cgbench_methods.lib.estimators.jackknife import variance_of_fit
from cgbench_methods.lib.estimators.mbar import Frames
from cgbench_methods.lib.sampling.restraints import HarmonicRestraints
from cgbench_methods.umbrella import estimate
from cgbench_methods.umbrella.estimate import combine
from cgbench_methods.umbrella.windows import Lattice, allocate

LINE = CollectiveVariables(("s",), (-3.0,), (3.0,), (False,), (60,))
TORUS = CollectiveVariables(("phi", "psi"), (-math.pi, -math.pi), (math.pi, math.pi), (True, True))


# ---- estimate -------------------------------------------------------------------------------------


def test_smooth_estimate_and_its_error_on_a_torus() -> None:
    """Exact samples of a known PMF in 36 windows of four replicates: small KLD, standard errors of the right size."""
    random = np.random.default_rng(2)
    fine = TORUS.grid()
    energy = 2.0 * np.cos(fine[:, 0]) + 1.5 * np.cos(2 * fine[:, 1]) - np.sin(fine[:, 0] - fine[:, 1])
    truth = np.exp(-energy) / np.exp(-energy).sum()
    lattice = Lattice(TORUS, 6)
    sites = [(2 * i, 2 * j) for i in range(6) for j in range(6)]
    restraints = HarmonicRestraints(TORUS, lattice.centres(sites), (2.0, 2.0))
    replicates, frames = 4, 100
    under = restraints.between(torch.from_numpy(fine)[:, None], restraints.centres[None]).numpy()
    drawn = []
    for bias in under.T:
        p = np.exp(-energy - bias)
        drawn.append(fine[random.choice(len(fine), size=(frames, replicates), p=p / p.sum())])
    s = torch.from_numpy(np.stack(drawn, axis=2)).reshape(frames, -1, 2)
    window, replicate = torch.arange(36).repeat(replicates), torch.arange(replicates).repeat_interleave(36)
    combined = combine(
        TORUS,
        restraints,
        [Frames(s, window, replicate)],
        np.zeros(36),
        cutoff=12.0,
        mbar_frames=5_000,
        min_overlap=0.03,
        stretches_for_errors=1,
    )
    pmf = combined.pmf
    assert forward_kld(truth.reshape(TORUS.bins), pmf.probability) < 2e-3  # 14,400 samples; their histogram has 0.3
    assert combined.facts["isolated"] == []
    error = np.log(truth).reshape(TORUS.bins) - np.log(pmf.probability)
    error -= (truth.reshape(TORUS.bins) * error).sum()
    std = pmf.free_energy_std
    assert std is not None
    weights = truth.reshape(TORUS.bins)
    ratio = np.sqrt((weights * error**2).sum() / (weights * std**2).sum())
    student = scipy.stats.t.ppf(0.975, replicates - 1) / scipy.stats.norm.ppf(0.975)  # 1.6: a factor of the claim
    assert 0.5 / student < ratio < 2.0 / student


def test_blocks_have_the_exposure_of_the_fit_where_nothing_was_explored(monkeypatch) -> None:
    """Windows in one half of the domain, ten equal frames in a row: visits and exposures against their definitions."""
    random = np.random.default_rng(3)
    centres, stiffness, replicates = np.linspace(-2.5, 0.0, 5), 6.0, 4
    mean, width = stiffness * centres / (1.0 + stiffness), 1.0 / math.sqrt(1.0 + stiffness)
    s = random.normal(mean, width, (40, replicates, 5)).repeat(10, axis=0).reshape(400, -1, 1)
    frames = Frames(
        torch.from_numpy(s), torch.arange(5).repeat(replicates), torch.arange(replicates).repeat_interleave(5)
    )
    restraints = HarmonicRestraints(LINE, torch.from_numpy(centres)[:, None], (stiffness,))
    given = []

    def spy(fitted, visits, exposures, *rest):
        given.append((fitted, visits, exposures))
        return variance_of_fit(fitted, visits, exposures, *rest)

    monkeypatch.setattr(estimate, "variance_of_fit", spy)
    combined = combine(
        LINE,
        restraints,
        [frames],
        np.zeros(5),
        cutoff=5.0,
        mbar_frames=5_000,
        min_overlap=0.01,
        stretches_for_errors=4,
    )
    ((fitted, visits, exposures),) = given
    inefficiency, histogram = combined.facts["statistical_inefficiency"], combined.histogram
    assert inefficiency > 5.0 and len(visits) == len(exposures) == 16
    bias = 0.5 * stiffness * (LINE.grid() - centres) ** 2
    made = (400 * replicates * np.exp(combined.windows.free_energy - bias)).sum(1) / inefficiency
    least = math.exp(5.0) / histogram.max()  # visited once at the cutoff
    unexplored = (bias.min(1) > 1.0) & (histogram == 0)
    expected = np.where(unexplored, np.maximum(made, least), made)
    assert (expected > 10 * made).sum() > 10
    np.testing.assert_allclose(exposures.sum(0), expected, rtol=1e-6)
    np.testing.assert_allclose(visits.sum(0), histogram * expected, rtol=0.05, atol=0.1)
    # as many visits as the fit expects in all: the derivative by its constant vanishes at the minimum
    values = fitted.probability()
    constant = fitted.coefficients[0] + _basis(LINE, 0, fitted.order)[0][:, 1:] @ fitted.coefficients[1:]
    assert np.ptp(np.log(values) - constant) < 1e-9
    assert visits.sum() == pytest.approx((exposures.sum(0) * np.exp(constant)).sum(), rel=1e-2)


# ---- windows --------------------------------------------------------------------------------------


def test_lattice_closes_where_the_variables_do() -> None:
    torus, line = Lattice(TORUS, 16), Lattice(LINE, 10)
    assert torus.nearest((-3.13, 3.13)) == (0, 30)
    assert set(torus.beside((0, 30))) == {(2, 30), (30, 30), (0, 0), (0, 28)}
    assert line.beside((0,)) == [(2,)] and line.nearest((7.0,)) == (18,)
    assert torus.beside((1, 30)) == []
    assert Lattice(TORUS, 2).beside((0, 2)) == [(2, 2), (0, 0)]  # each once, although it is on both sides
    assert torus.midpoint((30, 4), (0, 4)) == (31, 4) and torus.midpoint((0, 0), (2, 2)) is None
    assert line.midpoint((0,), (4,)) is None
    np.testing.assert_allclose(line.centres([(0,), (1,), (18,)])[:, 0], [-2.7, -2.4, 2.7])
    sites = [(2 * i, 2 * j) for i in range(16) for j in range(16)]
    pairs = torus.pairs(sites)
    assert len(pairs) == 256 * 8 // 2
    gaps = torus.centres(sites)[pairs[:, 0]] - torus.centres(sites)[pairs[:, 1]]
    around = torch.remainder(gaps + math.pi, 2 * math.pi) - math.pi
    assert float(around.abs().max()) == pytest.approx(2 * math.pi / 16)


def test_walkers_go_where_the_population_is_but_to_every_window() -> None:
    numbers = allocate(np.array([0.0, 2.0, 12.0, 12.0]), 100)
    assert numbers.sum() == 100 and numbers.min() > 5 and numbers[0] > numbers[1] > numbers[2] >= numbers[3]
    assert allocate(np.array([0.0, 5.0, 9.0]), 2).tolist() == [1, 1, 1]


# ---- the method -----------------------------------------------------------------------------------


def test_recovers_the_exact_pmf_of_muller_brown(tmp_path) -> None:
    job = prepare(
        "muller_brown", "umbrella", seed=1, out=tmp_path, threads=1, overrides=["evaluations=800000", "estimates=4"]
    )
    record = job.execute()
    assert record.status == "finished" and record.evaluations.total <= 800_000
    assert record.metrics["forward_kld"] < 1e-3
    assert all(abs(value) < 0.4 for name, value in record.metrics.items() if name.startswith("delta_f_error"))
    assert record.diagnostics["warnings"] == [] and record.diagnostics["windows"] >= 20
    assert len(job.curve) > 10 and job.curve[0]["evaluations"] < 100_000
    assert set(record.evaluations.by_phase) == {"grow", "settle", "production"}


def test_windows_too_far_apart_are_reported(tmp_path) -> None:
    """Narrow windows on the same path: nothing in between is allowed to open, and the record says so."""
    overrides = ["width=0.08", "pair_overlap=0", "evaluations=20000", "cutoff=6.0", "step_size=0.05"]
    record = prepare("muller_brown", "umbrella", preset="smoke", out=tmp_path, threads=1, overrides=overrides).execute()
    assert record.diagnostics["isolated"]
    assert any("do not overlap" in warning for warning in record.diagnostics["warnings"])
    json.dumps(record.diagnostics)


def test_windows_open_between_neighbours_that_hardly_overlap(tmp_path) -> None:
    def sites(*overrides: str) -> list[tuple[int, ...]]:
        settings = ["width=0.3", "evaluations=6000", "cutoff=5.0", "max_rounds=4", *overrides]
        job = prepare("muller_brown", "umbrella", preset="smoke", out=tmp_path, threads=1, overrides=settings)
        job.execute()
        return job.method.walkers.sites

    assert any(site[0] % 2 for site in sites("pair_overlap=0.6"))
    assert not any(site[0] % 2 for site in sites("pair_overlap=0"))


def test_windows_stay_below_the_cutoff(tmp_path) -> None:
    """With a cutoff below the barrier of 10 kT the method keeps to its basin, and runs to its size."""
    overrides = ["cutoff=5.0", "margin=0.5", "evaluations=100000", "estimates=2"]
    job = prepare("muller_brown", "umbrella", out=tmp_path, threads=1, overrides=overrides)
    record = job.execute()
    centres = job.method.walkers.centres()[:, 0]
    assert -2.5 < float(centres.min()) and float(centres.max()) < -1.4
    assert 0.95 * 100_000 < record.evaluations.total <= 100_000
