"""Labels of the published recipe: new samples of the trained flow at all points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cgbench.contracts.problem import Problem
from cgbench_methods.lib.estimators.importance import free_energies

__all__ = ["Labels", "label_points", "usable_labels"]

LARGEST_LABEL = 1e18  # kT above the lowest; beyond, its square is more than the float32 of the networks holds
POINTS_AT_ONCE = 64


@dataclass(frozen=True)
class Labels:
    """Labels of points, and the weights that they are made of.

    Attributes
    ----------
    labels
        PMF in kT up to a constant ``[points]``.
    log_weights
        Of all samples, those of a point next to each other ``[points * samples]``.
    excess
        The same over the mean weight of their point.
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
    """Sample the flow at all points.

    Parameters
    ----------
    draw_losses
        Draws the samples: `PublishedTraining.draw_losses`.
    s
        Points ``[points, cvs]``.
    clip_largest
        As for `free_energies`.
    generator
        Source of the latent samples.
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
    """Which labels can be fitted, boolean ``[points]``; the others are counted.

    Raises
    ------
    ValueError
        If none can.
    """
    usable = labels.isfinite()
    if bool(usable.any()):
        usable &= labels - labels[usable].min() < LARGEST_LABEL
    problem.report_anomaly("unusable_sample", (~usable).sum(), len(labels))
    if not bool(usable.any()):
        raise ValueError(f"none of {len(labels):,} labels is finite (unusable_sample): there is nothing to fit")
    return usable
