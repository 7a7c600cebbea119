"""The interval of a median, against its binomial probability and by drawing samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from cgbench.results.statistics import median_interval, quantiles, random_stream


@pytest.mark.parametrize(("n", "confidence"), [(3, 0.75), (4, 0.875), (5, 0.9375), (6, 0.96875)])
def test_up_to_six_values_it_is_the_range(n: int, confidence: float) -> None:
    assert median_interval(np.arange(n)[::-1].astype(float)) == (0, n - 1, pytest.approx(confidence))


@pytest.mark.parametrize("n", [8, 9, 20, 51])
def test_it_is_the_narrowest_with_95_percent(n: int) -> None:
    low, high, confidence = median_interval(np.arange(1.0, n + 1))
    k = int(low)
    assert high == n + 1 - k
    assert confidence == pytest.approx(1 - 2 * stats.binom.cdf(k - 1, n, 0.5)) and confidence >= 0.95
    assert 1 - 2 * stats.binom.cdf(k, n, 0.5) < 0.95


def test_it_contains_the_median_of_a_skewed_distribution_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    samples = np.exp(2 * random.normal(size=(4000, 5)))
    inside = [low <= 1 <= high for low, high, _ in map(median_interval, samples)]
    assert np.mean(inside) == pytest.approx(0.9375, abs=4 * math.sqrt(0.9375 * 0.0625 / 4000))


def test_misses_and_too_few_values() -> None:
    assert median_interval(np.array([1.0, math.inf, 2.0]))[:2] == (1.0, math.inf)
    assert all(map(math.isnan, median_interval(np.array([1.0, 2.0]))))
    assert all(map(math.isnan, median_interval(np.array([1.0, 2.0, math.nan]))))


def test_quantiles_may_be_infinite() -> None:
    low, high = quantiles(np.array([1.0, 2.0, math.inf] * 10))
    assert low == 1.0 and high == math.inf


def test_streams_depend_on_their_names() -> None:
    a, again, b = (random_stream(*names).random(4) for names in (("x", "y"), ("x", "y"), ("x", "z")))
    assert np.array_equal(a, again) and not np.array_equal(a, b)
