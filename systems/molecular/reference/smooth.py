"""Maximum-likelihood Fourier fit of a histogram on two angles, with its order chosen on held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FourierFit", "choose_order", "fit"]

Array = NDArray[np.float64]
STIFFNESS = 1.0  # of the penalty on (k^2 + l^2)^2; matters only where nothing was sampled


@dataclass(frozen=True)
class FourierFit:
    """``ln p`` of every bin as a truncated Fourier series.

    Attributes
    ----------
    order
        Largest wave number along each angle.
    coefficients
        ``[2 order + 1, 2 order + 1]`` over 1, cosines, sines of each angle.
    """

    order: int
    coefficients: Array

    def probability(self, bins: int = 100) -> Array:
        """Probabilities ``[bins, bins]`` at bin centres, normalised."""
        basis = _basis(bins, self.order)
        values = basis @ self.coefficients @ basis.T
        p = np.exp(values - values.max())
        return np.asarray(p / p.sum())


def _basis(bins: int, order: int) -> Array:
    angle = -np.pi + (np.arange(bins) + 0.5) * 2 * np.pi / bins
    k = np.arange(1, order + 1)
    return np.concatenate(
        [np.ones((bins, 1)), np.sqrt(2) * np.cos(angle[:, None] * k), np.sqrt(2) * np.sin(angle[:, None] * k)], axis=1
    )


def fit(histogram: Array, exposure: Array, order: int, start: FourierFit | None = None) -> FourierFit:
    """Fit ``ln p`` by Poisson likelihood, where bin b was visited ``Poisson(c p_b exposure_b)`` times.

    Newton's method with a line search; the log-likelihood is concave, so that the fit is unique.

    Parameters
    ----------
    histogram
        Reweighted histogram ``[bins, bins]``: visits divided by the exposure, not normalised.
    exposure
        ``exp(-bias)`` at the bin centres, ``[bins, bins]``.
    order
        Largest wave number.
    start
        A fit of the same order to start from.
    """
    bins = len(histogram)
    visits = histogram * exposure
    basis = _basis(bins, order)
    size = basis.shape[1]
    design = np.einsum("ia,jb->ijab", basis, basis).reshape(bins * bins, size * size)
    wave = np.concatenate([[0], np.arange(1, order + 1), np.arange(1, order + 1)]).astype(float)
    penalty = (STIFFNESS * (wave[:, None] ** 2 + wave[None] ** 2) ** 2).ravel()
    if start is not None and start.order == order:
        c = start.coefficients.copy()
        c[0, 0] += np.log(histogram.sum() / (np.exp(basis @ c @ basis.T)).sum())
    else:
        floor = np.log(histogram.sum()) - 16.0
        with np.errstate(divide="ignore"):
            c = basis.T @ np.maximum(np.log(histogram), floor) @ basis / bins**2

    def objective(c: Array) -> tuple[float, Array]:
        values = basis @ c @ basis.T
        mean = np.exp(values) * exposure
        return float((mean - visits * values).sum() + 0.5 * (penalty * c.ravel() ** 2).sum()), mean

    value, mean = objective(c)
    for _ in range(60):
        gradient = design.T @ (mean - visits).ravel() + penalty * c.ravel()
        hessian = (design * mean.reshape(-1, 1)).T @ design
        hessian[np.diag_indices(size * size)] += penalty + 1e-9
        move = np.linalg.solve(hessian, gradient)
        decrement = float(gradient @ move)
        length = 1.0
        while True:
            trial, trial_mean = objective(c - length * move.reshape(c.shape))
            if trial <= value - 1e-4 * length * decrement or length < 1e-6:
                break
            length *= 0.5
        c, value, mean = c - length * move.reshape(c.shape), trial, trial_mean
        if decrement < 1e-2:
            break
    return FourierFit(order, c)


def choose_order(
    halves: tuple[Array, Array], exposure: Array, orders: Sequence[int] = (8, 10, 12, 14, 16, 18)
) -> tuple[int, dict[int, float]]:
    """Choose the order by the likelihood of each half under the fit to the other.

    Returns
    -------
    order, scores
        The best order, and for each order ``KLD(half 1 | fit 2) + KLD(half 2 | fit 1)``; smaller is better.
    """
    scores: dict[int, float] = {}
    for order in orders:
        first = fit(halves[0], exposure, order)
        fits = first, fit(halves[1], exposure, order, first)
        crossed = zip(halves, fits[::-1], strict=True)
        scores[order] = sum(_kld(half, other.probability(len(half))) for half, other in crossed)
    return min(scores, key=lambda order: scores[order]), scores


def _kld(p: Array, q: Array) -> float:
    p, where = p / p.sum(), p > 0
    return float((p[where] * np.log(p[where] / q[where])).sum())
