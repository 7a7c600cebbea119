"""Divergences between an estimated PMF and its reference: pure functions of probabilities over the same bins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["forward_kld", "jensen_shannon", "reverse_kld", "total_variation"]

Array = NDArray[np.float64]


def _divergence(p: Array, q: Array) -> float:
    where = p > 0
    if np.any(q[where] == 0):
        return float("inf")
    return max(0.0, float(np.sum(p[where] * np.log(p[where] / q[where]))))  # below zero by rounding alone


def _normalised(p: Array, q: Array) -> tuple[Array, Array]:
    if p.shape != q.shape:
        raise ValueError(f"probabilities have shapes {p.shape} and {q.shape}")
    return p / p.sum(), q / q.sum()


def forward_kld(reference: Array, estimate: Array) -> float:
    """Return the forward Kullback-Leibler divergence ``sum p ln(p / q)`` over bins with p > 0, without an epsilon.

    Infinite if the estimate is zero where the reference is not.
    """
    return _divergence(*_normalised(reference, estimate))


def reverse_kld(reference: Array, estimate: Array) -> float:
    """Return the reverse divergence ``sum q ln(q / p)``; infinite if only the reference is zero in a bin."""
    p, q = _normalised(reference, estimate)
    return _divergence(q, p)


def jensen_shannon(reference: Array, estimate: Array) -> float:
    """Return the Jensen-Shannon divergence in nats, between 0 and ln 2."""
    p, q = _normalised(reference, estimate)
    middle = 0.5 * (p + q)
    return 0.5 * _divergence(p, middle) + 0.5 * _divergence(q, middle)


def total_variation(reference: Array, estimate: Array) -> float:
    """Return the total variation distance: half the sum of the absolute differences."""
    p, q = _normalised(reference, estimate)
    return float(0.5 * np.abs(p - q).sum())
