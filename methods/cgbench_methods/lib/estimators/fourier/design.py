"""Design matrices of regressions on Fourier modes: at any points, or at bins of a grid without the matrix itself."""

from __future__ import annotations

from typing import Protocol

import torch

from cgbench_methods.lib.estimators.fourier.basis import FourierBasis
from cgbench_methods.lib.estimators.fourier.products import GridProducts

__all__ = ["Design", "GridDesign", "PointDesign"]


class Design(Protocol):
    """The matrix ``F[i, j] = phi_j(s_i)``, or that of the modes' derivatives along one CV, as an operator."""

    def values(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Return ``F c`` ``[n]``."""
        ...

    def pull(self, weights: torch.Tensor) -> torch.Tensor:
        """Return ``F^T w`` ``[modes]``."""
        ...

    def gram(self, weights: torch.Tensor) -> torch.Tensor:
        """Return ``F^T diag(w) F`` ``[modes, modes]``."""
        ...

    def weighted_pull(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return ``F^T diag(w) v`` ``[modes]``."""
        ...


class PointDesign:
    """The matrix at any points ``s [n, cvs]``."""

    def __init__(self, basis: FourierBasis, s: torch.Tensor, derivative: int | None = None) -> None:
        self.features = basis(s, derivative)

    def values(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Return ``F c`` ``[n]``."""
        return self.features @ coefficients

    def pull(self, weights: torch.Tensor) -> torch.Tensor:
        """Return ``F^T w`` ``[modes]``."""
        return self.features.T @ weights

    def gram(self, weights: torch.Tensor) -> torch.Tensor:
        """Return ``F^T diag(w) F`` ``[modes, modes]``."""
        return (self.features * weights[:, None]).T @ self.features

    def weighted_pull(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return ``F^T diag(w) v`` ``[modes]``."""
        return (self.features * weights[:, None]).T @ values


class GridDesign:
    """The matrix at the centres of some bins of the grid ``cells [n]``."""

    def __init__(self, products: GridProducts, cells: torch.Tensor, derivative: int | None = None) -> None:
        self.products, self.cells, self.derivative = products, cells, derivative

    def _on_grid(self, weights: torch.Tensor) -> torch.Tensor:
        size = 1
        for bins in self.products.bins:
            size *= bins
        return weights.new_zeros(size).index_copy(0, self.cells, weights)

    def values(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Return ``F c`` ``[n]``."""
        products = self.products
        on_grid = products.basis.on_product_grid(products.centres, coefficients, self.derivative)
        return on_grid.reshape(-1)[self.cells]

    def pull(self, weights: torch.Tensor) -> torch.Tensor:
        """Return ``F^T w`` ``[modes]``."""
        products = self.products
        on_grid = self._on_grid(weights).reshape(products.bins)
        return products.basis.sum_on_product_grid(products.centres, on_grid, self.derivative)

    def gram(self, weights: torch.Tensor) -> torch.Tensor:
        """Return ``F^T diag(w) F`` ``[modes, modes]``."""
        return self.products.gram(self._on_grid(weights), self.derivative)

    def weighted_pull(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return ``F^T diag(w) v`` ``[modes]``."""
        return self.pull(weights * values)
