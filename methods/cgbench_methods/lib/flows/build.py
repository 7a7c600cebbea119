"""Build flows from stacks of spline couplings, conditional or not, and sample them from explicit generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from nflows.flows.base import Flow
from nflows.transforms.base import CompositeTransform, Transform

from cgbench_methods.lib.flows.couplings import CircularShift, SplineCoupling

__all__ = ["ConditionalFlow", "UnconditionalFlow", "fixed_parameters", "spline_coupling_flow"]


@contextmanager
def fixed_parameters(module: torch.nn.Module) -> Iterator[None]:
    """Treat the parameters of a module as constants inside the context: their gradients are not computed."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()


def spline_coupling_flow(
    *,
    circular: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    generator: torch.Generator,
    context_features: int = 0,
    num_couplings: int = 12,
    hidden_features: int = 256,
    num_blocks: int = 1,
    num_bins: int = 8,
    spline_on_identity: bool = True,
    random_shift: bool = True,
    dtype: torch.dtype = torch.float64,
) -> CompositeTransform:
    """Build a stack of couplings with random masks in complementary pairs; initially the identity.

    Parameters
    ----------
    circular, lower, upper
        Kind and bounds of each dimension ``[dims]``.
    generator
        Source of masks, shifts and weights; the global generator is not changed.
    context_features
        Number of context features.
    num_couplings, hidden_features, num_blocks, num_bins, spline_on_identity
        See `SplineCoupling`.
    random_shift
        Shift the circular dimensions by random angles after each pair of couplings.
    """
    dims = len(circular)
    lower, upper = lower.to(dtype), upper.to(dtype)
    stages: list[Transform] = []
    mask = torch.ones(dims, dtype=torch.bool)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        for number in range(num_couplings):
            if dims > 1 and number % 2 == 0:
                mask = torch.zeros(dims, dtype=torch.bool)
                mask[torch.randperm(dims, generator=generator)[: dims // 2]] = True
            elif dims > 1:
                mask = ~mask
            stages.append(
                SplineCoupling(
                    mask,
                    lower,
                    upper,
                    circular,
                    context_features=context_features,
                    hidden_features=hidden_features,
                    num_blocks=num_blocks,
                    num_bins=num_bins,
                    spline_on_identity=spline_on_identity,
                )
            )
            if random_shift and number % 2 == 1 and bool(circular.any()):
                fraction = torch.rand(dims, generator=generator, dtype=dtype)
                finite = torch.where(circular, upper - lower, 0.0)
                stages.append(CircularShift(fraction * finite, lower, upper, circular))
    return CompositeTransform(stages)


class ConditionalFlow(Flow):
    """A flow ``q(y | context)`` whose samples come from explicit generators.

    Parameters
    ----------
    transform
        Transform from data to noise, as in nflows.
    base
        Distribution of the noise.
    """

    def sample_with_log_prob(
        self, context: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw one sample for each row of `context`; return ``y [batch, dims]`` and ``ln q [batch]``."""
        return self.from_noise(self._distribution.sample_base(len(context), generator), context)

    def from_noise(self, noise: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the samples that noise ``[batch, dims]`` becomes ``[batch, dims]``, and ``ln q [batch]``."""
        y, log_det = self._transform.inverse(noise, context=context)
        return y, self._distribution._log_prob(noise, None) - log_det

    def to_noise(self, y: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Return the noise that becomes the samples `y`, ``[batch, dims]``."""
        noise: torch.Tensor = self._transform(y, context=context)[0]
        return noise

    def sample_with_scores(
        self, context: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw as `sample_with_log_prob`, with the partial derivatives of ``ln q`` for path gradients.

        Returns
        -------
        y, log_q
            ``[batch, dims]``, differentiable in the parameters and the context, and ``[batch]``, without graph.
        score, context_score
            ``d ln q(y|c) / dy`` at fixed context ``[batch, dims]`` and ``d ln q(y|c) / dc`` at fixed y
            ``[batch, features]``.
        """
        noise = self._distribution.sample_base(len(context), generator)
        y, _ = self._transform.inverse(noise, context=context)
        fixed = {name: value.detach() for name, value in self._transform.named_parameters()}
        leaves = (y.detach().requires_grad_(), context.detach().requires_grad_())
        with torch.enable_grad():
            back, log_det = torch.func.functional_call(self._transform, fixed, leaves[:1], {"context": leaves[1]})
            log_q = self._distribution._log_prob(back, None) + log_det
            score, context_score = torch.autograd.grad(log_q.sum(), leaves)
        return y, log_q.detach(), score, context_score


class UnconditionalFlow(Flow):
    """A flow ``q(z)`` whose samples come from explicit generators.

    Parameters
    ----------
    transform
        Transform from data to noise, as in nflows.
    base
        Distribution of the noise.
    """

    def sample_with_log_prob(self, num: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw ``z [num, dims]`` with ``ln q [num]``, without graph."""
        with torch.no_grad():
            return self.differentiable_sample_with_log_prob(num, generator)

    def differentiable_sample_with_log_prob(
        self, num: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw as `sample_with_log_prob`; both are differentiable in the parameters at fixed noise."""
        noise = self._distribution.sample_base(num, generator)
        z, log_det = self._transform.inverse(noise)
        return z, self._distribution._log_prob(noise, None) - log_det

    def log_prob_and_gradient(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``ln q [batch]`` and its gradient in ``z [batch, dims]``, without graph."""
        leaf = z.detach().requires_grad_()
        with fixed_parameters(self), torch.enable_grad():
            log_q = self.log_prob(leaf)
            (gradient,) = torch.autograd.grad(log_q.sum(), leaf)
        return log_q.detach(), gradient
