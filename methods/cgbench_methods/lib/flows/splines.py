"""Monotone rational-quadratic splines on intervals and circles (Durkan et al., NeurIPS 2019).

In a bin that starts at (x0, y0), of width w and height h, with ``s = h / w``, derivatives d0 and d1 at its ends, and
``f = (x - x0) / w``,

    y = y0 + h (s f^2 + d0 f (1 - f)) / D,                                  D = s + (d0 + d1 - 2 s) f (1 - f),
    dy/dx = s^2 (d1 f^2 + 2 s f (1 - f) + d0 (1 - f)^2) / D^2.

On circles the derivatives at both ends are one parameter: the map is continuously differentiable across the seam
(Rezende et al., ICML 2020). One call handles dimensions of both kinds. On CPUs a C++ kernel is used
(`cgbench_methods.lib.flows.native_splines`), elsewhere the torch code of this module. Inside, the batch is the last
axis, for operations on long vectors; only the bin of each input is computed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import softplus

from cgbench_methods.lib.flows.native_splines import native_spline, serves

__all__ = ["num_parameters", "parameters_of_spline", "rational_quadratic_spline"]

MIN_SIZE = 1e-3
MIN_DERIVATIVE = 1e-3
UNIT_DERIVATIVE = math.log(math.expm1(1.0 - MIN_DERIVATIVE))


def num_parameters(bins: int) -> int:
    """Number of unconstrained parameters of a spline: `bins` each for widths, heights and derivatives."""
    return 3 * bins


def parameters_of_spline(widths: torch.Tensor, heights: torch.Tensor, derivatives: torch.Tensor) -> torch.Tensor:
    """Return the unconstrained parameters of splines on circles through given knots.

    Sizes below `MIN_SIZE` and derivatives below `MIN_DERIVATIVE` become about as large as these.

    Parameters
    ----------
    widths, heights
        Sizes of the bins as fractions of the interval ``[dims, bins]``.
    derivatives
        At the bins' starts ``[dims, bins]``.

    Returns
    -------
    torch.Tensor
        ``[dims, 3 bins]``, as `rational_quadratic_spline` takes them.
    """
    sizes = [(size - MIN_SIZE).clamp(min=1e-3 * MIN_SIZE).log() for size in (widths, heights)]
    above = (derivatives - MIN_DERIVATIVE).clamp(min=1e-3 * MIN_DERIVATIVE)
    return torch.cat([*sizes, above.expm1().log() - UNIT_DERIVATIVE], dim=1)


class _SelectBin(torch.autograd.Function):
    """Start and size of one bin of a partition of the unit interval, given by logits.

    With ``p_j`` the softmax of the logits, ``c = 1 - MIN_SIZE bins`` and i the bin, start and size are
    ``MIN_SIZE i + c (p_0 + ... + p_{i-1})`` and ``MIN_SIZE + c p_i``; their derivatives by logit j are
    ``c p_j ([j < i] - sum_{k<i} p_k)`` and ``c p_j ([j = i] - p_i)``.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, query: torch.Tensor, index: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Select the bin `index` ``[1, dims, batch]``, or without it the bin that contains `query` ``[dims, batch]``.

        Parameters
        ----------
        logits
            ``[bins, dims, batch]``; the batch may be 1.
        """
        bins = len(logits)
        scale = 1.0 - MIN_SIZE * bins
        share = torch.softmax(logits, dim=0)
        before = torch.cumsum(share, dim=0).sub_(share)
        if index is None:
            place = torch.arange(1, bins, dtype=logits.dtype, device=logits.device)[:, None, None]
            knots = torch.add(MIN_SIZE * place, before[1:], alpha=scale)
            index = (query >= knots).sum(dim=0, keepdim=True)
        shape = (bins, *query.shape)
        own = share.expand(shape).gather(0, index)[0]
        earlier = before.expand(shape).gather(0, index)[0]
        ctx.save_for_backward(share, index, own, earlier)
        ctx.mark_non_differentiable(index)
        start = torch.add(MIN_SIZE * index[0].to(logits.dtype), earlier, alpha=scale)
        return start, MIN_SIZE + scale * own, index

    @staticmethod
    def backward(
        ctx: Any, grad_start: torch.Tensor, grad_size: torch.Tensor, _: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        """Return the gradient in the logits."""
        share, index, own, earlier = ctx.saved_tensors
        bins = len(share)
        number = torch.arange(bins, device=index.device)[:, None, None]
        common = grad_start * earlier + grad_size * own
        grad = torch.where(number < index, grad_start - common, -common)
        grad.scatter_add_(0, index, grad_size[None])
        grad *= share
        grad *= 1.0 - MIN_SIZE * bins
        return grad.sum_to_size(share.shape), None, None


def _slopes(
    logits: torch.Tensor, index: torch.Tensor, shape: torch.Size, circular: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return derivatives at both ends of the bins `index`, each ``[dims, batch]``; logits ``[bins, dims, batch]``."""
    bins = len(logits)
    ends = torch.cat([index, torch.remainder(index + 1, bins)])
    chosen = logits.expand(bins, *shape).gather(0, ends)
    chosen = torch.where(circular | (ends > 0), chosen, 0.0)
    first, second = (MIN_DERIVATIVE + softplus(chosen + UNIT_DERIVATIVE)).unbind(0)
    return first, second


def _check_shapes(inputs: torch.Tensor, parameters: torch.Tensor, *others: torch.Tensor | None) -> None:
    """Check shapes: the kernel would read beyond the end of arrays that are too short."""
    batch, dims = inputs.shape
    fits = parameters.shape[:2] in ((batch, dims), (1, dims)) and parameters.shape[2] % 3 == 0
    offset, *per_dim = others
    fits &= offset is None or offset.shape == parameters.shape[1:]
    if not fits or any(tensor is None or tensor.shape != (dims,) for tensor in per_dim):
        shapes = [None if tensor is None else list(tensor.shape) for tensor in (inputs, parameters, *others)]
        raise ValueError(
            "inputs [batch, dims], parameters [batch or 1, dims, 3 bins], offset [dims, 3 bins], lower, upper and "
            f"circular [dims] have the shapes {', '.join(map(str, shapes))}"
        )


def rational_quadratic_spline(
    inputs: torch.Tensor,
    parameters: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    circular: torch.Tensor,
    *,
    offset: torch.Tensor | None = None,
    inverse: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply one spline per dimension, or its inverse.

    Parameters
    ----------
    inputs
        ``[batch, dims]``. Circular dimensions are taken modulo their period.
    parameters
        Unconstrained parameters ``[batch, dims, 3 bins]`` (the batch axis may be 1): widths, heights, derivatives
        at bin starts. All zero gives the identity.
    lower, upper
        Bounds ``[dims]`` of the splines, for inputs and outputs.
    circular
        Boolean ``[dims]``. On circular dimensions the derivatives at both ends agree. On others the derivative is 1 at
        both ends (the first derivative parameter is unused), and the map is the identity outside the bounds.
    offset
        ``[dims, 3 bins]``, added to the parameters.
    inverse
        Apply the inverse.

    Returns
    -------
    outputs, log_derivative
        Each ``[batch, dims]``. Differentiable once.

    Raises
    ------
    ValueError
        If the shapes do not match.

    Notes
    -----
    Fastest where the batch is contiguous in memory.
    """
    _check_shapes(inputs, parameters, offset, lower, upper, circular)
    if offset is not None and len(parameters) == 1:
        parameters, offset = parameters + offset, None
    if serves(inputs, parameters):
        outputs, log_derivative = native_spline(
            inputs.t(),
            parameters.permute(1, 2, 0),
            offset,
            lower.to(inputs.dtype),
            upper.to(inputs.dtype),
            circular,
            (MIN_SIZE, MIN_DERIVATIVE, UNIT_DERIVATIVE),
            inverse=inverse,
        )
        return outputs.t(), log_derivative.t()
    parameters = parameters if offset is None else parameters + offset
    bins = parameters.shape[-1] // 3
    widths, heights, derivatives = parameters.permute(2, 1, 0).contiguous().split(bins)
    lower, upper, circular = lower[:, None], upper[:, None], circular[:, None]
    across = inputs.t()
    period = upper - lower
    unit = (across - lower) / period
    unit = torch.where(circular, unit - unit.detach().floor(), unit)
    inside = circular | ((unit >= 0.0) & (unit <= 1.0))
    unit = unit.clamp(0.0, 1.0)

    if inverse:
        y0, height, index = _SelectBin.apply(heights, unit.detach(), None)  # type: ignore[no-untyped-call]
        x0, width, _ = _SelectBin.apply(widths, unit.detach(), index)  # type: ignore[no-untyped-call]
    else:
        x0, width, index = _SelectBin.apply(widths, unit.detach(), None)  # type: ignore[no-untyped-call]
        y0, height, _ = _SelectBin.apply(heights, unit.detach(), index)  # type: ignore[no-untyped-call]
    d0, d1 = _slopes(derivatives, index, unit.shape, circular)

    slope = height / width
    bend = d0 + d1 - 2.0 * slope
    if inverse:
        rise = unit - y0
        a = height * (slope - d0) + rise * bend
        b = height * d0 - rise * bend
        c = -slope * rise
        root = (b * b - 4.0 * a * c).clamp(min=0.0) + torch.finfo(b.dtype).tiny
        fraction = 2.0 * c / (-b - root.sqrt())
    else:
        fraction = (unit - x0) / width
    rest = 1.0 - fraction
    mixed = fraction * rest
    denominator = slope + bend * mixed
    squared = fraction * fraction
    if inverse:
        outputs = x0 + fraction * width
    else:
        outputs = y0 + height * (slope * squared + d0 * mixed) / denominator
    ratio = slope / denominator
    log_derivative = torch.log(ratio * ratio * (d1 * squared + 2.0 * slope * mixed + d0 * rest * rest))
    log_derivative = torch.where(inside, -log_derivative if inverse else log_derivative, 0.0)
    outputs = torch.where(inside, lower + period * outputs, across)
    return outputs.t(), log_derivative.t()
