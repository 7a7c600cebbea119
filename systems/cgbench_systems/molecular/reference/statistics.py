"""Statistics of correlated blocks of samples: groups, halves, noise floors and bootstraps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FEWEST_GROUPS",
    "bootstrap",
    "expected_divergence",
    "grouped",
    "halves",
    "log_ratio_error",
    "noise_floor",
    "ratio",
    "share",
]

Array = NDArray[np.float64]
FEWEST_GROUPS = 4  # for standard errors


def grouped(blocks: Array, size: int) -> Array:
    """Return the sums of successive groups of `size` blocks; an incomplete last group is dropped.

    Raises
    ------
    ValueError
        If there are fewer than `FEWEST_GROUPS` groups.
    """
    count = len(blocks) // size
    if count < FEWEST_GROUPS:
        raise ValueError(f"{len(blocks)} blocks make {count} groups of {size}; errors need at least {FEWEST_GROUPS}")
    return np.asarray(blocks[: count * size].reshape(count, size, *blocks.shape[1:]).sum(axis=1))


def halves(groups: Array) -> tuple[Array, Array]:
    """Return the sums of the even and of the odd groups."""
    return groups[::2].sum(0), groups[1::2].sum(0)


def noise_floor(first: Array, second: Array) -> float:
    """Return the forward KLD between an estimate and the truth, from the estimates of two independent halves.

    The variance of a half is twice that of the whole, and that of the difference of two halves twice that again.
    The divergence between the halves is therefore four times that between the whole and the truth. Bins that a half
    never visited have negligible probability and are skipped.
    """
    both = (first > 0) & (second > 0)
    p, q = first[both] / first[both].sum(), second[both] / second[both].sum()
    return float((p * np.log(p / q)).sum() / 4.0)


def share(groups: Array, mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the population of the masked bins and its standard error (delta method for a ratio, over groups)."""
    return ratio(groups[:, mask].sum(1), groups.sum(axis=(1, 2)))


def ratio(inside: Array, total: Array) -> tuple[float, float]:
    """Return a population and its standard error (delta method for a ratio), from sums over independent groups."""
    value = inside.sum() / total.sum()
    residual = inside - value * total
    return float(value), float(residual.std(ddof=1) * np.sqrt(len(total)) / total.sum())


def log_ratio_error(first: Array, second: Array) -> float:
    """Return the standard error of ln(sum of first / sum of second), from sums over independent groups.

    By the delta method for a ratio: the two sums are correlated, as populations that add up to one are.
    """
    scatter = first / first.sum() - second / second.sum()
    return float(scatter.std(ddof=1) * np.sqrt(len(scatter)))


def expected_divergence(p: Array, parts: Array, seen: NDArray[np.bool_]) -> float:
    """Return the forward KLD that the scatter between parts predicts for their sum: half of chi-square.

    Parameters
    ----------
    p
        The reference, of any shape.
    parts
        Histograms of independent parts ``[parts, *bins]``.
    seen
        Bins that count.
    """
    total = parts.sum(axis=0)
    weights = parts.reshape(len(parts), -1).sum(axis=1)
    residual = parts - total / total.sum() * weights.reshape(-1, *(1,) * p.ndim)
    variance = residual.var(axis=0, ddof=1) * len(parts) / total.sum() ** 2
    return float(0.5 * (variance[seen] / np.maximum(p[seen], 1e-300)).sum())


def bootstrap(groups: Array, estimator: Callable[[Array], Array], resamples: int, seed: int = 0) -> Array:
    """Return the estimates ``[resamples, ...]`` from groups drawn with replacement."""
    random = np.random.default_rng(seed)
    return np.array(
        [estimator(groups[random.integers(len(groups), size=len(groups))].sum(0)) for _ in range(resamples)]
    )
