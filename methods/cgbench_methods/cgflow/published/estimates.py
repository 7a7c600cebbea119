"""Estimates of the PMF in the published recipe: from an epoch's training samples, and from the ensemble."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate

__all__ = ["ensemble_estimate", "free_estimate"]

CEILING = 25.0  # kT above the lowest label; higher labels are set to this value
NOISE = 0.5  # kT; assumed error of a label
POINTS_AT_ONCE = 10_000


def free_estimate(cvs: CollectiveVariables, s: torch.Tensor, labels: torch.Tensor) -> PMF:
    """Estimate the PMF from the labels of an epoch's training samples, which costs no further evaluations.

    Parameters
    ----------
    s, labels
        Points ``[n, cvs]`` and PMF values in kT, up to a constant ``[n]``.

    Raises
    ------
    ValueError
        If no label is finite.
    """
    model = FourierSurrogate(cvs, order=8, length_scale=0.5, amplitude=6.0)
    s, labels = s.cpu(), labels.cpu()
    usable = labels.isfinite()
    if not bool(usable.any()):
        raise ValueError(f"none of {len(labels):,} labels is finite (unusable_sample): there is nothing to fit")
    values = labels[usable] - labels[usable].min()
    model.fit_values(s[usable], values.clamp(max=CEILING), torch.full_like(values, NOISE))

    def mean(points: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = [model.mean(part) for part in torch.from_numpy(points).split(POINTS_AT_ONCE)]
        return torch.cat(parts).numpy()

    return PMF.from_function(cvs, mean, subdivisions=2)


def ensemble_estimate(
    cvs: CollectiveVariables, mean_and_std: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
) -> PMF:
    """Estimate the PMF by the mean of the ensemble's members, with their standard deviation.

    Parameters
    ----------
    mean_and_std
        The ensemble: PMF and its standard deviation in kT at points ``[batch, cvs]``.
    """
    std = mean_and_std(torch.from_numpy(cvs.grid()))[1].cpu().numpy().reshape(cvs.bins)
    return PMF.from_function(cvs, lambda s: mean_and_std(torch.from_numpy(s))[0].cpu().numpy(), subdivisions=2, std=std)
