"""Statistics over seeds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["standard_error"]


def standard_error(values: NDArray[np.float64]) -> float:
    """Return the standard error of the mean: nan for fewer than two values, exactly 0 if all are equal."""
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values))) if np.ptp(values) > 0 else 0.0
