"""The model of the PMF at work: fitted to all labels, judged by its own spread, and made an estimate."""

from __future__ import annotations

import torch

from cgbench.contracts.pmf import PMF
from cgbench_methods.cgflow.harmonic.config import SurrogateConfig
from cgbench_methods.cgflow.harmonic.samples import WeightedSamples
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate

__all__ = ["expected_kld", "fit_or_restore", "pmf_of"]


def fit_or_restore(
    surrogate: FourierSurrogate, labels: WeightedSamples, config: SurrogateConfig, truncation: float
) -> bool:
    """Fit with the prior of largest evidence; back to the model before if that fails.

    A fit has failed if it is not finite, or has no spread anywhere.

    Parameters
    ----------
    surrogate, labels
        Model and labels; the labels' variances are measured by the fit, and restored with the model.
    config
        Length scales and amplitudes to choose from.
    truncation
        As for `WeightedSamples.fit`.

    Returns
    -------
    bool
        Whether the model is the new one.
    """
    model, variances = surrogate.state_dict(), labels.variances()
    try:
        labels.fit(surrogate, truncation)
        surrogate.choose_prior(config.length_scales, config.amplitudes)
        labels.fit(surrogate, truncation, sweeps=1)
        mean, std = surrogate.on_grid()
        sound = bool(mean.isfinite().all() & std.isfinite().all() & (std > 0).any())
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # of a matrix with infinite elements
        sound = False
    if not sound:
        surrogate.load_state_dict(model)
        labels.set_variances(variances)
    return sound


def expected_kld(surrogate: FourierSurrogate) -> float:
    """Forward KLD that the posterior of the PMF expects, to second order: ``sum p var / 2``."""
    mean, std = surrogate.on_grid()
    return float(0.5 * (torch.softmax(-mean, 0) * std**2).sum())


def pmf_of(surrogate: FourierSurrogate) -> PMF:
    """The posterior mean as an estimate, with its standard deviation."""
    cvs = surrogate.cvs
    std = surrogate.on_grid()[1].numpy().reshape(cvs.bins)
    return PMF.from_function(cvs, lambda s: surrogate.mean(torch.from_numpy(s)).numpy(), subdivisions=3, std=std)
