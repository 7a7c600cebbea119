"""Statistics of correlated blocks: halves, noise floors, bootstraps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap", "grouped", "halves", "noise_floor", "share"]

Array = NDArray[np.float64]


def grouped(blocks: Array, size: int) -> Array:
    """Sum successive blocks in groups of `size`, long enough to be independent; a rest is left out.

    Raises
    ------
    ValueError
        If fewer than four groups come of it.
    """
    count = len(blocks) // size
    if count < 4:
        raise ValueError(f"{len(blocks)} blocks make {count} groups of {size}; errors need at least 4")
    return np.asarray(blocks[: count * size].reshape(count, size, *blocks.shape[1:]).sum(axis=1))


def halves(groups: Array) -> tuple[Array, Array]:
    """Sums of the even and of the odd groups."""
    return groups[::2].sum(0), groups[1::2].sum(0)


def noise_floor(first: Array, second: Array) -> float:
    """Forward KLD between the whole and the truth, from the estimates of its two independent halves.

    Half the data has twice the variance, and the difference of two halves twice that again: their divergence is
    four times that of the whole from the truth. Bins that one half never visited are left out; they hold
    next to nothing.
    """
    both = (first > 0) & (second > 0)
    p, q = first[both] / first[both].sum(), second[both] / second[both].sum()
    return float((p * np.log(p / q)).sum() / 4.0)


def share(groups: Array, mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Population of the masked bins and its standard error (delta method of the ratio over groups)."""
    inside, total = groups[:, mask].sum(1), groups.sum(axis=(1, 2))
    value = inside.sum() / total.sum()
    residual = inside - value * total
    return float(value), float(residual.std(ddof=1) * np.sqrt(len(groups)) / total.sum())


def bootstrap(groups: Array, estimator: Callable[[Array], Array], resamples: int, seed: int = 0) -> Array:
    """Estimates ``[resamples, ...]`` from groups drawn with replacement."""
    random = np.random.default_rng(seed)
    return np.array(
        [estimator(groups[random.integers(len(groups), size=len(groups))].sum(0)) for _ in range(resamples)]
    )
