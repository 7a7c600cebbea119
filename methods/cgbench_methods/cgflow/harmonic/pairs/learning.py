"""How the model of pairs learns from the weighted samples of a round."""

from __future__ import annotations

import math

import torch

from cgbench_methods.cgflow.harmonic.pairs.model import PairModel
from cgbench_methods.lib.lengths import units

__all__ = ["constant_of", "learn", "truncated"]

LEVELS = 4  # groups of samples by the height of the model, each with its own variance of the weights
LEAST_VARIANCE = 0.05
HALVINGS = 50


def constant_of(excess: torch.Tensor, truncation: float) -> float:
    """Return the constant a for which the mean of ``min(exp(excess + a), truncation)`` is 1.

    Parameters
    ----------
    excess
        Logarithms of weights plus the model, up to a constant ``[n]``; minus infinity for a weight of zero.
    truncation
        Largest ratio of a weight to the model.
    """
    finite = excess[excess.isfinite()]
    low = -float(finite.max()) - math.log(len(excess))
    high = -float(finite.min()) + math.log(len(excess))
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        mean = float((excess + middle).exp().clamp(max=truncation).mean())
        low, high = (middle, high) if mean < 1.0 else (low, middle)
    return 0.5 * (low + high)


def truncated(log_weights: torch.Tensor, mean: torch.Tensor, truncation: float) -> tuple[torch.Tensor, float]:
    """Return log-weights cut at a multiple of the model, and the share of their sum that is cut, relative to the model.

    Relative to the model, because weights in a rare state are small: a cut relative to all would leave single ones of
    them to dominate the state.

    Parameters
    ----------
    log_weights, mean
        Logarithms of the weights of a round, and the model of the PMF at their s, each ``[n]``.
    truncation
        Largest ratio of a weight to the model, whose constant is fitted to the weights.
    """
    excess = (log_weights + mean).masked_fill(log_weights.isnan() | log_weights.isposinf(), -torch.inf)
    if not bool(excess.isfinite().any()):
        return log_weights, 0.0
    limit = math.log(truncation) - constant_of(excess, truncation)
    share = 1.0 - float(torch.logsumexp(excess.clamp(max=limit), 0).sub(torch.logsumexp(excess, 0)).exp())
    return torch.minimum(log_weights, limit - mean), share


def learn(
    model: PairModel, s: torch.Tensor, log_weights: torch.Tensor, slopes: torch.Tensor | None, truncation: float
) -> None:
    """Update the model by the samples of one round, and improve its prior.

    The variance of the weights is measured about the model before, in groups by its height. The constant of the weights
    is fitted anew in each round, because weights of an early flow are truncated more than those of a later one.

    Parameters
    ----------
    s, log_weights, slopes
        As for `PairModel.update`.
    truncation
        Weights are cut at this multiple of the model.

    Raises
    ------
    torch.linalg.LinAlgError
        If a matrix cannot be factorised.
    """
    mean, gradient = model.mean_and_slopes(s)
    shifted = log_weights + constant_of(log_weights + mean, truncation)
    ratio = (shifted + mean).exp().clamp(max=truncation)
    bounds = mean.quantile(torch.linspace(0, 1, LEVELS + 1, dtype=mean.dtype)[1:-1])
    level = torch.bucketize(mean, bounds)
    number = torch.bincount(level, minlength=LEVELS).clamp(min=1)
    variance = (torch.bincount(level, (ratio - 1.0).square(), LEVELS) / number).clamp(min=LEAST_VARIANCE)
    unit = units(model.cvs)
    of_slopes = torch.ones(s.shape[1], dtype=mean.dtype)
    if slopes is not None:
        scattered = (ratio[:, None] * (slopes + gradient) * unit).square()
        of_slopes = scattered.nanmean(dim=0).nan_to_num(nan=1.0).clamp(min=LEAST_VARIANCE)
    model.update(s, shifted, variance[level], slopes, of_slopes / unit.square(), truncation)
    model.improve_prior()
