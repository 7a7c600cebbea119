"""The harmonic start of the flow: a conditional Gaussian, and peaks on the circles of the periodic coordinates.

The coordinates that are not periodic are Gaussian, ``y = m(s) + L(s) e`` with e standard normal. Mean m(s) and Cholesky
factor L(s) = L0 T(s) are Fourier series of s, fitted to harmonic minima: ``m(s_i) ~ y_i`` and
``L(s_i) L(s_i)^T ~ (H_i + offset)^-1``.

A periodic coordinate, such as the torsion of a methyl group, turns about a centre: ``y = m(s) + v`` modulo its period
P. The density of v is a von Mises density, proportional to ``exp(kappa cos(2 pi v / P))``, with the kappa of the
harmonic approximation: sharp for a hindered rotor, nearly uniform for a free one. The Gaussian coordinates follow the
rotors by ``B(s) P/(2 pi) sin(2 pi v / P)``, which is their linear response for small v.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from nflows.transforms.base import Transform

from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima
from cgbench_methods.cgflow.harmonic.atlas.wells import Features
from cgbench_methods.lib.flows.splines import parameters_of_spline, rational_quadratic_spline

__all__ = ["ConditionalAffine", "Peaks", "fit_to_minima", "typical_displacements"]

KNOTS = 16  # bins of the spline that maps a von Mises density to the uniform one


class _BlockProduct(torch.autograd.Function):
    """Product of features and parameters, where only one block of a row's features is not zero.

    The derivative in the features is that in this block; the others are zero for all s.
    """

    @staticmethod
    def forward(ctx: Any, context: torch.Tensor, parameter: torch.Tensor, blocks: int) -> torch.Tensor:
        own = context.unflatten(1, (blocks, -1))
        block = (own != 0).any(dim=2).int().argmax(dim=1)
        order = block.argsort(stable=True)
        counts = torch.bincount(block, minlength=blocks).tolist()
        features = own[order, block[order]]
        parts = zip(features.split(counts), parameter.chunk(blocks), strict=True)
        ctx.save_for_backward(features, parameter, block, order)
        ctx.counts = counts
        product = context.new_empty(len(context), parameter.shape[1])
        return product.index_copy_(0, order, torch.cat([part @ of_block for part, of_block in parts]))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        features, parameter, block, order = ctx.saved_tensors
        parts = grad[order].split(ctx.counts)
        of_context = of_parameter = None
        if ctx.needs_input_grad[0]:
            chunks = parameter.chunk(len(parts))
            own = torch.cat([part @ of_block.T for part, of_block in zip(parts, chunks, strict=True)])
            of_context = own.new_zeros(len(own), len(parts), own.shape[1])
            of_context[order, block[order]] = own
            of_context = of_context.flatten(1)
        if ctx.needs_input_grad[1]:
            sources = features.split(ctx.counts)
            of_parameter = torch.cat([source.T @ part for source, part in zip(sources, parts, strict=True)])
        return of_context, of_parameter, None


class ConditionalAffine(Transform):
    """Whitening ``e = (L0 T(s))^-1 (y - m(s) - B(s) sin v)``; periodic coordinates become ``v = y - m(s)``.

    ``m``, the logarithm of the diagonal of ``T``, the part of ``T`` below the diagonal, and ``B`` are linear in the
    features of `s`, which are the context. The inverse generates samples.

    Parameters
    ----------
    periodic
        Which fine-grained coordinates are periodic, boolean ``[fine]``.
    features
        Number of context features.
    factor
        ``L0``, lower triangular ``[gaussian, gaussian]``; fixed.
    lower, upper
        Domain of each fine-grained coordinate ``[fine]``; used where periodic.
    blocks
        Number of blocks of the features, of which all but one are zero: that of the wells.
    """

    def __init__(
        self,
        periodic: torch.Tensor,
        features: int,
        factor: torch.Tensor,
        lower: torch.Tensor,
        upper: torch.Tensor,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        self.blocks = blocks
        self.gaussian: torch.Tensor
        self.periodic: torch.Tensor
        self.factor: torch.Tensor
        self.lower: torch.Tensor
        self.period: torch.Tensor
        self.register_buffer("gaussian", (~periodic).nonzero().squeeze(1))
        self.register_buffer("periodic", periodic.nonzero().squeeze(1))
        self.register_buffer("factor", factor)
        self.register_buffer("lower", lower[periodic].to(factor))
        self.register_buffer("period", (upper - lower)[periodic].to(factor))
        self.register_buffer("order", torch.argsort(torch.cat([self.gaussian, self.periodic])))
        n = len(factor)
        rows, columns = torch.tril_indices(n, n, offset=-1)
        self.register_buffer("flat", rows * n + columns)
        dtype = factor.dtype
        turning = len(self.periodic)
        self.mean = torch.nn.Parameter(torch.zeros(features, n, dtype=dtype))
        self.log_diagonal = torch.nn.Parameter(torch.zeros(features, n, dtype=dtype))
        self.lower_part = torch.nn.Parameter(torch.zeros(features, len(rows), dtype=dtype))
        self.centre = torch.nn.Parameter(torch.zeros(features, turning, dtype=dtype))
        self.response = torch.nn.Parameter(torch.zeros(features, n * turning, dtype=dtype))

    def triangle(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``T(s)`` ``[batch, gaussian, gaussian]`` and the logarithm of its diagonal."""
        n = len(self.factor)
        log_diagonal = context @ self.log_diagonal
        if self.blocks == 1:
            lower_part = context @ self.lower_part
        else:  # many parameters: the product with zeros would take most of the time
            lower_part = _BlockProduct.apply(context, self.lower_part, self.blocks)  # type: ignore[no-untyped-call]
        flat = context.new_zeros(len(context), n * n).index_copy(1, self.flat, lower_part)
        return flat.reshape(-1, n, n) + torch.diag_embed(log_diagonal.exp()), log_diagonal

    def _means(self, turned: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Return ``m(s) + B(s) sin v`` ``[batch, gaussian]`` for ``v [batch, periodic]``."""
        radius = self.period / (2 * math.pi)
        response = (context @ self.response).reshape(len(context), len(self.factor), len(self.periodic))
        whitened = (response @ (radius * (turned / radius).sin())[:, :, None]).squeeze(2)
        means: torch.Tensor = context @ self.mean + whitened @ self.factor.T
        return means

    def _wrap(self, angle: torch.Tensor) -> torch.Tensor:
        return self.lower + torch.remainder(angle - self.lower, self.period)

    def _join(self, gaussian: torch.Tensor, periodic: torch.Tensor) -> torch.Tensor:
        return torch.cat([gaussian, periodic], dim=1)[:, self.order]

    def forward(self, inputs: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map data to noise; return outputs ``[batch, fine]`` and ``ln|det|`` ``[batch]``."""
        triangle, log_diagonal = self.triangle(context)
        turned = self._wrap(inputs[:, self.periodic] - context @ self.centre)
        centred = inputs[:, self.gaussian] - self._means(turned, context)
        whitened = torch.linalg.solve_triangular(self.factor, centred.T, upper=False).T
        whitened = torch.linalg.solve_triangular(triangle, whitened[:, :, None], upper=False).squeeze(2)
        log_det = -log_diagonal.sum(1) - self.factor.diagonal().log().sum()
        return self._join(whitened, turned), log_det

    def inverse(self, inputs: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map noise to data; return outputs ``[batch, fine]`` and ``ln|det|`` ``[batch]``."""
        triangle, log_diagonal = self.triangle(context)
        coloured = (triangle @ inputs[:, self.gaussian, None]).squeeze(2) @ self.factor.T
        log_det = log_diagonal.sum(1) + self.factor.diagonal().log().sum()
        turned = inputs[:, self.periodic]
        angle = self._wrap(turned + context @ self.centre)
        return self._join(coloured + self._means(turned, context), angle), log_det


class Peaks(Transform):
    """Map von Mises densities around zero on the circles to uniform ones; other dimensions are left unchanged.

    The map is a fixed spline through the cumulative distribution at `KNOTS` angles.

    Parameters
    ----------
    kappa
        Concentration of each periodic dimension ``[periodic]``.
    periodic
        Which dimensions are periodic, boolean ``[fine]``.
    lower, upper
        Domain of each dimension ``[fine]``; used where periodic.

    Attributes
    ----------
    spread
        Standard deviation of each periodic dimension ``[periodic]``: that of small angles for a sharp peak, that of the
        uniform density for none, in between roughly.
    """

    def __init__(self, kappa: torch.Tensor, periodic: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor) -> None:
        super().__init__()
        self.turning: torch.Tensor
        self.spread: torch.Tensor
        self.register_buffer("turning", periodic.nonzero().squeeze(1))
        for name, tensor in (("lower", lower), ("upper", upper)):
            self.register_buffer(name, tensor[periodic].to(kappa))
        self.register_buffer("spread", (self.upper - self.lower) / (2 * math.pi) * (kappa + 3 / math.pi**2).rsqrt())
        self.register_buffer("circular", torch.ones(len(kappa), dtype=torch.bool))
        period = (self.upper - self.lower)[:, None]
        steps = torch.linspace(0.0, 1.0, 64 * KNOTS + 1, dtype=kappa.dtype)
        angle = 2 * math.pi * (self.lower[:, None] / period + steps)
        density = torch.exp(kappa[:, None] * (angle.cos() - 1.0))
        density = density / density[:, :-1].mean(dim=1, keepdim=True)
        heights = density[:, :-1].unflatten(1, (KNOTS, 64)).mean(dim=2) / KNOTS
        self.register_buffer(
            "knots", parameters_of_spline(torch.full_like(heights, 1 / KNOTS), heights, density[:, :-1:64])[None]
        )

    def _map(self, inputs: torch.Tensor, inverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
        if len(self.turning) == 0:
            return inputs, inputs.new_zeros(len(inputs))
        outputs, log_det = rational_quadratic_spline(
            inputs[:, self.turning], self.knots, self.lower, self.upper, self.circular, inverse=inverse
        )
        return inputs.index_copy(1, self.turning, outputs), log_det.sum(1)

    def forward(self, inputs: torch.Tensor, context: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map data to noise."""
        return self._map(inputs, inverse=False)

    def inverse(self, inputs: torch.Tensor, context: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Map noise to data."""
        return self._map(inputs, inverse=True)


def fit_to_minima(
    minima: HarmonicMinima,
    periodic: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    basis: Features,
    *,
    stiffness_offset: float,
    smoothness: float,
    peaks: bool = True,
    blocks: int = 1,
    importance: float = 0.15,
    least_importance: float = 0.02,
) -> tuple[ConditionalAffine, Peaks]:
    """Fit the harmonic start to the minima as functions of s, by penalised least squares.

    ``L0`` is the Cholesky factor of the weighted mean covariance. The target for ``T(s_i)`` is ``L0^-1 L_i``, with the
    Cholesky factor L_i of the covariance at minimum i, with the periodic coordinates fixed. These have the precision
    that the Hessian leaves them when the others relax, ``S = H_pp - H_pg H_gg^-1 H_gp``, and the others respond by
    ``B_i = -H_gg^-1 H_gp``.

    Parameters
    ----------
    periodic
        Which fine-grained coordinates are periodic, boolean ``[fine]``.
    lower, upper
        Domain of the fine-grained coordinates ``[fine]``.
    basis
        Features of the points.
    stiffness_offset
        Added to the diagonal of the Hessians before inversion.
    smoothness
        The penalty on a squared coefficient is this times the fourth power of the mode's frequency.
    peaks
        Whether periodic coordinates start with peaks, and the others respond to them; otherwise their density is
        uniform.
    blocks
        As for `ConditionalAffine`.
    importance, least_importance
        Weight of a minimum with harmonic free energy F in the fit: ``exp(-importance (F - F_min))``, but at least
        `least_importance`; then divided by the sum of all, so the penalty does not depend on the number of minima.
    """
    gaussian, turning = (~periodic).nonzero().squeeze(1), periodic.nonzero().squeeze(1)
    n, period = len(gaussian), (upper - lower)[turning]
    weight = torch.exp(-importance * (minima.free_energy - minima.free_energy.min())).clamp(min=least_importance)
    weight = weight / weight.sum()

    hessian = minima.hessian[:, gaussian][:, :, gaussian]
    covariance = torch.linalg.inv(hessian + stiffness_offset * torch.eye(n, dtype=hessian.dtype))
    mean_covariance = (weight[:, None, None] * covariance).sum(0)
    factor = torch.linalg.cholesky(0.5 * (mean_covariance + mean_covariance.T))
    local = torch.linalg.cholesky(0.5 * (covariance + covariance.mT))
    triangle = torch.linalg.solve_triangular(factor.expand_as(local), local, upper=False)

    coupling = minima.hessian[:, gaussian][:, :, turning]
    response = -covariance @ coupling
    relaxed = minima.hessian[:, turning][:, :, turning] + coupling.mT @ response
    variance = torch.linalg.inv(relaxed).diagonal(dim1=1, dim2=2)
    kappa = (period / (2 * math.pi)) ** 2 / (weight[:, None] * variance).sum(0)
    if not peaks:
        kappa, response = torch.zeros_like(kappa), torch.zeros_like(response)
    middle = _mean_angle(minima.y[:, turning], weight, period)
    angles = middle + _shortest(minima.y[:, turning] - middle, period)

    transform = ConditionalAffine(periodic, len(basis), factor, lower, upper, blocks)
    targets = torch.cat(
        [
            minima.y[:, gaussian],
            triangle.diagonal(dim1=1, dim2=2).log(),
            triangle.reshape(-1, n * n)[:, transform.flat],
            angles,
            torch.linalg.solve_triangular(factor.expand_as(covariance), response, upper=False).flatten(1),
        ],
        dim=1,
    )
    features = basis(minima.s)
    weighted = features * weight[:, None]
    normal = weighted.T @ features + torch.diag(smoothness * (1e-6 + basis.squared_frequency**2))
    solution = torch.linalg.solve(normal, weighted.T @ targets)
    parameters = (transform.mean, transform.log_diagonal, transform.lower_part, transform.centre, transform.response)
    with torch.no_grad():
        for parameter, found in zip(parameters, solution.split([p.shape[1] for p in parameters], dim=1), strict=True):
            parameter.copy_(found)
    return transform, Peaks(kappa, periodic, lower, upper)


def typical_displacements(affine: ConditionalAffine, peaks: Peaks) -> torch.Tensor:
    """Return displacements of y by one standard deviation of the harmonic start, as columns ``[fine, fine]``.

    Those of the Gaussian coordinates are ``L0``, the same for all s.
    """
    size = len(affine.order)
    found = affine.factor.new_zeros(size, size)
    found[affine.gaussian[:, None], affine.gaussian] = affine.factor
    found[affine.periodic, affine.periodic] = peaks.spread
    return found


def _mean_angle(angles: torch.Tensor, weight: torch.Tensor, period: torch.Tensor) -> torch.Tensor:
    """Return the mean direction of weighted angles ``[n, circles]`` on circles of some periods ``[circles]``."""
    turns = 2 * math.pi * angles / period
    return torch.atan2(weight @ turns.sin(), weight @ turns.cos()) * period / (2 * math.pi)


def _shortest(difference: torch.Tensor, period: torch.Tensor) -> torch.Tensor:
    """Return differences of angles, modulo the period, between minus and plus half of it."""
    return difference - period * (difference / period).round()
