"""The format of numbers in tables and messages."""

from __future__ import annotations

import math

import pytest

from cgbench.results.numbers import (
    rounded,
    scientific,
    show_evaluations,
    show_kld,
    show_range,
    show_score,
    show_seconds,
    show_speedup,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(53476, "53,500"), (1.024e9, "1.02e9"), (999_999, "1.00e6"), (81, "81.0"), (0.0123456, "0.0123")]
    + [(2.18e-4, "2.18e-4"), (0, "0"), (math.nan, "–"), (math.inf, "inf"), (9.999, "10.0"), (-0.5, "-0.500")],
)
def test_significant_digits(value: float, shown: str) -> None:
    assert rounded(value) == shown


def test_exponents_are_not_padded() -> None:
    assert [scientific(v, 2) for v in (1.8e-5, 0.0996, 2.0e7, 0.0)] == ["1.8e-5", "1.0e-1", "2.0e7", "0.0e0"]
    assert scientific(math.nan) == "–"


def test_scores_with_intervals_and_bounds() -> None:
    assert show_score(1.92e-4, 1.66e-4, 2.87e-4, 1.8e-5) == "1.9e-4 (1.7e-4 to 2.9e-4)"
    assert show_score(1.92e-4, 1.66e-4, 2.87e-4, 1.8e-5, digits=3) == "1.92e-4 (1.66e-4 to 2.87e-4)"
    assert show_score(1.92e-4, math.nan, math.nan, 1.8e-5) == "1.9e-4"
    assert show_score(1e-6, 1e-7, 2e-6, 1.8e-5) == "≤ 1.8e-5 (≤ 1.8e-5 to ≤ 1.8e-5)"
    assert show_score(2e-5, 1e-5, math.inf, 1.8e-5) == "2.0e-5 (≤ 1.8e-5 to inf)"


def test_speedups_with_intervals_and_bounds() -> None:
    assert show_speedup(12.3, 8.04, 19.0) == show_speedup(12.3, 8.04, 19.0, math.nan) == "12 (8.0 to 19)"
    assert show_speedup(500, 300, math.inf, "at least") == "≥ 500 (at least 300)"
    assert show_speedup(5, 0, 30, "at most") == "≤ 5.0 (at most 30)"
    assert show_speedup(5, 0, math.inf) == "5.0 (no bound)" and show_speedup(math.nan, 1, 2) == "–"


def test_seconds() -> None:
    assert [show_seconds(s) for s in (20.8, math.inf, math.nan)] == ["21", "not reached", "–"]
    assert [show_seconds(s, True) for s in (20.8, math.inf, math.nan)] == ["~21", "not reached", "–"]


def test_scores_in_csv_files_are_ascii() -> None:
    assert show_kld(1e-6, 1e-3) == "<= 1.0e-03" and show_kld(2e-3, 1e-3) == "2.00e-03"


def test_evaluations() -> None:
    assert [show_evaluations(n) for n in (81, 999, 53_476, 2e7)] == ["81", "999", "53,500", "2.00e7"]
    assert [show_evaluations(n, exact_below=1e6) for n in (53_476, 1_958_097)] == ["53,476", "1.96e6"]
    assert show_evaluations(math.inf) == "not reached" and show_evaluations(math.nan) == "–"


def test_ranges() -> None:
    assert show_range(15.94, 216.2) == "15.9 to 216" and show_range(4.5, 4.5, str) == "4.5"
    assert show_range(math.nan, math.nan) == "–"
