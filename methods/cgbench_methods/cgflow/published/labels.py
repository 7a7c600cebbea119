"""Labels of the published recipe: the PMF at all points, from new samples of the trained flow.

``A(s) = -ln mean_j w_j``, with importance weights ``w_j = exp(-E(s, y_j)) / q(y_j|s)`` of several samples at each s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cgbench.contracts.problem import Problem
from cgbench_methods.lib.estimators.importance import free_energies

__all__ = ["Labels", "label_points", "usable_labels"]

LARGEST_LABEL = 1e18  # kT above the lowest; the square of a larger label overflows the networks' float32
POINTS_AT_ONCE = 64


@dataclass(frozen=True)
class Labels:
    """Labels of points, and the weights that they were computed from.

    Attributes
    ----------
    labels
        PMF in kT up to a constant ``[points]``.
    log_weights
        Log-weights of all samples, grouped by point ``[points * samples]``.
    excess
        Log-weights relative to the mean weight of their point ``[points * samples]``.
    """

    labels: torch.Tensor
    log_weights: torch.Tensor
    excess: torch.Tensor


@torch.no_grad()
def label_points(
    draw_losses: Callable[[torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor]],
    s: torch.Tensor,
    clip_largest: int,
    generator: torch.Generator,
) -> Labels:
    """Sample the flow at all points and compute their labels.

    Parameters
    ----------
    draw_losses
        Draws the samples; `PublishedTraining.draw_losses`.
    s
        Points ``[points, cvs]``.
    clip_largest
        As for `cgbench_methods.lib.estimators.importance.free_energies`.
    generator
        Source of the noise.
    """
    labels, excess, weights = [], [], []
    for batch in s.split(POINTS_AT_ONCE):
        _, log_weights = draw_losses(batch, generator)
        of_point = log_weights.reshape(len(batch), -1)
        weights.append(log_weights)
        labels.append(free_energies(of_point, clip_largest))
        excess.append((of_point + free_energies(of_point)[:, None]).reshape(-1))
    return Labels(torch.cat(labels), torch.cat(weights), torch.cat(excess))


def usable_labels(labels: torch.Tensor, problem: Problem) -> torch.Tensor:
    """Tell which labels can be fitted, boolean ``[points]``; count the others as anomalies.

    Raises
    ------
    ValueError
        If no label is finite.
    """
    usable = labels.isfinite()
    if bool(usable.any()):
        usable &= labels - labels[usable].min() < LARGEST_LABEL
    problem.report_anomaly("unusable_sample", (~usable).sum(), len(labels))
    if not bool(usable.any()):
        raise ValueError(f"none of {len(labels):,} labels is finite (unusable_sample): there is nothing to fit")
    return usable
