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
    "with_common_exponent",
    "with_error",
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


def with_error(value: float, error: float) -> str:
    """Format a number and its standard error, as in ``0.010 ± 0.002``; only the number without a finite error."""
    return rounded(value, 2) + (f" ± {rounded(error, 1)}" if math.isfinite(error) else "")


def with_common_exponent(value: float, error: float) -> str:
    """Format a number and its standard error, as in ``(1.92 ± 0.21)e-4``; only the number without a finite error."""
    if not (math.isfinite(value) and math.isfinite(error)) or value == 0:
        return scientific(value)
    exponent = math.floor(math.log10(abs(value)))
    scale = 10.0**-exponent
    return f"({value * scale:.2f} ± {error * scale:.2f})e{exponent}"


def at_most(noise_floor: float) -> str:
    """Format a score below the noise floor of the reference: it is only known to be at most the noise floor."""
    return f"≤ {rounded(noise_floor, 2)}"


def show_score(
    score: float,
    error: float,
    noise_floor: float,
    show: Callable[[float, float], str] = with_error,
) -> str:
    """Format a forward KLD and its standard error, or the bound if it is below the noise floor of the reference.

    Parameters
    ----------
    score, error
        Forward KLD and its standard error; nan for no error.
    noise_floor
        Forward KLD that the noise of the reference causes.
    show
        `with_error` or `with_common_exponent`.
    """
    return at_most(noise_floor) if score < noise_floor else show(score, error)


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
