"""The publication's flow for Müller-Brown: a conditional Gaussian, ``y = m(s) + exp(l(s)) z``, m and l by a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nflows.transforms.base import Transform

__all__ = ["ConditionalGaussian"]


class ConditionalGaussian(Transform):
    """``z = (y - m(s)) exp(-l(s))``, with mean m and log-width l from a multilayer perceptron.

    Parameters
    ----------
    features
        Number of fine-grained coordinates.
    context_features
        Number of features of `s`.
    hidden
        Widths of the hidden layers.
    generator
        Source of the initial weights. The last layer starts at zero, so the transform starts as the identity.
    """

    def __init__(self, features: int, context_features: int, hidden: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        widths = (context_features, *hidden)
        layers: list[torch.nn.Module] = []
        for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
            linear = torch.nn.utils.skip_init(torch.nn.Linear, fan_in, fan_out, dtype=torch.float64)
            with torch.no_grad():
                for parameter in linear.parameters():
                    parameter.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
            layers += [linear, torch.nn.SiLU()]
        last = torch.nn.utils.skip_init(torch.nn.Linear, widths[-1], 2 * features, dtype=torch.float64)
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
        self.network = torch.nn.Sequential(*layers, last)

    def forward(self, inputs: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map data to noise; return outputs ``[batch, fine]`` and ``ln|det|`` ``[batch]``."""
        mean, log_width = self.network(context).chunk(2, dim=1)
        return (inputs - mean) * torch.exp(-log_width), -log_width.sum(1)

    def inverse(self, inputs: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map noise to data; return outputs ``[batch, fine]`` and ``ln|det|`` ``[batch]``."""
        mean, log_width = self.network(context).chunk(2, dim=1)
        return inputs * log_width.exp() + mean, log_width.sum(1)
