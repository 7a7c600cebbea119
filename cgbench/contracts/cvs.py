"""Collective variables: names, domain and grid."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch

__all__ = ["CollectiveVariables"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CollectiveVariables:
    """Names, domain and grid of the collective variables (CVs).

    Attributes
    ----------
    names
        One name per CV, e.g. ``("phi", "psi")``.
    lower, upper
        Bounds of the domain; exactly one period for a periodic CV.
    periodic
        Whether each CV is periodic.
    bins
        Number of bins of the PMF grid along each CV.
    unit
        Unit of the bounds, "rad" for angles.
    """

    names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    periodic: tuple[bool, ...]
    bins: tuple[int, ...] = field(default=())
    unit: str = "rad"

    def __post_init__(self) -> None:
        if not self.bins:
            object.__setattr__(self, "bins", (100,) * len(self.names))
        lengths = {len(self.names), len(self.lower), len(self.upper), len(self.periodic), len(self.bins)}
        if lengths != {len(self.names)}:
            raise ValueError("names, lower, upper, periodic and bins must have one entry per CV")

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, axes: Sequence[int]) -> CollectiveVariables:
        """Return some of the CVs, in the order of `axes`.

        Raises
        ------
        IndexError
            If there is no such CV.
        """
        return CollectiveVariables(
            names=tuple(self.names[k] for k in axes),
            lower=tuple(self.lower[k] for k in axes),
            upper=tuple(self.upper[k] for k in axes),
            periodic=tuple(self.periodic[k] for k in axes),
            bins=tuple(self.bins[k] for k in axes),
            unit=self.unit,
        )

    def edges(self, axis: int) -> Array:
        """Return the bin edges along one CV, shape ``[bins + 1]``."""
        return np.linspace(self.lower[axis], self.upper[axis], self.bins[axis] + 1)

    def centers(self, axis: int, subdivisions: int = 1) -> Array:
        """Return the bin centres along one CV, or the centres of `subdivisions` equal parts of each bin."""
        count = self.bins[axis] * subdivisions
        width = (self.upper[axis] - self.lower[axis]) / count
        return np.asarray(self.lower[axis] + width * (np.arange(count) + 0.5))

    def grid(self, subdivisions: int = 1) -> Array:
        """Return all grid points, shape ``[points, cvs]``; the first CV varies slowest."""
        axes = [self.centers(axis, subdivisions) for axis in range(len(self))]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(self))

    @overload
    def wrap(self, s: torch.Tensor) -> torch.Tensor: ...

    @overload
    def wrap(self, s: ArrayLike) -> Array: ...

    def wrap(self, s: Any) -> Any:
        """Map periodic CVs into ``[lower, upper)``; leave the others unchanged. Infinite angles become NaN.

        Parameters
        ----------
        s
            Values, shape ``[..., cvs]``. A tensor gives a tensor of its dtype, anything else a float64 array.
        """
        library = _library(s)
        values = np.array(s, dtype=np.float64) if library is np else s.clone()
        for axis, periodic in enumerate(self.periodic):
            if periodic:
                low, high = self.lower[axis], self.upper[axis]
                with np.errstate(invalid="ignore"):  # from infinite angles
                    column = low + (values[..., axis] - low) % (high - low)
                values[..., axis] = library.where(column >= high, low, column)  # the sum may round to `high`
        return values

    @overload
    def difference(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor: ...

    @overload
    def difference(self, a: Array, b: Array) -> Array: ...

    def difference(self, a: Any, b: Any) -> Any:
        """Return ``a - b`` by the shorter way around periodic CVs, ``[..., cvs]``; arguments broadcast.

        Two arrays give an array, two tensors a tensor.
        """
        delta = a - b
        for axis, periodic in enumerate(self.periodic):
            if periodic:
                column, period = delta[..., axis], self.upper[axis] - self.lower[axis]
                delta[..., axis] = column - period * (column / period).round()
        return delta

    @overload
    def bin_index(self, s: torch.Tensor, nearest: bool = False) -> torch.Tensor: ...

    @overload
    def bin_index(self, s: ArrayLike, nearest: bool = False) -> NDArray[np.int64]: ...

    def bin_index(self, s: Any, nearest: bool = False) -> Any:
        """Return the flat index of each sample's bin ``[samples]``; -1 outside a non-periodic domain and for NaN.

        Parameters
        ----------
        s
            Samples, shape ``[samples, cvs]``. A tensor gives a tensor on its device.
        nearest
            Return the nearest bin instead of -1 for samples outside the domain.
        """
        if _library(s) is not np:
            import torch

            return torch.from_numpy(self.bin_index(s.detach().double().cpu().numpy(), nearest)).to(s.device)
        values = self.wrap(s)
        flat = np.zeros(values.shape[:-1], dtype=np.int64)
        inside = np.ones(flat.shape, dtype=bool)
        for axis, bins in enumerate(self.bins):
            low, high = self.lower[axis], self.upper[axis]
            column = np.clip(values[..., axis], low, high) if nearest else values[..., axis]
            within = (column >= low) & (column <= high)
            inside &= within
            cell = np.floor((np.where(within, column, low) - low) * (bins / (high - low))).astype(np.int64)
            flat = flat * bins + np.minimum(cell, bins - 1)
        return np.where(inside, flat, -1)

    def histogram(self, s: ArrayLike, weights: ArrayLike | None = None) -> Array:
        """Return the histogram of samples on the grid; skip NaN and samples outside a non-periodic domain.

        Parameters
        ----------
        s
            Samples, shape ``[samples, cvs]``.
        weights
            One weight per sample, or None for counts.
        """
        index = self.bin_index(np.asarray(s))
        inside = index >= 0
        chosen = None if weights is None else np.asarray(weights)[inside]
        counts = np.bincount(index[inside], chosen, minlength=math.prod(self.bins))
        return counts.reshape(self.bins).astype(np.float64)


def _library(values: Any) -> ModuleType:
    """Return torch for its tensors, numpy for everything else."""
    torch = sys.modules.get("torch")  # not imported here: commands that need no torch start faster
    return torch if torch is not None and isinstance(values, torch.Tensor) else np
