"""Differentiable energies from an engine that returns energy and gradient together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["EnergyWithGradient"]

EnergyAndGradient = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class EnergyWithGradient(torch.autograd.Function):
    """Reduced energy with a precomputed gradient: backward needs no further evaluation."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, evaluate: EnergyAndGradient) -> torch.Tensor:
        """Evaluate energy and gradient, and keep the gradient for `backward`."""
        energy, gradient = evaluate(x.detach())
        ctx.save_for_backward(gradient)
        return energy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Apply the chain rule with the stored gradient."""
        (gradient,) = ctx.saved_tensors
        weight = grad_outputs[0].reshape(-1, *(1,) * (gradient.dim() - 1))
        return weight * gradient, None
