"""Training of the conditional flow, by example and by energy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch

from methods.cgflow.target import ConditionalTarget

__all__ = ["Flow", "by_example_loss", "path_gradient_step", "reverse_kl_losses", "set_learning_rate"]


class Flow(Protocol):
    """What training and labelling need of a conditional flow."""

    def sample_with_log_prob(
        self, context: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One sample per row of the context, with its log-density."""
        ...

    def path_gradient_sample(
        self, context: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same with gradients through the sample alone."""
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
    context: torch.Tensor,
    generator: torch.Generator,
    *,
    clip_norm: float,
) -> torch.Tensor:
    """Accumulate the path gradient of the reverse KL in the flow's parameters.

    The score term, zero on average, is left out ("sticking the landing", Roeder et al. 2017), so that the
    gradient vanishes for every single sample when the flow is exact. The gradient of each sample with
    respect to `y` is cut at `clip_norm`.

    Returns
    -------
    torch.Tensor
        Log-weights ``[batch]``: labels of the PMF at no further cost.
    """
    y, log_q = flow.path_gradient_sample(context, generator)
    (score,) = torch.autograd.grad(log_q.sum(), y, retain_graph=True)
    energy, force = target.energy_and_gradient(s, y)
    log_weights = -(energy + log_q.detach())
    total = torch.where(energy.isfinite()[:, None], force + score, 0.0)
    norm = total.norm(dim=1, keepdim=True)
    total = total * (clip_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
    (total.detach() * y).sum().div(len(y)).backward()  # type: ignore[no-untyped-call]
    return log_weights


def set_learning_rate(optimiser: torch.optim.Optimizer, rates: Iterable[float]) -> None:
    """Set the learning rate of each parameter group."""
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
