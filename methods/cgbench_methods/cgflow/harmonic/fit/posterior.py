"""The Bayesian model of the PMF: fit to the weighted samples, expected error, and estimate."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Estimate, Map
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench_methods.cgflow.harmonic.config import SurrogateConfig
from cgbench_methods.cgflow.harmonic.fit.samples import WeightedSamples
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate

__all__ = ["estimate_of", "expected_kld", "fit_or_restore", "model_grid"]

MODEL_BINS = 30  # along each of three CVs: the grid of the maps would have a million bins


def fit_or_restore(
    surrogate: FourierSurrogate, samples: WeightedSamples, config: SurrogateConfig, truncation: float
) -> bool:
    """Fit the model, with the prior of largest evidence; restore the previous model if the fit fails.

    A fit fails if mean or standard deviation is not finite, if the standard deviation is zero everywhere, or if a
    matrix cannot be factorised.

    Parameters
    ----------
    surrogate, samples
        Model and samples. The fit also measures the samples' variances; they are restored with the model.
    config
        Candidates for the prior's length scale and amplitude.
    truncation
        As for `WeightedSamples.fit`.

    Returns
    -------
    bool
        Whether the fit succeeded.
    """
    model, variances, tail_error = surrogate.state_dict(), samples.variances.state_dict(), samples.tail_error
    try:
        samples.fit(surrogate, truncation)
        surrogate.choose_prior(config.length_scales, config.amplitudes)
        samples.fit(surrogate, truncation, sweeps=1)
        mean, std = surrogate.on_grid()
        fitted = bool(mean.isfinite().all() & std.isfinite().all() & (std > 0).any())
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # torch's stubs lack it
        fitted = False
    if not fitted:
        surrogate.load_state_dict(model)
        samples.variances.load_state_dict(variances)
        samples.tail_error = tail_error
    return fitted


def model_grid(cvs: CollectiveVariables) -> CollectiveVariables:
    """Return the CVs with the grid on which the model is tabulated: their own, or a coarser one over three CVs."""
    if len(cvs) <= 2:
        return cvs
    return dataclasses.replace(cvs, bins=tuple(min(bins, MODEL_BINS) for bins in cvs.bins))


def expected_kld(surrogate: FourierSurrogate, samples: WeightedSamples, problem: Problem) -> float:
    """Return the expected forward KLD: to second order, half the mean square of the error of A under the PMF.

    The error is the stated one or, if that expects more, the posterior's, which contains what all places have in
    common. While samples are few, only this part tells that the populated region itself is not known. Both contain the
    error from large weights.

    With several maps it is the mean over them.
    """
    p = torch.softmax(-surrogate.on_grid()[0], 0)
    if len(problem.cvs) <= 2:
        errors = surrogate.stated_error_on_grid(), surrogate.on_grid()[1]
        return max(float(0.5 * (p * (error**2 + samples.tail_error**2)).sum()) for error in errors)
    whole = p.numpy().reshape(surrogate.cvs.bins)
    found = [
        [0.5 * float((_marginal(whole, one) * error**2).sum()) for error in _errors_of_map(surrogate, samples, one)]
        for one in problem.maps
    ]
    return float(np.mean(found, axis=0).max())


def estimate_of(surrogate: FourierSurrogate, samples: WeightedSamples, problem: Problem) -> PMF | Estimate:
    """Return the posterior mean as an estimate of the PMFs of all maps, with their standard errors.

    The standard error is that of the posterior for the normalised PMF, and larger where the prior shifts the PMF by
    more than it expects (`FourierSurrogate.stated_error`). The error from large weights (`WeightedSamples.tail_error`)
    is added in quadrature.
    """
    cvs = problem.cvs
    if len(cvs) <= 2:
        error = torch.hypot(surrogate.stated_error_on_grid(), samples.tail_error)
        std = error.numpy().reshape(cvs.bins)
        return PMF.from_function(cvs, lambda s: surrogate.mean(torch.from_numpy(s)).numpy(), subdivisions=3, std=std)
    axes = [torch.from_numpy(cvs.centers(axis)) for axis in range(len(cvs))]
    values = surrogate.basis.on_product_grid(axes, surrogate.coefficients)
    p = torch.softmax(-values.reshape(-1), 0).numpy()
    pmfs = []
    for one in problem.maps:
        rough = dataclasses.replace(one.cvs, bins=tuple(surrogate.cvs.bins[axis] for axis in one.axes))
        std = _errors_of_map(surrogate, samples, one)[0][rough.bin_index(one.cvs.grid())]
        pmfs.append(PMF(one.cvs, _marginal(p.reshape(cvs.bins), one).reshape(one.cvs.bins), std.reshape(one.cvs.bins)))
    states = problem.states
    if states is None:
        return Estimate(tuple(pmfs))
    return Estimate(tuple(pmfs), dict(zip(states.names, states.counts(cvs.grid(), p).tolist(), strict=True)))


def _marginal(p: NDArray[np.float64], one: Map) -> NDArray[np.float64]:
    """Sum probabilities on the grid of all CVs over those that a map does not have; flat, in the map's order of CVs."""
    others = tuple(axis for axis in range(p.ndim) if axis not in one.axes)
    kept = sorted(one.axes)
    return np.asarray(p.sum(axis=others).transpose([kept.index(axis) for axis in one.axes]).reshape(-1))


def _features_of_map(surrogate: FourierSurrogate, one: Map) -> torch.Tensor:
    """Return the modes whose sum is the error of a map's PMF on the model's grid, ``[bins, modes]``.

    To first order, the error of ``-ln sum exp(-A)`` over the other CVs is the mean error of A under the conditional
    probabilities; hence the modes are averaged with these.
    """
    p = torch.softmax(-surrogate.on_grid()[0], 0).clamp(min=1e-300)
    return surrogate.products.conditional_mean(one.axes, p)


def _errors_of_map(
    surrogate: FourierSurrogate, samples: WeightedSamples, one: Map
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return errors of a map's PMF on the model's grid, each flat.

    The first is the stated one, of the normalised PMF: the modes less their mean under it. The second is that of the
    posterior alone, with what all places have in common. Both contain the error from large weights: its mean under the
    conditional probabilities, because neighbouring bins have it in common.
    """
    features = _features_of_map(surrogate, one)
    whole = torch.softmax(-surrogate.on_grid()[0], 0).numpy().reshape(surrogate.cvs.bins)
    p = _marginal(whole, one)
    tail = _marginal(whole * samples.tail_error.numpy().reshape(whole.shape), one) / np.maximum(p, 1e-300)
    of_map = torch.from_numpy(p / p.sum())
    centred = features - of_map @ features
    stated, of_posterior = surrogate.stated_error(centred).numpy(), surrogate.std_of_features(features).numpy()
    return np.hypot(stated, tail), np.hypot(of_posterior, tail)
