"""Standard errors of fits to weighted histograms: each part against an exact result, all together against the truth."""

from __future__ import annotations

import numpy as np
import pytest

from cgbench.running.run import prepare
from cgbench_methods.lib.estimators.fourier_fit import Curvature, fit
from cgbench_methods.lib.estimators.jackknife import (
    SystematicVariance,
    jackknife_fit,
    jackknife_variance,
    standard_error,
    student_factor,
    variance_of_fit,
    warnings_of_errors,
)
from cgbench_systems.muller_brown import MullerBrown, exact_probability

CVS = MullerBrown().cvs
ORDERS = (2, 3, 4, 6, 8, 12, 16)
EXACT = exact_probability(CVS)
HEIGHT = np.log(EXACT.max() / EXACT)
LOW = HEIGHT < 8.0


def drawn(visits: float, seed: int, groups: int = 8, flattened: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Return histograms of independent groups under a bias, ``[groups, bins]``, and the exposure ``[bins]``."""
    exposure = np.exp(flattened * HEIGHT.clip(max=12.0))
    exposure *= visits / (EXACT * exposure).sum()
    random = np.random.default_rng(seed)
    return random.poisson(EXACT * exposure / groups, (groups, len(EXACT))) / exposure, exposure


def errors_and_claims(visits: float, repetitions: int, flattened: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Return errors and claimed standard errors below 8 kT of repeated draws, ``[repetitions, bins]`` each."""
    errors, claims = [], []
    for seed in range(repetitions):
        groups, exposure = drawn(visits, seed, flattened=flattened)
        whole = groups.sum(0)
        pmf = jackknife_fit(CVS, groups, exposure, ORDERS, lambda group: whole - groups[group]).pmf  # noqa: B023
        error = (-np.log(pmf.probability) - HEIGHT)[LOW]
        assert pmf.free_energy_std is not None
        errors.append(error - (EXACT[LOW] * error).sum() / EXACT[LOW].sum())
        claims.append(pmf.free_energy_std[LOW])
    return np.array(errors), np.array(claims)


@pytest.mark.parametrize(("visits", "flattened"), [(1e4, 0.8), (1e5, 0.8), (1e6, 0.8), (1e6, 0.0)])
def test_intervals_cover_the_truth(visits: float, flattened: float) -> None:
    """Where few visits let the penalty flatten the PMF, and where the order is limited by the noise.

    The error of one repetition is much the same in all bins: 20 repetitions are about 100 independent errors. Without
    the factor for few groups and the two systematic parts, coverage is 0.79, 0.87, 0.88 and 0.86.
    """
    errors, claims = errors_and_claims(visits, 20, flattened)
    assert 0.90 <= (np.abs(errors) < 1.96 * claims).mean() <= 0.98


def test_few_groups_need_the_factor_of_students_distribution() -> None:
    """Means of four normal variables, against the standard error of their scatter."""
    values = np.random.default_rng(0).normal(size=(20_000, 4))
    without = (values.sum(1, keepdims=True) - values) / 3
    sampling = 3 * without.var(axis=1)
    np.testing.assert_allclose(sampling, values.var(axis=1, ddof=1) / 4)
    nothing = SystematicVariance(np.zeros(1), np.zeros(1))
    covered = [
        (np.abs(values.mean(1)) < 1.96 * std).mean()
        for std in (np.sqrt(sampling), standard_error(sampling, nothing, 4))
    ]
    assert covered[0] < 0.87 and covered[1] == pytest.approx(0.95, abs=0.005)
    assert student_factor(10_000) == pytest.approx(1.0, abs=1e-3)


def test_variance_to_first_order_is_that_of_the_jackknife() -> None:
    groups, exposure = drawn(1e6, 1)
    whole = groups.sum(0)
    fitted = fit(CVS, whole, exposure, 8)
    probability = fitted.probability()
    without = [-np.log(fit(CVS, whole - one, exposure * 7 / 8, 8, fitted).probability()) for one in groups]
    exact = jackknife_variance(without, probability)
    shares = np.full((8, 1), 1 / 8)
    first_order = Curvature(fitted, exposure).variance_of_groups(groups * exposure, shares * exposure)
    np.testing.assert_allclose(first_order[LOW], exact[LOW], rtol=0.1)


def test_bias_by_the_penalty_is_that_of_a_fit_without() -> None:
    """Expected visits without noise: what is left of the error, at an order that is enough, is the penalty's bias."""
    _, exposure = drawn(1e4, 0)
    fitted = fit(CVS, EXACT, exposure, 16)
    error = -np.log(fitted.probability()) - HEIGHT
    error -= (fitted.probability() * error).sum()
    claim = Curvature(fitted, exposure).bias_of_penalty()
    rest = np.sqrt((error[LOW] ** 2).mean())
    assert rest > 0.02 and np.sqrt(((error - claim)[LOW] ** 2).mean()) < 0.5 * rest
    soft = Curvature(fit(CVS, EXACT, exposure, 16, stiffness=1e-3), exposure, 1e-3).bias_of_penalty()
    assert np.abs(soft[LOW]).mean() < 0.1 * np.abs(claim[LOW]).mean()


def test_truncation_adds_the_noise_of_the_next_order_and_nothing_at_the_last() -> None:
    groups, exposure = drawn(1e5, 2)
    shares = np.full((8, 1), 1 / 8)
    fitted = fit(CVS, groups.sum(0), exposure, 6)
    found = variance_of_fit(fitted, groups * exposure, shares * exposure, (4, 6, 8))
    assert found.truncation.min() >= 0.0 and found.truncation[LOW].mean() > 0.0
    last = variance_of_fit(fitted, groups * exposure, shares * exposure, (4, 6))
    assert not last.truncation.any()
    assert (last.penalty <= found.penalty).all() and last.penalty.any()


def test_only_large_errors_are_warned_of() -> None:
    assert warnings_of_errors(None) == warnings_of_errors(0.01) == []
    assert warnings_of_errors(0.011) == ["too few samples: the expected forward KLD is 1.1e-02"]


@pytest.mark.parametrize("method", ["opes", "metadynamics", "parallel_tempering"])
def test_short_runs_say_that_their_expected_divergence_is_large(method: str, tmp_path) -> None:
    found = prepare("muller_brown", method, preset="smoke", out=tmp_path, threads=1).execute().diagnostics
    assert found["expected_kld"] > 0.01
    assert any("too few samples: the expected forward KLD is" in warning for warning in found["warnings"])
