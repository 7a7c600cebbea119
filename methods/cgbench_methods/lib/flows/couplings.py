"""Coupling transforms on tori and intervals, with nflows' Transform interface."""

from __future__ import annotations

import math
from typing import Any

import torch
from nflows.transforms.base import Transform

from cgbench_methods.lib.flows.conditioner import Conditioner
from cgbench_methods.lib.flows.splines import num_parameters, rational_quadratic_spline

__all__ = ["CircularShift", "SplineCoupling"]

Pair = tuple[torch.Tensor, torch.Tensor]


class _Permute(torch.autograd.Function):
    """Permute rows; the derivative is the inverse permutation, faster than that of indexing."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, order: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back), None, None


class CircularShift(Transform):
    """Shift the circular dimensions by fixed angles; leave the others unchanged.

    Parameters
    ----------
    shift
        Angles ``[dims]``; ignored where not circular.
    lower, upper, circular
        Bounds and kind of each dimension ``[dims]``.
    """

    def __init__(self, shift: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor, circular: torch.Tensor) -> None:
        super().__init__()
        turning = circular.nonzero().squeeze(1)
        self.register_buffer("turning", turning)
        for name, tensor in (("shift", shift), ("lower", lower), ("upper", upper)):
            self.register_buffer(name, tensor[turning, None].clone())

    def _turn(self, inputs: torch.Tensor, shift: torch.Tensor) -> Pair:
        rows = inputs.t()
        turned = self.lower + torch.remainder(rows[self.turning] + shift - self.lower, self.upper - self.lower)
        return rows.index_copy(0, self.turning, turned).t(), inputs.new_zeros(len(inputs))

    def forward(self, inputs: torch.Tensor, context: torch.Tensor | None = None) -> Pair:
        """Map data to noise."""
        return self._turn(inputs, self.shift)

    def inverse(self, inputs: torch.Tensor, context: torch.Tensor | None = None) -> Pair:
        """Map noise to data."""
        return self._turn(inputs, -self.shift)


class SplineCoupling(Transform):
    """Rational-quadratic spline coupling: one half of the dimensions, conditioned on the other half and a context.

    Circular dimensions enter the network as cosine and sine, which makes the transform continuous on the torus. The
    last layer is initially zero, hence the transform initially the identity. Inside, the batch is contiguous in
    memory, as the splines need it; inputs and outputs are transposed views, ``[batch, dims]``.

    Parameters
    ----------
    mask
        Boolean ``[dims]``: which dimensions are transformed; the others are the condition.
    lower, upper, circular
        Bounds and kind of each dimension ``[dims]``.
    context_features
        Number of context features; 0 for no context.
    hidden_features, num_blocks, num_bins
        Width and number of blocks of the residual network, number of bins of a spline.
    spline_on_identity
        Also transform the conditioning half, by one learned, unconditional spline per dimension.
    """

    def __init__(
        self,
        mask: torch.Tensor,
        lower: torch.Tensor,
        upper: torch.Tensor,
        circular: torch.Tensor,
        *,
        context_features: int = 0,
        hidden_features: int = 256,
        num_blocks: int = 1,
        num_bins: int = 8,
        spline_on_identity: bool = True,
    ) -> None:
        super().__init__()
        moved, kept = mask.nonzero().squeeze(1), (~mask).nonzero().squeeze(1)
        buffers = {
            "moved": moved,
            "kept": kept,
            "order": torch.cat([moved, kept]),
            "back": torch.argsort(torch.cat([moved, kept])),
            "lower": lower[moved].clone(),
            "upper": upper[moved].clone(),
            "circular": circular[moved].clone(),
            "kept_lower": lower[kept].clone(),
            "kept_upper": upper[kept].clone(),
            "kept_circular": circular[kept].clone(),
            "turning": circular[kept].nonzero().squeeze(1),
            "straight": (~circular[kept]).nonzero().squeeze(1),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)
        inputs = len(kept) + len(self.turning)
        if inputs + context_features == 0:
            raise ValueError("a coupling needs a dimension or a context to condition on")
        self.parameters_per_dim = num_parameters(num_bins)
        self.network = Conditioner(
            inputs,
            context_features,
            len(moved) * self.parameters_per_dim,
            hidden_features=hidden_features,
            num_blocks=num_blocks,
            dtype=lower.dtype,
        )
        self.bias = torch.nn.Parameter(torch.zeros(len(moved), self.parameters_per_dim, dtype=lower.dtype))
        self.own: torch.nn.Parameter | None = None
        if spline_on_identity and len(kept):
            zeros = torch.zeros(len(kept), self.parameters_per_dim, dtype=lower.dtype)
            self.own = torch.nn.Parameter(zeros)

    def _shape(self, kept: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        """Return spline parameters ``[batch, moved, parameters]`` without their offset.

        Parameters
        ----------
        kept
            The conditioning half, ``[kept, batch]``.
        """
        unit = 2.0 * math.pi / (self.kept_upper - self.kept_lower)
        angle = (kept[self.turning] - self.kept_lower[self.turning, None]) * unit[self.turning, None]
        features = torch.cat([kept[self.straight], angle.cos(), angle.sin()])
        raw: torch.Tensor = self.network(features, context)
        return raw.view(len(self.moved), self.parameters_per_dim, -1).permute(2, 0, 1)

    def _own_spline(self, kept: torch.Tensor, inverse: bool) -> tuple[torch.Tensor, torch.Tensor | float]:
        if self.own is None:
            return kept, 0.0
        outputs, log_derivative = rational_quadratic_spline(
            kept.t(), self.own[None], self.kept_lower, self.kept_upper, self.kept_circular, inverse=inverse
        )
        return outputs.t(), log_derivative.sum(1)

    def _run(self, inputs: torch.Tensor, context: torch.Tensor | None, inverse: bool) -> Pair:
        moved, kept = _Permute.apply(inputs.t(), self.order, self.back).split([len(self.moved), len(self.kept)])  # type: ignore[no-untyped-call]
        other, own_log_det = self._own_spline(kept, inverse)
        conditioner = other if inverse else kept
        outputs, log_derivative = rational_quadratic_spline(
            moved.t(),
            self._shape(conditioner, context),
            self.lower,
            self.upper,
            self.circular,
            offset=self.bias,
            inverse=inverse,
        )
        joined = _Permute.apply(torch.cat([outputs.t(), other]), self.back, self.order)  # type: ignore[no-untyped-call]
        return joined.t(), log_derivative.sum(1) + own_log_det

    def forward(self, inputs: torch.Tensor, context: torch.Tensor | None = None) -> Pair:
        """Map data to noise; return outputs ``[batch, dims]`` and ``ln|det|`` ``[batch]``."""
        return self._run(inputs, context, inverse=False)

    def inverse(self, inputs: torch.Tensor, context: torch.Tensor | None = None) -> Pair:
        """Map noise to data; return outputs ``[batch, dims]`` and ``ln|det|`` ``[batch]``."""
        return self._run(inputs, context, inverse=True)
