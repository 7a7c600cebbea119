"""Importance weights w: effective sample size, tail index, largest share, free energies, and draws by weight.

The effective sample size is Kish's ``(sum w)^2 / sum w^2``. The free energy of a point with several weighted samples is
``-ln mean w``, up to a constant.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import genpareto

__all__ = [
    "LARGEST_SHARE",
    "RELIABLE_PARETO_K",
    "drawn_by_weight",
    "effective_sample_size",
    "free_energies",
    "kish",
    "largest_share",
    "pareto_tail_index",
]

Sums = TypeVar("Sums", float, NDArray[np.float64])
TINY = 1e-300  # keeps quotients finite where all weights are zero
RELIABLE_PARETO_K = 0.7  # above, the mean of the weights is unreliable (Vehtari et al. 2024)
LARGEST_SHARE = 0.5  # a weight with a larger share of the sum dominates the estimate


def free_energies(log_weights: torch.Tensor, clip_largest: int = 0) -> torch.Tensor:
    """Free energies ``-ln mean w`` of points with several samples each, ``[points]``.

    Parameters
    ----------
    log_weights
        ``[points, samples]``.
    clip_largest
        Number of largest weights of each point that are clipped to the smallest of them; 0 for none.
    """
    if clip_largest:
        ceiling = log_weights.topk(clip_largest, dim=1).values[:, -1:]
        log_weights = torch.minimum(log_weights, ceiling)
    return -(torch.logsumexp(log_weights, dim=1) - torch.log(torch.tensor(float(log_weights.shape[1]))))


def kish(total: Sums, squares: Sums, number: Sums | float = 1.0) -> Sums:
    """Effective sample size ``(sum w)^2 / (n sum w^2)`` from the sums of weights and of their squares (Kish 1965).

    Parameters
    ----------
    total, squares
        Sums of the weights and of their squares.
    number
        Number of samples n, for the effective sample size as a fraction of it; 1 for the size itself.

    Returns
    -------
    Sums
        Zero where all weights are zero.
    """
    size: Sums = total**2 / np.maximum(number * squares, TINY)
    return size


def effective_sample_size(log_weights: torch.Tensor) -> torch.Tensor:
    """Kish's effective sample size as a fraction of the samples, from logarithms of weights, along the last axis.

    Non-finite log-weights count as weight zero. Without any weight the fraction is zero.
    """
    usable = log_weights.masked_fill(~log_weights.isfinite(), -torch.inf)
    ratio = 2 * torch.logsumexp(usable, -1) - torch.logsumexp(2 * usable, -1)
    return torch.nan_to_num(torch.exp(ratio), nan=0.0) / max(log_weights.shape[-1], 1)


def pareto_tail_index(log_weights: torch.Tensor, number: int | None = None) -> float:
    """Shape k of a generalised Pareto distribution fitted to the ``min(n / 5, 3 sqrt(n))`` largest weights.

    The mean of the weights is unreliable above k = 0.7 (Vehtari et al., J. Mach. Learn. Res. 25, 72, 2024). The result
    is NaN for fewer than five tail weights.

    Parameters
    ----------
    log_weights
        Logarithms of the weights.
    number
        Number of weights n, if only the largest of them are given.
    """
    usable = log_weights[log_weights.isfinite()]
    total = len(usable) if number is None else number
    count = min(int(min(total / 5, 3 * total**0.5)), len(usable) - 1)
    if count < 5:
        return float("nan")
    largest = usable.topk(count + 1).values
    weights = (largest - largest[0]).exp()
    excess = (weights[:-1] - weights[-1]).clamp(min=1e-300)
    shape, _, _ = genpareto.fit(excess.numpy() / float(excess.mean()), floc=0.0)
    return float(shape)


def largest_share(log_weights: torch.Tensor) -> float:
    """Share of the largest weight in the sum of all, without non-finite log-weights; 0 without any weight."""
    usable = log_weights[log_weights.isfinite()]
    if not len(usable):
        return 0.0
    return float((usable.max() - torch.logsumexp(usable.double(), 0)).exp())


def drawn_by_weight(log_weights: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw `count` rows with replacement, with probabilities proportional to the weights, ``[count]``.

    Draws are systematic: evenly spaced along the cumulative weights, with one random offset. Every row is drawn its
    expected number of times, rounded up or down.
    """
    weights = (log_weights.double() - log_weights.max().double()).exp()
    total = weights.cumsum(0)
    offset = torch.rand(1, generator=generator, dtype=torch.float64, device=weights.device)
    points = (torch.arange(count, dtype=torch.float64, device=weights.device) + offset) / count * total[-1]
    return torch.searchsorted(total, points).clamp(max=len(weights) - 1)
