"""MBAR against harmonic windows with exact free energies, densities and overlaps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.estimators.mbar import Frames, Windows, disconnected, statistical_inefficiency
from cgbench_methods.lib.sampling.restraints import HarmonicRestraints

LINE = CollectiveVariables(("s",), (-3.0,), (3.0,), (False,), (60,))


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
