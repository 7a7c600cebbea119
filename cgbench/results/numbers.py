"""Numbers as tables and messages show them."""

from __future__ import annotations

import math

__all__ = ["rounded", "show_kld"]


def show_kld(kld: float, noise_floor: float) -> str:
    """Format a forward KLD; below the noise floor it is a bound, not a number."""
    return f"<= {noise_floor:.1e}" if kld < noise_floor else f"{kld:.2e}"


def rounded(value: float, digits: int = 3) -> str:
    """A number with so many significant digits: plain from 1e-2 to 1e6, with an exponent beyond."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value)
    text = f"{value:.{digits - 1}e}"
    exponent = int(text.partition("e")[2])
    if value == 0 or -2 <= exponent < 6:
        return f"{float(text):,.{max(digits - 1 - exponent, 0) if value else 0}f}"
    return f"{text.partition('e')[0]}e{exponent}"
