"""Training of the conditional flow, by example and by energy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch

from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = [
    "Flow",
    "by_example_loss",
    "path_gradient_step",
    "plain_gradient_step",
    "reverse_kl_losses",
    "set_learning_rate",
]


class Flow(Protocol):
    """What training and labelling need of a conditional flow."""

    def sample_with_log_prob(
        self, context: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One sample per row of the context, with its log-density."""
        ...

    def sample_with_scores(
        self, context: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same, and the derivatives of the log-density in sample and context."""
        ...

    def log_prob(self, inputs: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Log-density of given samples."""
        ...


def by_example_loss(flow: Flow, y: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """Forward KL up to a constant: minus the mean log-density of examples."""
    return -flow.log_prob(y, context).mean()


def reverse_kl_losses(
    flow: Flow,
    target: ConditionalTarget,
    s: torch.Tensor,
    context: torch.Tensor,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reverse KL of one sample per row with the reparametrisation gradient.

    Returns
    -------
    losses, log_weights
        Each ``[batch]``; losses of samples outside the state space are infinite, their log-weights minus
        infinity.
    """
    y, log_q = flow.sample_with_log_prob(context, generator)
    losses = target.energy(s, y) + log_q
    return losses, -losses.detach()


def path_gradient_step(
    flow: Flow,
    target: ConditionalTarget,
    s: torch.Tensor,
    features: Callable[[torch.Tensor], torch.Tensor],
    generator: torch.Generator,
    *,
    clip_norm: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Accumulate the path gradient of the reverse KL in the flow's parameters.

    The score term, zero on average, is left out ("sticking the landing", Roeder et al. 2017), so that the
    gradient vanishes for every single sample when the flow is exact.

    Parameters
    ----------
    features
        The flow's context as a function of `s`.
    clip_norm
        Cut the gradient of each sample with respect to `y` at this norm; with None the parameters get no
        gradient at all.

    Returns
    -------
    log_weights, slopes
        Labels of the PMF at no further cost: log-weights ``[batch]``, and their derivatives along `s` at
        fixed noise ``[batch, cvs]``, whose mean under the weights is the mean force.
    """
    s = s.detach().requires_grad_()
    context = features(s)
    y, log_q, score, context_score = flow.sample_with_scores(context, generator)
    energy, force, force_s = target.energy_and_gradients(s, y)
    log_weights = -(energy + log_q)
    usable = (energy.isfinite() & (force + score).isfinite().all(dim=1))[:, None]
    total = torch.where(usable, force + score, 0.0)
    (explicit,) = torch.autograd.grad(context, s, context_score, retain_graph=True)
    if clip_norm is None:
        (along,) = torch.autograd.grad(y, s, total)
    else:
        norm = total.norm(dim=1, keepdim=True)
        scale = (clip_norm / norm.clamp(min=1e-12)).clamp(max=1.0) / len(y)
        (scale * total * y).sum().backward()
        assert s.grad is not None
        along = s.grad / scale
    slopes = torch.where(usable, -(force_s + explicit + along), torch.nan)
    return log_weights, slopes


def plain_gradient_step(
    flow: Flow,
    target: ConditionalTarget,
    s: torch.Tensor,
    features: Callable[[torch.Tensor], torch.Tensor],
    generator: torch.Generator,
    *,
    clip_norm: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as `path_gradient_step` with the plain reparametrisation gradient, score term included."""
    s = s.detach().requires_grad_()
    y, log_q = flow.sample_with_log_prob(features(s), generator)
    energy, force, force_s = target.energy_and_gradients(s, y)
    usable = energy.isfinite() & log_q.isfinite()
    losses = torch.where(usable[:, None], force * y, 0.0).sum(1) + torch.where(usable, log_q, 0.0)
    (along,) = torch.autograd.grad(losses.sum(), s, retain_graph=True)
    scale = (clip_norm / force.norm(dim=1).clamp(min=1e-12)).clamp(max=1.0)
    (scale * losses).mean().backward()
    slopes = torch.where(usable[:, None], -(force_s + along), torch.nan)
    return -(energy + log_q.detach()), slopes


def set_learning_rate(optimiser: torch.optim.Optimizer, rates: Iterable[float]) -> None:
    """Set the learning rate of each parameter group."""
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
