"""Windows, their combination and the whole method, against exact answers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.running.run import prepare
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.lib.estimators.mbar import Frames, Windows, disconnected, statistical_inefficiency
from cgbench_methods.lib.sampling.restraints import HarmonicRestraints
from cgbench_methods.umbrella.estimate import combine
from cgbench_methods.umbrella.windows import Lattice, allocate

LINE = CollectiveVariables(("s",), (-3.0,), (3.0,), (False,), (60,))
TORUS = CollectiveVariables(("phi", "psi"), (-math.pi, -math.pi), (math.pi, math.pi), (True, True))


def harmonic_frames(centres: np.ndarray, stiffness: float, frames: int, seed: int = 0) -> tuple[Frames, np.ndarray]:
    """Exact samples of ``s^2 / 2`` under each restraint, and the exact free energies of the windows over the first."""
    random = np.random.default_rng(seed)
    total = 1.0 + stiffness
    s = random.normal(stiffness * centres / total, 1 / math.sqrt(total), size=(frames, len(centres)))
    exact = 0.5 * stiffness * centres**2 / total
    numbers = torch.arange(len(centres))
    return Frames(torch.from_numpy(s)[:, :, None], numbers, torch.zeros_like(numbers)), exact - exact[0]


def windows_at(centres: np.ndarray, stiffness: float) -> HarmonicRestraints:
    return HarmonicRestraints(LINE, torch.from_numpy(centres)[:, None], (stiffness,))


# ---- combining ------------------------------------------------------------------------------------


def test_free_energies_of_harmonic_windows() -> None:
    """Against the closed form, within 4 of pymbar's standard errors, and that error is small."""
    centres = np.linspace(-2.5, 2.5, 9)
    stretch, exact = harmonic_frames(centres, 8.0, 2_000)
    windows = Windows(windows_at(centres, 8.0), [stretch], np.zeros(9), frames=10**6)
    error = windows.mbar.compute_free_energy_differences()["dDelta_f"][0]
    assert error.max() < 0.15
    assert np.all(np.abs(windows.free_energy - exact)[1:] < 4 * error[1:])
    shifted = Windows(windows_at(centres, 8.0), [stretch], 3.0 * np.arange(9.0), frames=10**6)
    np.testing.assert_allclose(shifted.free_energy, windows.free_energy, atol=1e-4)  # wherever it starts


def test_weights_give_back_the_density_also_when_windows_are_sampled_unequally() -> None:
    """Windows of one and four walkers; all bins by chi-square at p > 1e-3, with the variance of weighted counts."""
    centres = np.linspace(-2.5, 2.5, 9)
    uneven = np.repeat(np.arange(9), [1, 1, 1, 4, 4, 1, 1, 1, 1])
    stretch, _ = harmonic_frames(centres[uneven], 8.0, 3_000)
    stretch = Frames(stretch.s, torch.from_numpy(uneven), torch.zeros(len(uneven), dtype=torch.long))
    windows = Windows(windows_at(centres, 8.0), [stretch], np.zeros(9), frames=10**6)
    histogram, exposure = windows.histogram(LINE, [stretch]), windows.exposure(LINE)
    edges = LINE.edges(0)
    exact = np.diff(stats.norm.cdf(edges))
    estimate = histogram / histogram.sum()
    relative = np.sqrt(1 / np.maximum(histogram * exposure, 1.0))
    z = (np.log(estimate) - np.log(exact / exact.sum())) / relative
    assert stats.chi2.sf((z**2).sum(), len(z)) > 1e-3


def test_exposure_is_what_the_windows_visit() -> None:
    """Density times exposure is the expected number of visits, in every bin within 5 sigma."""
    centres = np.linspace(-2.5, 2.5, 9)
    stretch, exact = harmonic_frames(centres, 8.0, 20_000)
    windows = Windows(windows_at(centres, 8.0), [stretch], exact, frames=20_000)
    visits = LINE.histogram(stretch.s.flatten()[:, None].numpy())
    density = np.diff(stats.norm.cdf(LINE.edges(0)))
    # free energies of windows are relative to the first, which fixes the scale of the exposure
    expected = density * windows.exposure(LINE)
    expected *= visits.sum() / expected.sum()
    assert np.all(np.abs(visits - expected) < 5 * np.sqrt(expected) + 0.02 * expected)


def test_overlap_of_two_gaussians_against_quadrature() -> None:
    centres = np.array([-0.5, 0.5])
    stretch, _ = harmonic_frames(centres, 8.0, 20_000)
    windows = Windows(windows_at(centres, 8.0), [stretch], np.zeros(2), frames=10**6)
    s = np.linspace(-4, 4, 20_001)
    p, q = (stats.norm.pdf(s, 8.0 * centre / 9.0, 1 / 3.0) for centre in centres)
    exact = np.trapezoid(2 * p * q / (p + q), s)
    (found,) = windows.pair_overlap(torch.tensor([[0, 1]]))
    assert found == pytest.approx(exact, abs=0.01)
    matrix = windows.overlap()
    assert matrix[0, 1] == pytest.approx(exact / 2, abs=0.01)  # of equally many samples
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)


def test_isolated_windows_are_named_and_others_are_not() -> None:
    """The same windows, and a gap among them: only the part beyond the gap is isolated."""

    def isolated(centres: np.ndarray) -> list[int]:
        stretch, exact = harmonic_frames(centres, 200.0, 1_000)
        windows = Windows(windows_at(centres, 200.0), [stretch], exact, frames=10**6)
        return disconnected(windows.overlap(), 0.03)

    dense = np.arange(-1.0, 1.01, 0.1)
    assert isolated(dense) == []
    gap = dense[(dense < 0.45) | (dense > 0.75)]
    assert isolated(gap) == [int(number) for number in np.flatnonzero(gap > 0.5)]


def test_statistical_inefficiency_of_autoregressive_series() -> None:
    """``(1 + r) / (1 - r)`` for an autoregressive process of coefficient r; 40 series of 4,000 frames, to a tenth."""
    random = np.random.default_rng(5)
    s, r = np.zeros((4_000, 40)), 0.8
    noise = random.normal(size=s.shape)
    for frame in range(1, len(s)):
        s[frame] = r * s[frame - 1] + noise[frame]
    numbers = torch.zeros(40, dtype=torch.long)
    stretch = Frames(0.1 * torch.from_numpy(s)[:, :, None], numbers, numbers)
    found = statistical_inefficiency(LINE, stretch, torch.zeros(1, 1, dtype=torch.float64))
    assert found == pytest.approx((1 + r) / (1 - r), rel=0.1)


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
    assert 0.5 < ratio < 2.0


# ---- windows --------------------------------------------------------------------------------------


def test_lattice_closes_where_the_variables_do() -> None:
    torus, line = Lattice(TORUS, 16), Lattice(LINE, 10)
    assert torus.nearest((-3.13, 3.13)) == (0, 30)
    assert set(torus.beside((0, 30))) == {(2, 30), (30, 30), (0, 0), (0, 28)}
    assert line.beside((0,)) == [(2,)] and line.nearest((7.0,)) == (18,)
    assert torus.beside((1, 30)) == []
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
