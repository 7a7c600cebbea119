"""The Bayesian model of the PMF: fit to the weighted samples, expected error, and estimate."""

from __future__ import annotations

import torch

from cgbench.contracts.pmf import PMF
from cgbench_methods.cgflow.harmonic.config import SurrogateConfig
from cgbench_methods.cgflow.harmonic.samples import WeightedSamples
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate

__all__ = ["expected_kld", "fit_or_restore", "pmf_of"]


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
    model, variances = surrogate.state_dict(), samples.variances()
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
        samples.set_variances(variances)
    return fitted


def expected_kld(surrogate: FourierSurrogate) -> float:
    """Return the forward KLD that the posterior expects, to second order: ``1/2 sum_b p_b var(A_b)`` over the bins."""
    mean, std = surrogate.on_grid()
    return float(0.5 * (torch.softmax(-mean, 0) * std**2).sum())


def pmf_of(surrogate: FourierSurrogate) -> PMF:
    """Return the posterior mean as an estimate of the PMF, with its standard deviation."""
    cvs = surrogate.cvs
    std = surrogate.on_grid()[1].numpy().reshape(cvs.bins)
    return PMF.from_function(cvs, lambda s: surrogate.mean(torch.from_numpy(s)).numpy(), subdivisions=3, std=std)
