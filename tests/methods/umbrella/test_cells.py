"""Free energies from frames in cells against pymbar, and standard errors against the spread of repetitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.estimators.jackknife import student_factor
from cgbench_methods.lib.estimators.mbar import Frames, solve
from cgbench_methods.lib.sampling.restraints import HarmonicRestraints
from cgbench_methods.umbrella.cells import Cells
from cgbench_methods.umbrella.estimate import combine

LINE = CollectiveVariables(("s",), (-2.0,), (2.0,), (False,), (40,))
RING = CollectiveVariables(("a", "b"), (-math.pi, -math.pi), (math.pi, math.pi), (True, True), (20, 20))
CENTRES = np.linspace(-2.25, 2.25, 7)
STIFFNESS = 6.0


def harmonic_frames(random: np.random.Generator, frames: int, tilts: np.ndarray, parts: int = 1) -> Frames:
    """Exact samples of ``s^2 / 2 + tilt s`` in all windows; each block of a replicate has its own tilt."""
    total, replicates = 1.0 + STIFFNESS, len(tilts)
    shift = np.repeat(tilts.reshape(replicates, parts), frames // parts, axis=1).T  # [frames, replicates]
    mean = (STIFFNESS * CENTRES - shift[:, :, None]) / total
    s = random.normal(mean, 1 / math.sqrt(total)).reshape(frames, -1, 1)
    numbers = torch.arange(len(CENTRES))
    return Frames(
        torch.from_numpy(s), numbers.repeat(replicates), torch.arange(replicates).repeat_interleave(len(CENTRES))
    )


def line_restraints() -> HarmonicRestraints:
    return HarmonicRestraints(LINE, torch.from_numpy(CENTRES)[:, None], (STIFFNESS,))


def pymbar_energies(restraints: HarmonicRestraints, frames: Frames) -> np.ndarray:
    s = frames.s.transpose(0, 1).flatten(0, 1).double()
    energies = restraints.between(s[:, None], restraints.centres[None]).T
    counts = np.full(len(restraints.centres), len(frames.s))
    return np.asarray(solve(np.ascontiguousarray(energies.numpy()), counts, np.zeros(len(counts))).f_k)


def test_free_energies_are_those_of_pymbar_with_all_frames() -> None:
    """Frames outside the domain count as well: windows stand beyond its ends. The cells cost less than 0.002 kT."""
    frames = harmonic_frames(np.random.default_rng(1), 2_000, np.zeros((1, 1)))
    assert float((frames.s.abs() > 2.0).double().mean()) > 0.05
    found, residual = Cells(LINE, line_restraints(), [frames]).free_energies(np.zeros(7))
    expected = pymbar_energies(line_restraints(), frames)
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=2e-3)
    assert residual < 1e-6
    exact = 0.5 * STIFFNESS * (CENTRES**2 - CENTRES[0] ** 2) / (1.0 + STIFFNESS)
    assert np.abs(found - found[0] - exact).max() < 0.25  # 4 sigma at the far end


@pytest.mark.parametrize("place", [30.0, -1e4])
def test_a_frame_far_outside_the_domain_counts_as_in_pymbar(place: float) -> None:
    """All Boltzmann factors of such a frame are below the smallest number."""
    frames = harmonic_frames(np.random.default_rng(1), 2_000, np.zeros((1, 1)))
    frames.s[7, 3] = place
    found, residual = Cells(LINE, line_restraints(), [frames]).free_energies(np.zeros(7))
    expected = pymbar_energies(line_restraints(), frames)
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=2e-3)
    assert residual < 1e-6
    frames.s[7, 3] = 1e30 * np.sign(place)  # pymbar itself rounds too much here
    found, _ = Cells(LINE, line_restraints(), [frames]).free_energies(np.zeros(7))
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=0.05)


def test_histogram_and_exposure_of_cells_are_those_of_all_frames() -> None:
    """The sum of the weights over the exposure, and the exposure by its formula, with a frame far out among them."""
    frames = harmonic_frames(np.random.default_rng(5), 2_000, np.zeros((1, 1)))
    frames.s[7, 3] = 40.0
    restraints, free_energy = line_restraints(), 0.5 * STIFFNESS * CENTRES**2 / (1.0 + STIFFNESS)
    cells = Cells(LINE, restraints, [frames])
    histogram, exposure = cells.histogram(free_energy, np.ones(1, dtype=bool))

    def exposed(s: np.ndarray) -> np.ndarray:
        return (2_000 * np.exp(free_energy - 0.5 * STIFFNESS * (s[:, None] - CENTRES) ** 2)).sum(1)

    np.testing.assert_allclose(exposure, exposed(LINE.centers(0)), rtol=1e-10)
    s = frames.s.numpy().ravel()
    s = s[np.abs(s) < 2.0]
    expected = np.histogram(s, LINE.edges(0), weights=1.0 / exposed(s))[0]
    np.testing.assert_allclose(histogram, expected, rtol=5e-3)


def test_free_energies_on_a_torus_are_those_of_pymbar() -> None:
    centres = torch.tensor([[0.0, -3.0], [0.0, 3.0], [1.0, 3.0], [1.0, -2.5]], dtype=torch.float64)
    restraints = HarmonicRestraints(RING, centres, (4.0, 3.0))
    random = np.random.default_rng(2)
    grid = RING.grid(20)
    bias = restraints.between(torch.from_numpy(grid)[:, None], centres[None]).numpy()
    p = np.exp(-bias - np.cos(grid[:, :1] - grid[:, 1:]))
    s = np.stack([grid[random.choice(len(grid), 1_500, p=one / one.sum())] for one in p.T], axis=1)
    frames = Frames(torch.from_numpy(s), torch.arange(4), torch.zeros(4, dtype=torch.long))
    found, _ = Cells(RING, restraints, [frames]).free_energies(np.zeros(4))
    expected = pymbar_energies(restraints, frames)
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=2e-3)


def test_a_window_without_frames_has_the_free_energy_that_the_others_give_it() -> None:
    frames = harmonic_frames(np.random.default_rng(3), 2_000, np.zeros((1, 1)))
    frames.s[:, 3] = torch.nan
    found, _ = Cells(LINE, line_restraints(), [frames]).free_energies(np.zeros(7))
    exact = 0.5 * STIFFNESS * CENTRES**2 / (1.0 + STIFFNESS)
    assert abs(found[3] - found[2] - (exact[3] - exact[2])) < 0.15


def claimed_and_true(tilt: float, per_block: bool) -> tuple[np.ndarray, np.ndarray]:
    """Squared standard errors and squared errors of 24 repetitions, at bins below 2 kT, ``[repetitions, bins]``."""
    random = np.random.default_rng(4)
    edges = LINE.edges(0)
    exact = np.diff(stats.norm.cdf(edges))
    exact /= exact.sum()
    claimed, errors = [], []
    for _ in range(24):
        tilts = random.normal(0.0, tilt, (4, 4 if per_block else 1))
        frames = harmonic_frames(random, 80, np.broadcast_to(tilts, (4, 4)), parts=4)
        pmf = combine(
            LINE,
            line_restraints(),
            [frames],
            np.zeros(7),
            cutoff=5.0,
            mbar_frames=2_000,
            min_overlap=0.01,
            stretches_for_errors=4,
        ).pmf
        error = np.log(exact) - np.log(pmf.probability)
        assert pmf.free_energy_std is not None
        claimed.append(pmf.free_energy_std**2)
        errors.append((error - (exact * error).sum()) ** 2)
    low = np.log(exact.max() / exact) < 2.0
    return np.array(claimed)[:, low], np.array(errors)[:, low]


def test_standard_errors_of_independent_samples() -> None:
    """The larger of two estimates of the same variance is at most half as large again, and never below it.

    Student's factor for four replicates is in the claims.
    """
    claimed, errors = claimed_and_true(0.0, per_block=False)
    assert 0.9 < claimed.mean() / errors.mean() < 2.5 * student_factor(4) ** 2  # 24 repetitions: 0.3 relative
    assert (errors < 1.96**2 * claimed).mean() > 0.93


def test_standard_errors_where_parts_of_a_replicate_are_correlated() -> None:
    """Each replicate has its own slope of 0.3 kT: parts of one replicate say nothing about it."""
    claimed, errors = claimed_and_true(0.3, per_block=False)
    factor = student_factor(4) ** 2
    assert 0.6 < claimed.mean() / errors.mean() / factor < 2.0  # errors from sixteen parts alone: 0.25
    assert (errors < 1.96**2 * claimed).mean() > 0.9
