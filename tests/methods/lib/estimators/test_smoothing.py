"""The smoothed estimate against a density that is known."""

from __future__ import annotations

import numpy as np
import pytest

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.lib.estimators.smoothing import likeliest_width, smooth, smoothed_pmf

TORUS = CollectiveVariables(("phi", "psi"), (-np.pi, -np.pi), (np.pi, np.pi), (True, True))
LINE = CollectiveVariables(("s",), (0.0,), (1.0,), (False,))


def density() -> np.ndarray:
    s = TORUS.grid()
    p = np.exp(2.5 * np.cos(s[:, 0] - 3.0) + 1.5 * np.cos(s[:, 1]) + np.sin(s[:, 0] + s[:, 1]))
    return (p / p.sum()).reshape(TORUS.bins)


def test_smoothing_keeps_the_mass_and_closes_the_seam() -> None:
    counts = np.zeros(TORUS.bins)
    counts[0, 50] = 1.0
    spread = smooth(TORUS, counts, 2.0)
    assert spread.sum() == pytest.approx(1.0) and spread[-1, 50] == pytest.approx(spread[1, 50])
    ends = np.zeros(LINE.bins)
    ends[0] = 1.0
    assert smooth(LINE, ends, 3.0).sum() == pytest.approx(1.0) and smooth(LINE, ends, 3.0)[-1] < 1e-12


def test_more_samples_mean_less_smoothing_and_a_better_estimate() -> None:
    random = np.random.default_rng(0)
    p = density()
    widths = []
    for samples in (1_000, 30_000, 3_000_000):
        first, second = (random.multinomial(samples, p.ravel()).reshape(p.shape).astype(float) for _ in range(2))
        widths.append(likeliest_width(TORUS, (first, second), 0.1))
        smoothed = smoothed_pmf(TORUS, (first, second), 0.1)
        plain = first + second + 0.5
        assert forward_kld(p, smoothed.probability) < 0.6 * forward_kld(p, plain)
    assert widths[0] > widths[1] > widths[2] > 0.0


def test_samples_that_repeat_themselves_within_a_stretch_are_not_taken_for_many() -> None:
    """Each of few samples counted a thousand times: halves that are independent still ask for a wide kernel."""
    random = np.random.default_rng(1)
    p = density()
    first, second = (1000.0 * random.multinomial(1_000, p.ravel()).reshape(p.shape) for _ in range(2))
    assert likeliest_width(TORUS, (first, second), 0.1) >= 1.4


def test_an_empty_half_gives_the_widest_kernel() -> None:
    counts = np.zeros(LINE.bins)
    counts[10] = 5.0
    pmf = smoothed_pmf(LINE, (counts, np.zeros(LINE.bins)), 0.1)
    assert np.all(pmf.probability > 0) and pmf.probability[10] < 0.2
