"""The Fourier fit of reweighted histograms, on densities that are known."""

from __future__ import annotations

import numpy as np
import pytest

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.lib.estimators.fourier_fit import choose_order, fit, fit_likeliest
from cgbench_systems.muller_brown import MullerBrown, exact_probability

TORUS = CollectiveVariables(("a", "b"), (-np.pi, -np.pi), (np.pi, np.pi), (True, True), bins=(40, 40))
STRIP = CollectiveVariables(("a", "r"), (-np.pi, 0.0), (np.pi, 2.0), (True, False), bins=(40, 30))


def known_density(cvs: CollectiveVariables = TORUS) -> np.ndarray:
    a, b = cvs.grid().T
    energy = 2.0 * np.cos(a) + 1.5 * np.cos(2 * b) + np.sin(a + b) + 0.7 * np.cos(3 * a - b)
    if not cvs.periodic[1]:
        energy = 2.0 * np.cos(a) + (1.0 + np.sin(a)) * b + 2.0 * (b - 0.8) ** 2
    p = np.exp(-energy).reshape(cvs.bins)
    return p / p.sum()


def flattening(p: np.ndarray) -> np.ndarray:
    exposure = 1.0 / np.maximum(p, p.max() * 1e-3)
    return exposure / (p * exposure).sum()


def drawn(p: np.ndarray, exposure: np.ndarray, visits: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two independent reweighted histograms of so many visits each."""
    random = np.random.default_rng(seed)
    counts = random.multinomial(visits, (p * exposure).ravel(), size=2).reshape(2, *p.shape)
    return counts[0] / exposure, counts[1] / exposure


def test_fit_beats_the_histogram_and_knows_its_order() -> None:
    """Counts under a bias: the fit finds the density, an order between too stiff and too loose is chosen."""
    p = known_density()
    exposure = flattening(p)
    weighted = drawn(p, exposure, 200_000, seed=3)
    order, scores = choose_order(TORUS, weighted, exposure, orders=(1, 2, 3, 6, 10))
    assert order in (3, 6)
    assert scores[1] > scores[2] > scores[3]
    whole = weighted[0] + weighted[1]
    best = fit(TORUS, whole, exposure, order).probability()
    assert forward_kld(p, best) < 0.2 * forward_kld(p, np.maximum(whole, 1e-12))
    assert forward_kld(p, best) < 1e-4


def test_fit_is_the_maximum_of_the_likelihood_from_any_start() -> None:
    p = known_density()
    exposure = flattening(p)
    first, second = drawn(p, exposure, 20_000, seed=4)
    cold = fit(TORUS, first, exposure, 4)
    warm = fit(TORUS, first, exposure, 4, start=fit(TORUS, second, exposure, 4))
    other = fit(TORUS, first, exposure, 4, start=fit(TORUS, second, exposure, 6))
    for again in (warm, other):
        np.testing.assert_allclose(again.probability(), cold.probability(), rtol=2e-3)


def test_an_offset_leaves_the_fit_what_it_lacks() -> None:
    """A density that one wave corrects: order 1 is enough, and its error is below that without the offset."""
    p = known_density()
    exposure = flattening(p)
    first, second = drawn(p, exposure, 20_000, seed=5)
    a, _ = TORUS.grid().T
    offset = (np.log(p).ravel() + 0.8 * np.cos(a - 1.0)).reshape(TORUS.bins)
    corrected, _ = fit_likeliest(TORUS, (first, second), exposure, orders=(1, 3, 6), offset=offset)
    assert corrected.order == 1
    free, _ = fit_likeliest(TORUS, (first, second), exposure, orders=(1, 3, 6))
    assert forward_kld(p, corrected.probability()) < 0.6 * forward_kld(p, free.probability())
    warm = fit(TORUS, first + second, exposure, 1, start=fit(TORUS, first, exposure, 2, offset=offset), offset=offset)
    np.testing.assert_allclose(warm.probability(), corrected.probability(), rtol=2e-3)
    with pytest.raises(ValueError, match="bins cannot be divided"):
        corrected.probability(2)


def test_error_of_the_fit_is_that_of_its_parameters() -> None:
    """An efficient estimate of n numbers from N unbiased samples has an expected forward KLD of n / 2N."""
    p = known_density()
    flat = np.ones(TORUS.bins)
    klds = [forward_kld(p, fit(TORUS, drawn(p, flat, 50_000, seed)[0], flat, 3).probability()) for seed in range(8)]
    assert np.mean(klds) == pytest.approx(48 / 100_000, rel=0.25)  # 4 sigma: sqrt(2 / (8 * 48)) = 0.07 each


def test_a_slope_at_the_end_of_the_domain_is_followed() -> None:
    p = known_density(STRIP)
    exposure = flattening(p)
    weighted = drawn(p, exposure, 200_000, seed=5)
    best, scores = fit_likeliest(STRIP, weighted, exposure, orders=(2, 3, 4, 6))
    assert best.order in (2, 3) and min(scores, key=lambda order: scores[order]) == best.order
    assert forward_kld(p, best.probability()) < 2e-4
    ends = np.abs(np.log(best.probability() / p))[:, [0, -1]]
    assert ends.max() < 0.3


def test_one_collective_variable_with_walls_of_many_kt() -> None:
    p = exact_probability(MullerBrown().cvs)
    exposure = 1.0 / np.maximum(p, p.max() * np.exp(-14.0))
    exposure /= (p * exposure).sum()
    weighted = drawn(p, exposure, 50_000, seed=6)
    best, _ = fit_likeliest(MullerBrown().cvs, weighted, exposure)
    assert forward_kld(p, best.probability()) < 5e-4
    fine = best.probability(4).reshape(-1, 4).sum(1)
    assert forward_kld(p, fine) < 5e-4


def test_what_was_never_seen_is_improbable_but_possible() -> None:
    p = known_density() ** 3
    p /= p.sum()
    flat = np.ones(TORUS.bins)
    counts = drawn(p, flat, 20_000, seed=7)[0]
    found = fit(TORUS, counts, flat, 6).probability()
    rare = p < 1e-8
    assert rare.mean() > 0.2 and counts[rare].sum() == 0
    assert np.all(found > 0) and found[rare].sum() < 1e-3


def test_a_soft_penalty_does_not_flatten_a_flank_with_few_visits() -> None:
    """Mean error at Müller-Brown's left end (12 kT, 3 to 17 visits per bin, 2,000 elsewhere) over twelve samples."""
    cvs = MullerBrown().cvs
    p = exact_probability(cvs)
    exposure = 1.0 / np.maximum(p, p.max() * np.exp(-5.0))
    exposure /= (p * exposure).sum()

    def error_at_the_end(stiffness: float) -> float:
        errors = []
        for seed in range(12):
            found = fit(cvs, drawn(p, exposure, 100_000, seed)[0], exposure, 12, stiffness=stiffness).probability()
            error = np.log(p / found)
            errors.append(error - (p * error).sum())
        return float(np.mean(errors, axis=0)[:3].mean())

    assert abs(error_at_the_end(1.0 / 14.0**2)) < 0.2  # 3 sigma
    assert error_at_the_end(1.0) > 0.3
