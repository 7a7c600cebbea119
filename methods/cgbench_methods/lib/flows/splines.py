"""Monotone rational-quadratic splines on intervals and circles (Durkan et al., NeurIPS 2019).

On circles the derivative at both ends is one parameter, so that the map is continuously differentiable
across the seam (Rezende et al., ICML 2020). One call mixes both kinds. On CPUs a kernel in C++ does the work
(`cgbench_methods.lib.flows.native_splines`); what is here in torch serves everything else. Inside, the batch comes
last, so that every operation runs over long vectors; only the bin that an input falls into is ever built.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import softplus

from cgbench_methods.lib.flows.native_splines import native_spline, serves

__all__ = ["num_parameters", "rational_quadratic_spline"]

MIN_SIZE = 1e-3
MIN_DERIVATIVE = 1e-3
UNIT_DERIVATIVE = math.log(math.expm1(1.0 - MIN_DERIVATIVE))


def num_parameters(bins: int) -> int:
    """Unconstrained parameters of one spline: `bins` each for widths, heights, and derivatives where bins start."""
    return 3 * bins


class _SelectBin(torch.autograd.Function):
    """Start and size of one of the bins that a softmax cuts the unit interval into, each at least `MIN_SIZE`.

    With ``p_j`` the softmax of the logits, ``c = 1 - MIN_SIZE bins`` and i the bin, start and size are
    ``MIN_SIZE i + c (p_0 + ... + p_{i-1})`` and ``MIN_SIZE + c p_i``; their derivatives by logit j are
    ``c p_j ([j < i] - sum_{k<i} p_k)`` and ``c p_j ([j = i] - p_i)``.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, query: torch.Tensor, index: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Select by `index` ``[1, dims, batch]``, or by the place of `query` ``[dims, batch]`` in the unit interval.

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
        """Gradient in the logits."""
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
    """Derivatives at both ends of the bins `index`, each ``[dims, batch]``, from logits ``[bins, dims, batch]``."""
    bins = len(logits)
    ends = torch.cat([index, torch.remainder(index + 1, bins)])
    chosen = logits.expand(bins, *shape).gather(0, ends)
    chosen = torch.where(circular | (ends > 0), chosen, 0.0)
    first, second = (MIN_DERIVATIVE + softplus(chosen + UNIT_DERIVATIVE)).unbind(0)
    return first, second


def _check_shapes(inputs: torch.Tensor, parameters: torch.Tensor, *others: torch.Tensor | None) -> None:
    """A kernel would read beyond the end of what is too short."""
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
        where bins start. All zero is the identity.
    lower, upper
        Bounds ``[dims]`` of the splines, in inputs and outputs.
    circular
        Boolean ``[dims]``: the derivative at the end is that at the start; elsewhere the spline continues as the
        identity, with derivative 1 at both ends (the first parameter of them is unused).
    offset
        ``[dims, 3 bins]``, added to the parameters.
    inverse
        Invert, to rounding error.

    Returns
    -------
    outputs, log_derivative
        Each ``[batch, dims]``. Differentiable once.

    Raises
    ------
    ValueError
        If shapes do not fit together.

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
