"""Optimiser steps that are skipped, and counted, where loss or gradient is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from cgbench.contracts.problem import Problem

__all__ = ["sound_step"]


def sound_step(
    problem: Problem, optimiser: torch.optim.Optimizer, *, clip_norm: float | None = None, sound: bool = True
) -> bool:
    """Make an optimiser's step if loss and gradients are finite; otherwise skip it and count a ``skipped_step``.

    A single NaN gradient would stay in Adam's moments, and thereby in all weights.

    Parameters
    ----------
    problem
        Receives the count of skipped steps.
    optimiser
        The optimiser; its parameters hold the gradients.
    clip_norm
        Clip the gradient at this norm.
    sound
        Whether the loss is finite.

    Returns
    -------
    bool
        Whether the step was made.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    if sound:
        if clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        sound = bool(norm.isfinite())
    if sound:
        optimiser.step()
    problem.report_anomaly("skipped_step", int(not sound), 1)
    return sound
