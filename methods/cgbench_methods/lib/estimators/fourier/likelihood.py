"""Penalised likelihood of importance weights and slopes, as a function of the coefficients of a series."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cgbench_methods.lib.estimators.fourier.design import Design
from cgbench_methods.lib.estimators.newton import minimise

__all__ = ["fit_series"]


def fit_series(
    features: Design,
    derivatives: Sequence[Design],
    log_weights: torch.Tensor,
    inverse_variance: torch.Tensor,
    slopes: torch.Tensor | None,
    slope_precision: torch.Tensor | None,
    start: torch.Tensor,
    prior_mean: torch.Tensor,
    prior_precision: torch.Tensor,
    *,
    iterations: int,
    least_gain: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Minimise the objective of `cgbench_methods.lib.estimators.surrogate` by Newton's method.

    Parameters
    ----------
    features, derivatives
        The modes at the points, and their derivatives along each CV; no derivatives without slopes.
    log_weights, inverse_variance, slopes, slope_precision
        As for `FourierSurrogate.fit_weights`.
    start
        Coefficients to start from; their constant does not matter ``[modes]``.
    prior_mean, prior_precision
        Of each coefficient ``[modes]``.
    iterations, least_gain
        As for `minimise`, the latter in nats.

    Returns
    -------
    coefficients, information, gradient
        The minimum ``[modes]``; information ``[modes, modes]`` and gradient ``[modes]`` of the likelihood there.
    """
    modes = len(start)
    fixed = torch.zeros(modes, modes, dtype=torch.float64)  # information and pull of the slopes
    pull = torch.zeros(modes, dtype=torch.float64)
    if slopes is not None and slope_precision is not None:
        for axis, derivative in enumerate(derivatives):
            fixed += derivative.gram(slope_precision[:, axis])
            pull += derivative.weighted_pull(slope_precision[:, axis], slopes[:, axis])
    shifted = start.clone()
    usable = log_weights.isfinite()
    excess = (log_weights + features.values(shifted))[usable]
    # start at the optimum of the constant alone
    shifted[0] -= torch.logsumexp(excess + inverse_variance[usable].log(), 0) - inverse_variance.sum().log()

    def objective(c: torch.Tensor) -> tuple[float, torch.Tensor]:
        values = features.values(c)
        ratio = torch.exp((log_weights + values).clamp(max=50.0))
        deviation = c - prior_mean
        fit = (inverse_variance * (ratio - values)).sum() + 0.5 * c @ (fixed @ c) - pull @ c
        return float(fit + 0.5 * (prior_precision * deviation**2).sum()), ratio

    def likelihood_gradient(c: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
        return features.pull(inverse_variance * (ratio - 1.0)) + fixed @ c - pull

    def newton_step(c: torch.Tensor, ratio: torch.Tensor) -> tuple[torch.Tensor, float]:
        gradient = likelihood_gradient(c, ratio) + prior_precision * (c - prior_mean)
        curvature = inverse_variance * (0.5 * ratio + 0.5)  # between observed and expected information
        hessian = features.gram(curvature) + fixed + torch.diag(prior_precision)
        step = torch.linalg.solve(hessian, gradient)
        return step, float(gradient @ step)

    fitted, ratio = minimise(
        objective, newton_step, shifted, iterations=iterations, shortest=1e-4, growth=2.0, least_gain=least_gain
    )
    information = features.gram(inverse_variance) + fixed
    return fitted, information, likelihood_gradient(fitted, ratio)
