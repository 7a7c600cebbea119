"""Medians of the convergence curves of several seeds, with bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.results.statistics import median_interval

__all__ = ["median_curve"]

Array = NDArray[np.float64]
MOST_POINTS = 120


def median_curve(curves: Sequence[tuple[Array, Array]]) -> dict[str, list[float]] | None:
    """Return the median over seeds of the forward KLD, over the range of evaluations that all seeds cover.

    Seeds are interpolated to common numbers of evaluations, in the logarithms of evaluations and KLD.

    Parameters
    ----------
    curves
        Evaluations and forward KLD of each seed; values that are not finite and positive are skipped.

    Returns
    -------
    dict or None
        Lists ``evaluations``, ``median``, ``lowest``, ``highest``, and ``low``, ``high``: the interval of the median
        (`median_interval`; nan with two seeds). None with fewer than two seeds, or without a common range.
    """
    logs = [known for curve in curves if len((known := _logarithms(*curve))[0])]
    if len(logs) < 2:
        return None
    first, last = max(x[0] for x, _ in logs), min(x[-1] for x, _ in logs)
    if first > last:
        return None
    points = np.unique(np.concatenate([x for x, _ in logs]))
    points = points[(points >= first) & (points <= last)]
    if len(points) > MOST_POINTS:
        points = points[np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))]
    values = np.array([np.interp(points, x, y) for x, y in logs])
    median = np.median(values, axis=0)
    interval = np.array([median_interval(column)[:2] for column in values.T]).reshape(-1, 2)
    columns: dict[str, Any] = {
        "evaluations": points,
        "median": median,
        "lowest": values.min(axis=0),
        "highest": values.max(axis=0),
        "low": interval[:, 0],
        "high": interval[:, 1],
    }
    return {name: [float(f"{v:.6g}") for v in np.exp(column)] for name, column in columns.items()}


def _logarithms(evaluations: Array, kld: Array) -> tuple[Array, Array]:
    keep = np.isfinite(kld) & (kld > 0) & (evaluations > 0)
    return np.log(evaluations[keep]), np.log(kld[keep])
