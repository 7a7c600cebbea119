"""The one format of numbers in tables, captions and messages.

Scores and costs span many orders of magnitude: digits are significant digits, and exponents are not padded, as in
0.0123, 53,500 and 1.92e-4.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = [
    "at_most",
    "rounded",
    "scientific",
    "show_evaluations",
    "show_kld",
    "show_range",
    "show_score",
    "show_seconds",
    "show_speedup",
]

NOT_A_NUMBER = "–"


def rounded(value: float, digits: int = 3) -> str:
    """Format a number with `digits` significant digits: plain from 1e-2 to 1e6, with an exponent elsewhere."""
    if not math.isfinite(value):
        return NOT_A_NUMBER if math.isnan(value) else str(value)
    text = f"{value:.{digits - 1}e}"
    exponent = int(text.partition("e")[2])
    if value == 0 or -2 <= exponent < 6:
        return f"{float(text):,.{max(digits - 1 - exponent, 0) if value else 0}f}"
    return scientific(value, digits)


def scientific(value: float, digits: int = 3) -> str:
    """Format a number with `digits` significant digits and an exponent, as in 1.92e-4."""
    if not math.isfinite(value):
        return NOT_A_NUMBER if math.isnan(value) else str(value)
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def at_most(noise_floor: float) -> str:
    """Format a score below the noise floor of the reference: it is only known to be at most the noise floor."""
    return f"≤ {rounded(noise_floor, 2)}"


def show_score(score: float, low: float, high: float, noise_floor: float, digits: int = 2) -> str:
    """Format a forward KLD and its interval, as in ``1.9e-4 (1.7e-4 to 2.9e-4)``; below the noise floor, a bound.

    Parameters
    ----------
    score, low, high
        Median and its interval; nan for no interval.
    noise_floor
        Forward KLD that the noise of the reference causes.
    digits
        Significant digits.
    """

    def show(value: float) -> str:
        return at_most(noise_floor) if value < noise_floor else rounded(value, digits)

    return show(score) if math.isnan(low) else f"{show(score)} ({show_range(low, high, show)})"


def show_speedup(value: float, low: float, high: float, bound: object = "") -> str:
    """Format a speedup and its interval, as in ``12 (8.0 to 19)`` or ``≥ 500 (at least 300)``.

    Parameters
    ----------
    value, low, high
        Speedup and its interval, from 0 or to infinity where nothing is known.
    bound
        "at least", "at most", or anything else for neither.
    """
    if math.isnan(value):
        return NOT_A_NUMBER
    sign = {"at least": "≥ ", "at most": "≤ "}.get(str(bound), "")
    return f"{sign}{rounded(value, 2)} ({_interval(low, high)})"


def _interval(low: float, high: float) -> str:
    if math.isinf(high):
        return f"at least {rounded(low, 2)}" if low > 0 else "no bound"
    return show_range(low, high, lambda end: rounded(end, 2)) if low > 0 else f"at most {rounded(high, 2)}"


def show_seconds(seconds: float, approximate: bool = False) -> str:
    """Format seconds: "not reached" if infinite, with a tilde if approximate."""
    if seconds == math.inf:
        return "not reached"
    return "~" * (approximate and not math.isnan(seconds)) + rounded(seconds, 2)


def show_evaluations(evaluations: float, exact_below: float = 1e3) -> str:
    """Format a number of evaluations: "not reached" if infinite, all digits below `exact_below`, else three."""
    if evaluations == math.inf:
        return "not reached"
    return f"{evaluations:,.0f}" if evaluations < exact_below else rounded(evaluations)


def show_range(low: float, high: float, show: Callable[[float], str] = rounded) -> str:
    """Format a range, as in ``15.9 to 216``; one number if both ends are equal."""
    if math.isnan(low):
        return NOT_A_NUMBER
    return show(low) if low == high else f"{show(low)} to {show(high)}"


def show_kld(kld: float, noise_floor: float) -> str:
    """Format a forward KLD in ASCII, for CSV files: ``1.92e-04``, or ``<= 1.8e-05`` below the noise floor."""
    return f"<= {noise_floor:.1e}" if kld < noise_floor else f"{kld:.2e}"
