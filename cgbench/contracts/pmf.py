"""Collective variables and the potential of mean force on their grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cgbench.contracts.cvs import CollectiveVariables

__all__ = ["LARGEST_FREE_ENERGY", "PMF"]

Array = NDArray[np.float64]
LARGEST_FREE_ENERGY = 600.0  # kT; its Boltzmann factor is still a normal float64


@dataclass(frozen=True)
class PMF:
    """A potential of mean force, as the probability of each bin of the CV grid.

    The probability of a bin is the *integral* of the density over it, not the density at its centre, so
    that estimates from histograms and from functions mean the same thing.

    Attributes
    ----------
    cvs
        The collective variables and their grid.
    probability
        Probability of each bin, shape ``cvs.bins``; normalised on construction.
    free_energy_std
        Standard error of the free energy in kT, same shape, where the method has one.

    Raises
    ------
    ValueError
        If the shape is wrong, or a probability is negative, not finite, or all are zero.
    """

    cvs: CollectiveVariables
    probability: Array
    free_energy_std: Array | None = None

    def __post_init__(self) -> None:
        p = np.asarray(self.probability, dtype=np.float64)
        if p.shape != self.cvs.bins:
            raise ValueError(f"probability has shape {p.shape}, the grid of {self.cvs.names} is {self.cvs.bins}")
        broken = int((~np.isfinite(p)).sum())
        if broken or np.any(p < 0) or p.sum() <= 0:
            wrong = f"; {broken:,} of {p.size:,} are not finite" if broken else ""
            raise ValueError(f"probabilities must be finite, not negative, and not all zero{wrong}")
        object.__setattr__(self, "probability", p / p.sum())
        if self.free_energy_std is not None:
            std = np.asarray(self.free_energy_std, dtype=np.float64)
            if std.shape != self.cvs.bins:
                raise ValueError(f"free_energy_std has shape {std.shape}, the grid is {self.cvs.bins}")
            object.__setattr__(self, "free_energy_std", std)

    @cached_property
    def free_energy(self) -> Array:
        """Free energy of each bin in kT with minimum 0; infinite where the probability is zero."""
        with np.errstate(divide="ignore"):
            energy = -np.log(self.probability)
        return np.asarray(energy - energy.min())

    def centers(self, axis: int) -> Array:
        """Bin centres along one CV."""
        return self.cvs.centers(axis)

    @classmethod
    def restored(cls, cvs: CollectiveVariables, probability: Array, std: Array | None) -> PMF:
        """Take back what another PMF held, to the bit: normalising twice changes the last one.

        Raises
        ------
        ValueError
            As on construction, or if the probabilities do not sum to 1.
        """
        pmf = cls(cvs, probability, std)
        if abs(probability.sum() - 1.0) > 1e-9:
            raise ValueError(f"probabilities sum to {probability.sum()}, not to 1")
        object.__setattr__(pmf, "probability", np.asarray(probability, dtype=np.float64))
        return pmf

    @classmethod
    def from_counts(
        cls, cvs: CollectiveVariables, counts: ArrayLike, pseudocount: float = 0.5, std: Array | None = None
    ) -> PMF:
        """Estimate from a histogram, with `pseudocount` added to every bin.

        One half is the Jeffreys prior of a multinomial; it keeps the estimate positive on the whole grid.
        """
        return cls(cvs, np.asarray(counts, dtype=np.float64) + pseudocount, std)

    @classmethod
    def from_function(
        cls,
        cvs: CollectiveVariables,
        free_energy: Callable[[Array], ArrayLike],
        subdivisions: int = 4,
        std: Array | None = None,
    ) -> PMF:
        """Integrate ``exp(-free_energy(s))`` over each bin by the midpoint rule.

        Free energies above 600 kT count as 600 kT, which keeps every probability positive.

        Parameters
        ----------
        free_energy
            Maps points ``[points, cvs]`` to free energies ``[points]`` in kT, up to a constant.
        subdivisions
            Midpoints per bin and CV.
        """
        values = np.asarray(free_energy(cvs.grid(subdivisions)), dtype=np.float64)
        density = np.exp(-np.minimum(values - values.min(), LARGEST_FREE_ENERGY))
        shape: list[int] = []
        for bins in cvs.bins:
            shape += [bins, subdivisions]
        return cls(cvs, density.reshape(shape).sum(axis=tuple(range(1, 2 * len(cvs), 2))), std)

    def population(self, mask: NDArray[np.bool_]) -> float:
        """Probability of the bins selected by a boolean `mask` over the grid."""
        return float(self.probability[mask].sum())

    def arrays(self) -> dict[str, Array]:
        """Named arrays of a ``pmf.npz`` file."""
        named: dict[str, Array] = {"probability": self.probability, "free_energy": self.free_energy}
        named |= {f"centers_{axis}": self.centers(axis) for axis in range(len(self.cvs))}
        if self.free_energy_std is not None:
            named["free_energy_std"] = self.free_energy_std
        return named


def basin_mask(cvs: CollectiveVariables, contains: Callable[[Sequence[Array]], ArrayLike]) -> NDArray[np.bool_]:
    """Evaluate a basin's definition at the bin centres, shape ``cvs.bins``."""
    columns = cvs.grid().T
    return np.asarray(contains(list(columns)), dtype=bool).reshape(cvs.bins)
