"""Monotone rational-quadratic splines on intervals and circles (Durkan et al., NeurIPS 2019).

On circles the derivative at both ends is one parameter, so that the map is continuously differentiable
across the seam (Rezende et al., ICML 2020). One call mixes both kinds.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import softplus

__all__ = ["num_parameters", "rational_quadratic_spline"]

MIN_SIZE = 1e-3
MIN_DERIVATIVE = 1e-3
UNIT_DERIVATIVE = math.log(math.expm1(1.0 - MIN_DERIVATIVE))


def num_parameters(bins: int) -> int:
    """Unconstrained parameters of one spline: `bins` widths, `bins` heights, ``bins + 1`` derivatives."""
    return 3 * bins + 1


def _knots(unnormalised: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    """Knot positions ``[..., bins + 1]`` with bins of at least `MIN_SIZE` of the range."""
    bins = unnormalised.shape[-1]
    sizes = MIN_SIZE + (1.0 - MIN_SIZE * bins) * torch.softmax(unnormalised, dim=-1)
    inner = torch.cumsum(sizes[..., :-1], dim=-1)
    fraction = torch.cat([torch.zeros_like(inner[..., :1]), inner, torch.ones_like(inner[..., :1])], dim=-1)
    return lower[..., None] + (upper - lower)[..., None] * fraction


def rational_quadratic_spline(
    inputs: torch.Tensor,
    parameters: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    circular: torch.Tensor,
    *,
    inverse: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply one spline per dimension, or its inverse.

    Parameters
    ----------
    inputs
        ``[batch, dims]``. Circular dimensions are taken modulo their period.
    parameters
        Unconstrained parameters ``[batch, dims, 3 bins + 1]`` (the batch axis may be 1): widths, heights,
        derivatives. All zero is the identity.
    lower, upper
        Bounds ``[dims]`` of the splines, in inputs and outputs.
    circular
        Boolean ``[dims]``: the derivative at the end is that at the start (its last parameter is unused);
        elsewhere the spline continues as the identity, with derivative 1 at both ends.
    inverse
        Invert, to rounding error.

    Returns
    -------
    outputs, log_derivative
        Each ``[batch, dims]``.
    """
    bins = (parameters.shape[-1] - 1) // 3
    width_parameters, height_parameters, slope_parameters = parameters.split([bins, bins, bins + 1], dim=-1)
    first = torch.where(circular[..., None], slope_parameters[..., :1], 0.0)
    slopes = MIN_DERIVATIVE + softplus(torch.cat([first, slope_parameters[..., 1:-1], first], dim=-1) + UNIT_DERIVATIVE)
    x_knots = _knots(width_parameters, lower, upper)
    y_knots = _knots(height_parameters, lower, upper)

    period = upper - lower
    wrapped = torch.where(circular, lower + torch.remainder(inputs - lower, period), inputs)
    inside = circular | ((wrapped >= lower) & (wrapped <= upper))
    bounded = torch.minimum(torch.maximum(wrapped, lower), upper)

    searched = y_knots if inverse else x_knots
    index = (bounded[..., None] >= searched[..., 1:-1]).sum(-1, keepdim=True)
    index_pair = torch.cat([index, index + 1], dim=-1)
    shape = (*index_pair.shape[:-1], bins + 1)
    x0, x1 = x_knots.expand(shape).gather(-1, index_pair).unbind(-1)
    y0, y1 = y_knots.expand(shape).gather(-1, index_pair).unbind(-1)
    d0, d1 = slopes.expand(shape).gather(-1, index_pair).unbind(-1)

    width, height = x1 - x0, y1 - y0
    slope = height / width
    bend = d0 + d1 - 2.0 * slope
    if inverse:
        rise = bounded - y0
        a = height * (slope - d0) + rise * bend
        b = height * d0 - rise * bend
        c = -slope * rise
        root = (b * b - 4.0 * a * c).clamp(min=0.0) + torch.finfo(b.dtype).tiny
        fraction = 2.0 * c / (-b - root.sqrt())
        outputs = x0 + fraction * width
    else:
        fraction = (bounded - x0) / width
    mixed = fraction * (1.0 - fraction)
    denominator = slope + bend * mixed
    if not inverse:
        outputs = y0 + height * (slope * fraction * fraction + d0 * mixed) / denominator
    numerator = d1 * fraction * fraction + 2.0 * slope * mixed + d0 * (1.0 - fraction) * (1.0 - fraction)
    log_derivative = 2.0 * torch.log(slope / denominator) + torch.log(numerator)
    log_derivative = torch.where(inside, -log_derivative if inverse else log_derivative, 0.0)
    return torch.where(inside, outputs, wrapped), log_derivative
