"""Maximum-likelihood Fourier fit of a reweighted histogram, with its order chosen on held-out data.

Bin b of a biased simulation is visited ``n_b ~ Poisson(e_b exp(f(s_b)))`` times, where ``f = ln p`` up to a constant
and the exposure ``e_b`` says how often the bin is visited relative to equilibrium. The fit is the truncated series
``f = sum_j c_j phi_j`` that minimises

    sum_b [e_b exp(f(s_b)) - n_b f(s_b)] + (a/2) sum_j k_j^4 c_j^2,

with the wave number ``k_j`` of each function and the stiffness a of the penalty on the squared Laplacian. The penalty
is a Gaussian prior of standard deviation ``a^(-1/2) / k_j^2`` for each coefficient. With the default, a = 1, it
flattens steep flanks with few visits. The objective is convex, hence the fit unique. A known part of ``ln p`` can be
given as an offset; the series is then the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import LARGEST_FREE_ENERGY
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.lib.estimators.fourier import ProductSeries
from cgbench_methods.lib.estimators.newton import minimise

__all__ = ["Curvature", "FourierFit", "choose_order", "fit", "fit_likeliest"]

Array = NDArray[np.float64]
STIFFNESS = 1.0  # of the penalty on the squared Laplacian, unless a method chooses another


@dataclass(frozen=True)
class FourierFit:
    """The fitted ``ln p``, as a truncated series.

    Attributes
    ----------
    cvs
        Domain and grid.
    order
        Largest number of waves across the domain.
    coefficients
        One axis per CV, for the functions of `_basis`.
    offset
        A known part of ``ln p``, which the series adds to, of shape ``cvs.bins``; None for zero.
    """

    cvs: CollectiveVariables
    order: int
    coefficients: Array
    offset: Array | None = None

    def probability(self, subdivisions: int = 1) -> Array:
        """Normalised probabilities at the bin centres, or at those of bins divided into equal parts along each CV.

        Raises
        ------
        ValueError
            If bins are divided although there is an offset, which is known at their centres alone.
        """
        if self.offset is not None and subdivisions != 1:
            raise ValueError("bins cannot be divided: the offset is known at their centres alone")
        bases = [_basis(self.cvs, axis, self.order, subdivisions)[0] for axis in range(len(self.cvs))]
        values = _plus(_on_grid(self.coefficients, bases), self.offset)
        p = np.exp(np.maximum(values - values.max(), -LARGEST_FREE_ENERGY))
        return np.asarray(p / p.sum())


def _basis(cvs: CollectiveVariables, axis: int, order: int, subdivisions: int = 1) -> tuple[Array, Array]:
    """Return functions ``[bins, functions]`` of one CV at the bin centres, and the number of waves of each.

    These are the functions of `FourierAxis`. Along a non-periodic CV a straight line and a parabola replace the two
    fastest cosines, because ``ln p`` may have a slope at the ends.
    """
    functions = ProductSeries(cvs, order).axes[axis]
    centres = cvs.centers(axis, subdivisions)
    values = functions.values(torch.from_numpy(centres)).numpy()
    waves = functions.frequencies.numpy() * functions.length / (2 * np.pi)
    if not cvs.periodic[axis] and order > 1:
        along = 2 * (centres - functions.lower) / functions.length - 1
        values[:, -2], values[:, -1] = np.sqrt(3) * along, 0.5 * np.sqrt(5) * (3 * along**2 - 1)
        waves[-2:] = 0.25, 0.5
    return values, waves


def _on_grid(coefficients: Array, bases: Sequence[Array]) -> Array:
    values = coefficients
    for basis in bases:
        values = np.tensordot(values, basis, axes=(0, 1))
    return values


def _plus(values: Array, offset: Array | None) -> Array:
    return values if offset is None else values + offset


def _gram(weights: Array, bases: Sequence[Array]) -> Array:
    """Sum the outer products of all basis functions over the grid, times the weights, one CV after the other."""
    result, sizes = weights, [basis.shape[1] for basis in bases]
    for basis in bases:
        pairs = (basis[:, :, None] * basis[:, None]).reshape(len(basis), -1)
        result = np.tensordot(result, pairs, axes=(0, 0))
    result = result.reshape([size for size in sizes for _ in range(2)])
    count, total = len(sizes), int(np.prod(sizes))
    order = [*range(0, 2 * count, 2), *range(1, 2 * count, 2)]
    return np.asarray(result.transpose(order).reshape(total, total))


class Curvature:
    """The objective of a fit to second order around its minimum: how data and penalty move the free energies.

    With the Hessian H of the objective and the functions phi, a change g of the gradient moves the free energies by
    ``phi H^-1 g``. All free energies have the mean zero over the fitted probabilities.

    Parameters
    ----------
    fitted
        The fit.
    exposure, stiffness
        Those that it was made with.
    """

    def __init__(self, fitted: FourierFit, exposure: Array, stiffness: float = STIFFNESS) -> None:
        cvs, self._coefficients = fitted.cvs, fitted.coefficients
        together = [_basis(cvs, axis, fitted.order) for axis in range(len(cvs))]
        self._bases = [basis for basis, _ in together]
        self._penalty = _penalty([wave for _, wave in together], stiffness)
        values = _plus(_on_grid(fitted.coefficients, self._bases), fitted.offset)
        self._density = np.exp(np.minimum(values, LARGEST_FREE_ENERGY))
        self._probability = fitted.probability()
        hessian = _gram(self._density * exposure, self._bases)
        hessian[np.diag_indices(len(hessian))] += self._penalty + 1e-9 * (1.0 + (self._density * exposure).sum())
        self._factor = cho_factor(hessian, overwrite_a=True, check_finite=False)

    def _moved(self, gradients: Array) -> Array:
        """Return the free energies' change ``[*bins, changes]`` for gradients ``[functions, changes]``."""
        steps = cho_solve(self._factor, gradients, check_finite=False)
        values = steps.reshape(*self._coefficients.shape, -1)
        for basis in self._bases:  # moves the axis of each CV behind that of the changes
            values = np.tensordot(values, basis, axes=(0, 1))
        values = np.moveaxis(values, 0, -1)
        return np.asarray(values - np.tensordot(self._probability, values, axes=self._probability.ndim))

    def variance_of_groups(self, visits: Array, exposures: Array) -> Array:
        """Return the sampling variance of the free energies from independent groups, to first order.

        Parameters
        ----------
        visits, exposures
            Effective visits and exposure of each group, ``[groups, *bins]``. The sums over groups are those of the fit.
        """
        count = len(visits)
        transposed = [basis.T for basis in self._bases]
        scores = [_on_grid(n - self._density * e, transposed).ravel() for n, e in zip(visits, exposures, strict=True)]
        return np.asarray(count**2 / (count - 1) * np.var(self._moved(np.stack(scores, axis=1)), axis=-1))

    def bias_of_penalty(self) -> Array:
        """Return the bias of the free energies by the penalty, to first order: the shift ``H^-1 P c`` by its gradient.

        P is the penalty's matrix and c are the fitted coefficients. A step of Newton's method on the likelihood alone,
        with the Hessian of the whole objective, would undo this shift.
        """
        return self._moved((self._penalty * self._coefficients.ravel())[:, None])[..., 0]


def _penalty(waves: Sequence[Array], stiffness: float) -> Array:
    """Return the penalty's weight on the square of each coefficient, flat, from the waves of each CV's functions."""
    shape = [len(wave) for wave in waves]
    squared = sum(np.meshgrid(*[wave**2 for wave in waves], indexing="ij"), np.zeros(shape))
    return np.asarray(stiffness * squared.ravel() ** 2)


def fit(
    cvs: CollectiveVariables,
    histogram: Array,
    exposure: Array,
    order: int,
    start: FourierFit | None = None,
    stiffness: float = STIFFNESS,
    offset: Array | None = None,
) -> FourierFit:
    """Fit ``ln p`` to a reweighted histogram by penalised Poisson likelihood, with Newton's method.

    Parameters
    ----------
    cvs
        Domain and grid.
    histogram
        Reweighted histogram, shape ``cvs.bins``: visits divided by the exposure, not normalised.
    exposure
        How often each bin is visited relative to equilibrium: ``exp(-bias)`` at the bin centres, or the sum of that
        over several biased simulations, weighted by their free energies and lengths.
    order
        Largest number of waves across the domain.
    start
        A fit to start from.
    stiffness
        Weight of the penalty on the squared Laplacian.
    offset
        A known part of ``ln p`` of shape ``cvs.bins``: the series and the penalty concern the rest.

    Raises
    ------
    ValueError
        If the histogram is empty, or if it or the exposure is not finite.
    """
    if not (np.isfinite(histogram).all() and np.isfinite(exposure).all()):
        raise ValueError("histogram and exposure must be finite")
    if histogram.sum() <= 0:
        raise ValueError("nothing was sampled within the domain of the collective variables")
    visits = histogram * exposure
    together = [_basis(cvs, axis, order) for axis in range(len(cvs))]
    bases = [basis for basis, _ in together]
    penalty = _penalty([wave for _, wave in together], stiffness)
    if start is None and offset is None:
        c = _projected(cvs, histogram, bases)
    else:
        if start is None:
            c = np.zeros([basis.shape[1] for basis in bases])
        elif start.order == order:
            c = start.coefficients.copy()
        else:
            values = np.log(np.maximum(start.probability(), 1e-300)) + np.log(histogram.sum())
            c = _least_squares(values if offset is None else values - offset, bases)
        c.flat[0] += np.log(histogram.sum() / np.exp(_plus(_on_grid(c, bases), offset)).sum())

    def objective(c: Array) -> tuple[float, Array]:
        values = _plus(_on_grid(c, bases), offset)
        mean = np.exp(np.minimum(values, LARGEST_FREE_ENERGY)) * exposure
        return float((mean - visits * values).sum() + 0.5 * (penalty * c.ravel() ** 2).sum()), mean

    transposed = [basis.T for basis in bases]

    def newton_step(c: Array, mean: Array) -> tuple[Array, float]:
        gradient = _on_grid(mean - visits, transposed).ravel() + penalty * c.ravel()
        hessian = _gram(mean, bases)
        hessian[np.diag_indices(len(hessian))] += penalty + 1e-9 * (1.0 + mean.sum())
        step = cho_solve(cho_factor(hessian, overwrite_a=True, check_finite=False), gradient, check_finite=False)
        return step.reshape(c.shape), float(gradient @ step)

    fitted, _ = minimise(objective, newton_step, c, iterations=60, shortest=1e-6, armijo=1e-4, least_decrement=1e-2)
    return FourierFit(cvs, order, fitted, offset)


def _projected(cvs: CollectiveVariables, histogram: Array, bases: Sequence[Array]) -> Array:
    floor = np.log(histogram.sum()) - 16.0
    with np.errstate(divide="ignore"):
        return _least_squares(np.maximum(np.log(histogram), floor), bases)


def _least_squares(values: Array, bases: Sequence[Array]) -> Array:
    for basis in bases:
        values = np.tensordot(values, np.linalg.pinv(basis), axes=(0, 1))
    return np.asarray(values)


def choose_order(
    cvs: CollectiveVariables,
    halves: tuple[Array, Array],
    exposure: Array,
    orders: Iterable[int] = (8, 10, 12, 14, 16, 18),
) -> tuple[int, dict[int, float]]:
    """Choose the order by the likelihood of each half under the fit to the other.

    Parameters
    ----------
    cvs
        Domain and grid.
    halves
        Two independent reweighted histograms: of different walkers, or of alternating long stretches of time.
    exposure
        As for `fit`.
    orders
        Candidates, in increasing order.

    Returns
    -------
    order, scores
        The best order, and for each order ``KLD(half 1 | fit 2) + KLD(half 2 | fit 1)``; smaller is better.
    """
    scores = {order: score for order, score, _ in _held_out(cvs, halves, exposure, orders)}
    return min(scores, key=lambda order: scores[order]), scores


def fit_likeliest(
    cvs: CollectiveVariables,
    halves: tuple[Array, Array],
    exposure: Array,
    orders: Sequence[int] = (3, 4, 6, 8, 10, 12),
    stiffness: float = STIFFNESS,
    offset: Array | None = None,
) -> tuple[FourierFit, dict[int, float]]:
    """Fit both halves together at the order of best held-out likelihood; stop at the first order that scores worse.

    Scores of neighbouring orders differ by little more than noise. Candidates must therefore be far apart.

    Parameters are those of `choose_order` and `fit`. If one half is empty, the lowest order is used.

    Returns
    -------
    fit, scores
        The fit, and the score of every order tried.
    """
    if min(half.sum() for half in halves) <= 0:
        return fit(cvs, halves[0] + halves[1], exposure, orders[0], None, stiffness, offset), {}
    scores: dict[int, float] = {}
    best: FourierFit | None = None
    for order, score, half in _held_out(cvs, halves, exposure, orders, stiffness, offset):
        if score > min(scores.values(), default=np.inf):
            scores[order] = score
            break
        scores[order], best = score, half
    assert best is not None
    return fit(cvs, halves[0] + halves[1], exposure, best.order, best, stiffness, offset), scores


def _held_out(
    cvs: CollectiveVariables,
    halves: tuple[Array, Array],
    exposure: Array,
    orders: Iterable[int],
    stiffness: float = STIFFNESS,
    offset: Array | None = None,
) -> Iterator[tuple[int, float, FourierFit]]:
    """Yield each order, its score on held-out halves, and the fit to the first half."""
    first: FourierFit | None = None
    second: FourierFit | None = None
    for order in orders:
        first = fit(cvs, halves[0], exposure, order, first, stiffness, offset)
        second = fit(cvs, halves[1], exposure, order, second or first, stiffness, offset)
        score = forward_kld(halves[0], second.probability()) + forward_kld(halves[1], first.probability())
        yield order, score, first
