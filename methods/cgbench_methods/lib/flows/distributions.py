"""Base distributions of flows on products of circles and lines."""

from __future__ import annotations

import math

import torch
from nflows.distributions.base import Distribution

__all__ = ["UniformGaussian"]

WIDE = 3.0  # standard deviation of the second part of dimensions with wide tails


class UniformGaussian(Distribution):
    """Uniform on circular dimensions, standard normal on the others.

    Dimensions with wide tails are a defensive mixture: a share is normal with the standard deviation `WIDE`. Hence a
    target that is wider there than the flow knows has no large weights.

    Parameters
    ----------
    lower, upper, circular
        Bounds and kind of each dimension ``[dims]``; bounds of non-circular dimensions are not used.
    wide
        Positions of dimensions with wide tails, none of them circular; none by default.
    wide_share
        Share of the wide part in these dimensions.
    """

    def __init__(
        self,
        lower: torch.Tensor,
        upper: torch.Tensor,
        circular: torch.Tensor,
        wide: torch.Tensor | None = None,
        wide_share: float = 0.1,
    ) -> None:
        super().__init__()
        self.wide: torch.Tensor | None
        self.register_buffer("wide", wide)
        self.wide_share = wide_share
        for name, tensor in (("lower", lower), ("upper", upper), ("circular", circular)):
            self.register_buffer(name, tensor.clone())
        turning = (upper - lower)[circular].log().sum()
        self.register_buffer("log_norm", -turning - 0.5 * math.log(2 * math.pi) * int((~circular).sum()))

    def sample_base(self, num: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw ``[num, dims]``."""
        shape = (num, len(self.lower))
        options = {"generator": generator, "dtype": self.lower.dtype, "device": self.lower.device}
        normal, uniform = torch.randn(shape, **options), torch.rand(shape, **options)
        if self.wide is not None:
            chosen = torch.rand(num, len(self.wide), **options) < self.wide_share
            normal[:, self.wide] = torch.where(chosen, WIDE, 1.0) * normal[:, self.wide]
        span = torch.where(self.circular, self.upper - self.lower, 0.0)
        start = torch.where(self.circular, self.lower, 0.0)
        return torch.where(self.circular, start + span * uniform, normal)

    def _log_prob(self, inputs: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        squares = torch.where(self.circular, 0.0, inputs * inputs).sum(1)
        log_prob: torch.Tensor = self.log_norm - 0.5 * squares
        if self.wide is not None:
            halves = 0.5 * inputs[:, self.wide].square()
            # relative to the standard normal density: (1 - share) + share exp(z^2/2 (1 - 1/sd^2)) / sd
            grown = halves * (1.0 - 1.0 / WIDE**2) + math.log(self.wide_share / WIDE)
            log_prob = log_prob + torch.logaddexp(grown, grown.new_tensor(math.log(1.0 - self.wide_share))).sum(1)
        return log_prob

    def _sample(self, num_samples: int, context: torch.Tensor | None) -> torch.Tensor:
        if context is None:
            return self.sample_base(num_samples)
        flat = self.sample_base(len(context) * num_samples)
        return flat.reshape(len(context), num_samples, -1)
