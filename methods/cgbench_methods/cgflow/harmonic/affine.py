"""Conditional Gaussian as a transform, ``y = m(s) + L(s) e`` with e standard normal.

Mean m(s) and Cholesky factor L(s) = L0 T(s) are Fourier series of s, fitted to harmonic minima: ``m(s_i) ~ y_i`` and
``L(s_i) L(s_i)^T ~ (H_i + offset)^-1``.
"""

from __future__ import annotations

import torch
from nflows.transforms.base import Transform

from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima
from cgbench_methods.cgflow.harmonic.atlas.wells import Features

__all__ = ["ConditionalAffine", "fit_to_minima"]


class ConditionalAffine(Transform):
    """Whitening ``e = (L0 T(s))^-1 (y - m(s))`` of the non-periodic coordinates; the others are left unchanged.

    ``m``, the logarithm of the diagonal of ``T`` and the part of ``T`` below the diagonal are linear in the features of
    `s`, which are the context. The inverse, ``y = m + L0 T e``, generates samples.

    Parameters
    ----------
    periodic
        Which fine-grained coordinates are left unchanged, boolean ``[fine]``.
    features
        Number of context features.
    factor
        ``L0``, lower triangular ``[gaussian, gaussian]``; fixed.
    """

    def __init__(self, periodic: torch.Tensor, features: int, factor: torch.Tensor) -> None:
        super().__init__()
        self.gaussian: torch.Tensor
        self.periodic: torch.Tensor
        self.factor: torch.Tensor
        self.register_buffer("gaussian", (~periodic).nonzero().squeeze(1))
        self.register_buffer("periodic", periodic.nonzero().squeeze(1))
        self.register_buffer("factor", factor)
        self.register_buffer("order", torch.argsort(torch.cat([self.gaussian, self.periodic])))
        n = len(factor)
        rows, columns = torch.tril_indices(n, n, offset=-1)
        self.register_buffer("flat", rows * n + columns)
        dtype = factor.dtype
        self.mean = torch.nn.Parameter(torch.zeros(features, n, dtype=dtype))
        self.log_diagonal = torch.nn.Parameter(torch.zeros(features, n, dtype=dtype))
        self.lower = torch.nn.Parameter(torch.zeros(features, len(rows), dtype=dtype))

    def triangle(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``T(s)`` ``[batch, gaussian, gaussian]`` and the logarithm of its diagonal."""
        n = len(self.factor)
        log_diagonal = context @ self.log_diagonal
        flat = context.new_zeros(len(context), n * n).index_copy(1, self.flat, context @ self.lower)
        return flat.reshape(-1, n, n) + torch.diag_embed(log_diagonal.exp()), log_diagonal

    def _join(self, gaussian: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([gaussian, inputs[:, self.periodic]], dim=1)[:, self.order]

    def forward(self, inputs: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map data to noise; return outputs ``[batch, fine]`` and ``ln|det|`` ``[batch]``."""
        triangle, log_diagonal = self.triangle(context)
        centred = inputs[:, self.gaussian] - context @ self.mean
        whitened = torch.linalg.solve_triangular(self.factor, centred.T, upper=False).T
        whitened = torch.linalg.solve_triangular(triangle, whitened[:, :, None], upper=False).squeeze(2)
        log_det = -log_diagonal.sum(1) - self.factor.diagonal().log().sum()
        return self._join(whitened, inputs), log_det

    def inverse(self, inputs: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map noise to data; return outputs ``[batch, fine]`` and ``ln|det|`` ``[batch]``."""
        triangle, log_diagonal = self.triangle(context)
        coloured = (triangle @ inputs[:, self.gaussian, None]).squeeze(2) @ self.factor.T
        log_det = log_diagonal.sum(1) + self.factor.diagonal().log().sum()
        return self._join(coloured + context @ self.mean, inputs), log_det


def fit_to_minima(
    minima: HarmonicMinima,
    periodic: torch.Tensor,
    basis: Features,
    *,
    stiffness_offset: float,
    smoothness: float,
    importance: float = 0.15,
    least_importance: float = 0.02,
) -> ConditionalAffine:
    """Fit the mean and covariance of the harmonic minima as functions of s, by penalised least squares.

    ``L0`` is the Cholesky factor of the weighted mean covariance. The target for ``T(s_i)`` is ``L0^-1 L_i``, with the
    Cholesky factor L_i of covariance i.

    Parameters
    ----------
    periodic
        Which fine-grained coordinates the Gaussian leaves unchanged.
    basis
        Features of the points.
    stiffness_offset
        Added to the diagonal of the Hessians before inversion.
    smoothness
        The penalty on a squared coefficient is this times the fourth power of the mode's frequency.
    importance, least_importance
        Weight of a minimum with harmonic free energy F in the fit: ``exp(-importance (F - F_min))``, but at least
        `least_importance`.
    """
    gaussian = (~periodic).nonzero().squeeze(1)
    hessian = minima.hessian[:, gaussian][:, :, gaussian]
    identity = torch.eye(len(gaussian), dtype=hessian.dtype)
    covariance = torch.linalg.inv(hessian + stiffness_offset * identity)
    weight = torch.exp(-importance * (minima.free_energy - minima.free_energy.min())).clamp(min=least_importance)
    mean_covariance = (weight[:, None, None] * covariance).sum(0) / weight.sum()
    factor = torch.linalg.cholesky(0.5 * (mean_covariance + mean_covariance.T))
    local = torch.linalg.cholesky(0.5 * (covariance + covariance.mT))
    triangle = torch.linalg.solve_triangular(factor.expand_as(local), local, upper=False)
    transform = ConditionalAffine(periodic, len(basis), factor)
    n = len(gaussian)
    targets = torch.cat(
        [
            minima.y[:, gaussian],
            triangle.diagonal(dim1=1, dim2=2).log(),
            triangle.reshape(-1, n * n)[:, transform.flat],
        ],
        dim=1,
    )
    features = basis(minima.s)
    weighted = features * weight[:, None]
    normal = weighted.T @ features + torch.diag(smoothness * (1e-6 + basis.squared_frequency**2))
    solution = torch.linalg.solve(normal, weighted.T @ targets)
    with torch.no_grad():
        transform.mean.copy_(solution[:, :n])
        transform.log_diagonal.copy_(solution[:, n : 2 * n])
        transform.lower.copy_(solution[:, 2 * n :])
    return transform
