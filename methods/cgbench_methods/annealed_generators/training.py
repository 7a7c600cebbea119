"""Gradients for the two losses: reverse KL at a high temperature, and forward KL on weighted samples."""

from __future__ import annotations

import math

import torch

from cgbench_methods.lib.flows.build import UnconditionalFlow
from cgbench_methods.lib.flows.joint import JointTarget

__all__ = ["clipped", "cosine", "forward_kl", "reverse_kl_gradient", "training_weights"]


def reverse_kl_gradient(
    flow: UnconditionalFlow,
    target: JointTarget,
    count: int,
    generator: torch.Generator,
    *,
    inverse_temperature: float,
    dropped: int,
    path_gradient: bool,
    sample_clip: float | None,
) -> tuple[torch.Tensor, ...]:
    """Accumulate the gradient of the reverse KL divergence ``E_q[ln q - ln p_b]`` in the flow's parameters.

    The gradient of a sample ``z = f(noise)`` is ``(d ln q/dz - d ln p_b/dz) dz/dtheta`` plus the score
    ``d ln q/dtheta`` at fixed z, which is zero on average. The path gradient leaves the score out (Roeder, Wu and
    Duvenaud, NeurIPS 2017); its variance vanishes if the flow is exact.

    Parameters
    ----------
    count
        Number of samples.
    inverse_temperature
        The inverse temperature b of the target, relative to that of the PMF.
    dropped
        Number of samples of highest energy that get no gradient.
    path_gradient
        Leave out the score.
    sample_clip
        Largest norm of each sample's gradient with respect to z.

    Returns
    -------
    z, log_q, energy, volume, loss
        The samples without graph, as in `schedules.Buffer`, with wrapped z; and the mean loss of the samples that are
        used, up to a constant.
    """
    z, log_q = flow.differentiable_sample_with_log_prob(count, generator)
    wrapped = target.wrap(z.detach())
    energy, volume, slope = target.parts_and_gradient(wrapped, inverse_temperature)
    losses = log_q.detach().double() + inverse_temperature * energy - volume
    usable = losses.isfinite() & slope.isfinite().all(dim=1)
    if dropped:
        highest = torch.where(usable, energy, torch.inf).topk(dropped).indices
        usable = usable.index_fill(0, highest, False)
    pull = -slope
    if path_gradient:
        pull = pull + flow.log_prob_and_gradient(wrapped)[1]
    scale = usable.to(z.dtype) / max(int(usable.sum()), 1)
    if sample_clip is not None:
        norm = pull.norm(dim=1)
        scale = scale * (sample_clip / norm.clamp(min=1e-12)).clamp(max=1.0)
    pull = torch.where(usable[:, None], pull, 0.0) * scale[:, None]
    loss = (pull * torch.where(usable[:, None], z, 0.0)).sum()
    if not path_gradient:
        loss = loss + (scale * torch.where(usable, log_q, 0.0)).sum()
    loss.backward()
    mean = torch.where(usable, losses, 0.0).sum() / max(int(usable.sum()), 1)
    return wrapped, log_q.detach(), energy, volume, mean


def forward_kl(flow: UnconditionalFlow, z: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Return ``-mean w ln q(z)``, the forward KL divergence up to a constant; without weights they are 1.

    A sample of weight zero adds nothing, even where q is zero.
    """
    log_q: torch.Tensor = flow.log_prob(z)
    if weights is None:
        return -log_q.mean()
    return -(weights * torch.where(weights > 0, log_q, 0.0)).mean()


def clipped(log_weights: torch.Tensor, share: float) -> torch.Tensor:
    """Clip the largest weights to the smallest of them; `share` of the weights are clipped."""
    count = math.ceil(share * len(log_weights)) if share else 0
    if not count:
        return log_weights
    return log_weights.clamp(max=float(log_weights.topk(count).values[-1]))


def training_weights(log_weights: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return weights with mean 1, for `forward_kl`.

    Weights below the precision of `dtype` are set to zero: together they are less than the rounding of the sum. As
    factors of a gradient they would give denormal numbers, with which some processors compute ten times as slowly.

    Parameters
    ----------
    log_weights
        Finite numbers ``[samples]``.
    """
    weights = (log_weights - torch.logsumexp(log_weights, 0)).exp() * len(log_weights)
    return torch.where(weights < torch.finfo(dtype).eps, 0.0, weights).to(dtype)


def cosine(rate: float, update: int, updates: int, warmup: int) -> float:
    """Learning rate with linear warm-up and a cosine decay to zero."""
    if update < warmup:
        return rate * (update + 1) / warmup
    done = (update - warmup) / max(updates - warmup, 1)
    return rate * 0.5 * (1.0 + math.cos(math.pi * done))
