"""Training steps of the conditional flow, by example and by energy.

By example (forward KL): ``-mean ln q(y|s)`` over given samples. By energy, which needs no samples of the target: each
sample y of the flow has the importance weight ``w = exp(-E(s, y)) / q(y|s)``, whose mean at fixed s is ``exp(-A(s))``.
The reverse KL is, for each s,

    loss(s) = E_{y ~ q(.|s)} [ E(s, y) + ln q(y|s) ] = -E_q[ln w].

It hardly sees what the flow generates too rarely, and its gradient is dominated by samples of high energy, which count
for nothing. Where A(s) is known, if only roughly, so is the ratio of the densities, ``u = p(y|s) / q(y|s) = w
exp(A(s))``, and with it any f-divergence ``E_q[f(u)]``. Its path gradient is that of the reverse KL with a factor
``u^2 f''(u)`` for each sample. For the Jensen-Shannon divergence, up to a constant, it is ``2 u / (1 + u)``: from
0 for samples that do not count to 2 for those that are too rare.
"""

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

LEAST_FACTOR = 1e-12  # of a sample's gradient: the slopes are recovered by division


class Flow(Protocol):
    """What training and sampling require of a conditional flow."""

    def sample_with_log_prob(
        self, context: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw one sample per row of the context; return it with its log-density."""
        ...

    def sample_with_scores(
        self, context: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw as `sample_with_log_prob`; return also the derivatives of the log-density in sample and context."""
        ...

    def log_prob(self, inputs: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Return the log-density of given samples."""
        ...


def by_example_loss(flow: Flow, y: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """Return the forward KL up to a constant: minus the mean log-density of the examples."""
    return -flow.log_prob(y, context).mean()


def reverse_kl_losses(
    flow: Flow,
    target: ConditionalTarget,
    s: torch.Tensor,
    context: torch.Tensor,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one sample per row; return its reverse KL, with the reparametrisation gradient, and its log-weight.

    Returns
    -------
    losses, log_weights
        Each ``[batch]``. Samples outside the state space have infinite losses, and log-weights of minus infinity.
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
    units: torch.Tensor | None = None,
    free_energy: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Accumulate the path gradient of a divergence in the flow's parameters; return samples, log-weights and slopes.

    With ``y = f(z; s)`` the gradient of one sample is

        (dE/dy + d ln q/dy) dy/dtheta.

    The remaining term of the full gradient, the score ``d ln q/dtheta`` at fixed y, is zero on average and omitted
    ("sticking the landing", Roeder et al. 2017). The path gradient vanishes for every sample if the flow is exact.
    This is the reverse KL. The Jensen-Shannon divergence has a factor in front, ``2 u / (1 + u)``.

    Parameters
    ----------
    features
        The flow's context as a function of `s`.
    clip_norm
        Largest norm of each sample's gradient with respect to `y`, without the factor. With None, no gradient is
        computed for the parameters.
    units
        Displacements of y that have norm one, as columns ``[fine, fine]``; by default those of one coordinate by one.
    free_energy
        ``-ln`` of the mean weight at each s, roughly ``[batch]``, for the Jensen-Shannon divergence; with None, it is
        the reverse KL.

    Returns
    -------
    y
        Samples ``[batch, fine]``.
    log_weights, slopes
        Log-weights ``[batch]`` and their derivatives ``d ln w/ds`` at fixed noise z ``[batch, cvs]``, at no further
        evaluations. The weighted mean of the slopes is the mean force, ``E[w d ln w/ds] / E[w] = -dA/ds``.
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
        scale = _clipping(total, clip_norm, units)[:, None] / len(y)
        if free_energy is not None:
            ratio = (log_weights + free_energy).nan_to_num(nan=-torch.inf)
            scale = scale * (2 * torch.sigmoid(ratio)).clamp(min=LEAST_FACTOR)[:, None]
        (scale * total * y).sum().backward()
        assert s.grad is not None
        along = s.grad / scale
    slopes = torch.where(usable, -(force_s + explicit + along), torch.nan)
    return y.detach(), log_weights, slopes


def plain_gradient_step(
    flow: Flow,
    target: ConditionalTarget,
    s: torch.Tensor,
    features: Callable[[torch.Tensor], torch.Tensor],
    generator: torch.Generator,
    *,
    clip_norm: float,
    units: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Do as `path_gradient_step` for the reverse KL, but with the full reparametrisation gradient with the score."""
    s = s.detach().requires_grad_()
    y, log_q = flow.sample_with_log_prob(features(s), generator)
    energy, force, force_s = target.energy_and_gradients(s, y)
    usable = energy.isfinite() & log_q.isfinite()
    losses = torch.where(usable[:, None], force * y, 0.0).sum(1) + torch.where(usable, log_q, 0.0)
    (along,) = torch.autograd.grad(losses.sum(), s, retain_graph=True)
    (_clipping(force, clip_norm, units) * losses).mean().backward()
    slopes = torch.where(usable[:, None], -(force_s + along), torch.nan)
    return y.detach(), -(energy + log_q.detach()), slopes


def _clipping(gradients: torch.Tensor, clip_norm: float, units: torch.Tensor | None) -> torch.Tensor:
    """Return the factors that limit the norms of gradients ``[batch, fine]`` to `clip_norm`, ``[batch]``."""
    norm = (gradients if units is None else gradients @ units).norm(dim=1)
    factors: torch.Tensor = (clip_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
    return factors


def set_learning_rate(optimiser: torch.optim.Optimizer, rates: Iterable[float]) -> None:
    """Set the learning rate of each parameter group."""
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
