"""Statistics of blocks, on known distributions."""

from __future__ import annotations

import numpy as np
import pytest

from cgbench.scoring.divergences import forward_kld
from cgbench_systems.molecular.reference.statistics import (
    bootstrap,
    grouped,
    halves,
    log_ratio_error,
    noise_floor,
    share,
)

BINS = 40


def known_density() -> np.ndarray:
    angle = -np.pi + (np.arange(BINS) + 0.5) * 2 * np.pi / BINS
    a, b = np.meshgrid(angle, angle, indexing="ij")
    energy = 2.0 * np.cos(a) + 1.5 * np.cos(2 * b) + np.sin(a + b) + 0.7 * np.cos(3 * a - b)
    p = np.exp(-energy)
    return p / p.sum()


def test_noise_floor_is_half_a_chi_square_per_sample() -> None:
    """The noise floor of N independent samples on B bins is (B - 1) / 2N."""
    random = np.random.default_rng(0)
    p, samples, blocks = known_density(), 4000, 100
    drawn = random.multinomial(samples, p.ravel(), size=blocks).reshape(blocks, BINS, BINS).astype(float)
    floor = noise_floor(*halves(drawn))
    assert floor == pytest.approx((BINS**2 - 1) / (2 * samples * blocks), rel=0.15)
    assert forward_kld(p, np.maximum(drawn.sum(0), 0.5)) == pytest.approx(floor, rel=0.15)


def test_share_and_its_error_are_binomial_and_right() -> None:
    random = np.random.default_rng(1)
    p, mask = known_density(), np.zeros((BINS, BINS), dtype=bool)
    mask[: BINS // 3] = True
    drawn = random.multinomial(5000, p.ravel(), size=60).reshape(60, BINS, BINS).astype(float)
    value, error = share(drawn, mask)
    true = p[mask].sum()
    assert abs(value - true) < 4 * error
    assert error == pytest.approx(np.sqrt(true * (1 - true) / 300_000), rel=0.3)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.45, 0.45, 0.1), (0.85, 0.1, 0.05)])
def test_the_error_of_a_free_energy_is_that_of_the_ratio(shares: tuple[float, ...]) -> None:
    """Populations that add up to one are anticorrelated: for two, errors of their logarithms add up."""
    random = np.random.default_rng(3)
    drawn = random.multinomial(500, shares, size=(4000, 16)).astype(float)
    ratios = np.log(drawn[:, :, 0].sum(1) / drawn[:, :, 1].sum(1))
    errors = [log_ratio_error(groups[:, 0], groups[:, 1]) for groups in drawn[:400]]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(ratios.std(), rel=0.06)


def test_correlated_blocks_need_grouping() -> None:
    """Repeated blocks look independent unless they are grouped."""
    random = np.random.default_rng(2)
    p, mask = known_density(), np.zeros((BINS, BINS), dtype=bool)
    mask[:, : BINS // 2] = True
    drawn = random.multinomial(2000, p.ravel(), size=40).reshape(40, BINS, BINS).astype(float)
    repeated = np.repeat(drawn, 10, axis=0)
    assert share(grouped(repeated, 10), mask)[1] > 2.5 * share(repeated, mask)[1]
    with pytest.raises(ValueError, match="at least 4"):
        grouped(drawn, 20)


def test_bootstrap_spread_is_the_standard_error() -> None:
    random = np.random.default_rng(4)
    drawn = random.normal(2.0, 1.0, size=(50, 1, 1))
    draws = bootstrap(drawn, lambda total: total / 50, 500)
    assert draws.std() == pytest.approx(1 / np.sqrt(50), rel=0.2)
