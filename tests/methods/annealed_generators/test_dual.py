"""The dual problem of constrained mass transport on Gaussians, where divergences and entropies are known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import check_grad

from cgbench_methods.annealed_generators.dual import Dual, NextTarget

SAMPLES = 400_000
WIDE, CENTRE, NARROW = 2.0, 1.0, 0.5  # q_i = N(0, WIDE^2), p = N(CENTRE, NARROW^2)


def samples(seed: int = 0, shift: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """``ln p`` (without its normalisation) and ``ln q_i`` of samples of q_i."""
    z = np.random.default_rng(seed).normal(0.0, WIDE, SAMPLES)
    log_q = -0.5 * (z / WIDE) ** 2 - math.log(WIDE * math.sqrt(2 * math.pi))
    return shift - 0.5 * ((z - CENTRE) / NARROW) ** 2, log_q


def between(trust: float, entropy: float) -> tuple[float, float]:
    """Mean and width of the Gaussian ``q_i^(l/m) p^(1/m)`` with the multipliers l and h and ``m = 1 + l + h``."""
    powers = 1.0 + trust + entropy
    precision = (trust / WIDE**2 + 1.0 / NARROW**2) / powers
    return CENTRE / NARROW**2 / powers / precision, precision**-0.5


def divergence(mean: float, width: float) -> float:
    """KL divergence of N(mean, width^2) from q_i."""
    return math.log(WIDE / width) + 0.5 * (width**2 + mean**2) / WIDE**2 - 0.5


def solved(trust_region: float, entropy: float) -> NextTarget:
    return Dual(*samples(), trust_region, entropy).solve()


@pytest.mark.parametrize("multipliers", [(0.3, 0.2), (4.0, 0.0), (0.0, 2.0), (30.0, 7.0)])
def test_moments_are_those_of_the_gaussian_between(multipliers) -> None:
    mean, width = between(*multipliers)
    _, found, decrease = Dual(*samples(), 1.0, 1.0).moments(*multipliers)
    assert found == pytest.approx(divergence(mean, width), abs=0.02)
    assert decrease == pytest.approx(math.log(WIDE / width), abs=0.02)


def test_slopes_are_the_derivatives_of_the_dual_function() -> None:
    dual = Dual(*samples(), 0.3, 0.4)
    at = np.array([1.3, 0.6])
    wrong = check_grad(lambda x: dual.value_and_slopes(x)[0], lambda x: dual.value_and_slopes(x)[1], at)
    assert wrong < 1e-5


@pytest.mark.parametrize(
    ("bounds", "active"),
    [
        ((0.2, 10.0), (True, False)),  # the trust region alone
        ((10.0, 0.3), (False, True)),  # the entropy alone
        ((0.15, 0.3), (True, True)),
        ((0.001, 5.0), (True, False)),  # a short step
        ((10.0, 10.0), (False, False)),  # p itself
    ],
)
def test_active_constraints_are_met_with_equality_and_others_hold(bounds, active) -> None:
    found = solved(*bounds)
    values = found.divergence, found.entropy_decrease
    multipliers = found.trust_region, found.entropy
    for value, bound, multiplier, binding in zip(values, bounds, multipliers, active, strict=True):
        if binding:
            assert multiplier > 0 and value == pytest.approx(bound, rel=1e-3)
        else:
            assert multiplier == 0.0 and value < bound
    assert found.is_the_target == (active == (False, False))
    mean, width = between(*multipliers)  # the same values from the exact Gaussian, up to the noise of the samples
    assert values == pytest.approx((divergence(mean, width), math.log(WIDE / width)), abs=0.02)


def test_no_other_density_under_the_constraints_is_nearer_to_the_target() -> None:
    """KL(q || p) of the solution is below that of all other Gaussians that obey both constraints."""
    trust_region, entropy = 0.25, 0.35

    def distance(mean, width):
        return np.log(NARROW / width) + 0.5 * (width**2 + (mean - CENTRE) ** 2) / NARROW**2 - 0.5

    found = solved(trust_region, entropy)
    best = distance(*between(found.trust_region, found.entropy))
    mean, width = np.meshgrid(np.linspace(-1, 2, 301), np.linspace(0.3, 2.5, 301))
    distances = np.log(WIDE / width) + 0.5 * (width**2 + mean**2) / WIDE**2 - 0.5
    allowed = (distances <= trust_region) & (np.log(WIDE / width) <= entropy)
    assert allowed.any() and best <= distance(mean, width)[allowed].min() + 0.02


def test_weights_give_the_moments_of_the_next_target() -> None:
    found = solved(0.25, 0.35)
    z = np.random.default_rng(0).normal(0.0, WIDE, SAMPLES)
    share = np.exp(found.log_weights - found.log_weights.max())
    share /= share.sum()
    mean, width = between(found.trust_region, found.entropy)
    error = np.sqrt((share**2 * (z - mean) ** 2).sum())
    assert abs(share @ z - mean) < 4 * error + 5e-3  # the multipliers have noise, too
    assert share @ (z - mean) ** 2 == pytest.approx(width**2, rel=0.02)


def test_a_target_that_is_far_away_is_approached_slowly() -> None:
    """Log-densities that vary by thousands, as those of a molecule do before training."""
    random = np.random.default_rng(1)
    log_q = random.normal(-80.0, 6.0, 20_000)
    log_p = -random.chisquare(3, 20_000) * 1000.0
    found = Dual(log_p, log_q, 0.5, 5.0).solve()
    assert found.trust_region > 100 and found.divergence == pytest.approx(0.5, rel=1e-2)


def test_samples_without_a_density_have_no_weight() -> None:
    log_p, log_q = samples()
    log_p[::2] = -np.inf
    found = Dual(log_p, log_q, 1.5, 5.0).solve()
    assert (found.log_weights[::2] == -np.inf).all() and found.divergence == pytest.approx(1.5, rel=1e-3)
    with pytest.raises(ValueError, match="no sample of the flow"):
        Dual(np.full(5, -np.inf), np.zeros(5), 1.0, 1.0)
