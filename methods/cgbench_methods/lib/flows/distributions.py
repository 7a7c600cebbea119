"""Base distributions of flows on products of circles and lines."""

from __future__ import annotations

import math

import torch
from nflows.distributions.base import Distribution

__all__ = ["UniformGaussian"]


class UniformGaussian(Distribution):
    """Uniform on circular dimensions, standard normal on the others.

    Parameters
    ----------
    lower, upper, circular
        Bounds and kind of each dimension ``[dims]``; bounds of non-circular dimensions are not used.
    """

    def __init__(self, lower: torch.Tensor, upper: torch.Tensor, circular: torch.Tensor) -> None:
        super().__init__()
        for name, tensor in (("lower", lower), ("upper", upper), ("circular", circular)):
            self.register_buffer(name, tensor.clone())
        turning = (upper - lower)[circular].log().sum()
        self.register_buffer("log_norm", -turning - 0.5 * math.log(2 * math.pi) * int((~circular).sum()))

    def sample_base(self, num: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw ``[num, dims]``."""
        shape = (num, len(self.lower))
        options = {"generator": generator, "dtype": self.lower.dtype, "device": self.lower.device}
        normal, uniform = torch.randn(shape, **options), torch.rand(shape, **options)
        span = torch.where(self.circular, self.upper - self.lower, 0.0)
        start = torch.where(self.circular, self.lower, 0.0)
        return torch.where(self.circular, start + span * uniform, normal)

    def _log_prob(self, inputs: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        squares = torch.where(self.circular, 0.0, inputs * inputs).sum(1)
        log_prob: torch.Tensor = self.log_norm - 0.5 * squares
        return log_prob

    def _sample(self, num_samples: int, context: torch.Tensor | None) -> torch.Tensor:
        if context is None:
            return self.sample_base(num_samples)
        flat = self.sample_base(len(context) * num_samples)
        return flat.reshape(len(context), num_samples, -1)
