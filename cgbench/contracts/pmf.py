"""The potential of mean force (PMF) on the grid of the collective variables."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.errors import UserError
from cgbench.storage.files import read_npz

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LARGEST_FREE_ENERGY", "PMF", "basin_mask"]

Array = NDArray[np.float64]
LARGEST_FREE_ENERGY = 600.0  # kT; its Boltzmann factor is still a normal float64


@dataclass(frozen=True)
class PMF:
    """A potential of mean force, stored as the probability of each bin of the CV grid.

    The probability of a bin is the *integral* of the density over the bin, not the density at its centre. Estimates
    from histograms and from functions are therefore comparable.

    Attributes
    ----------
    cvs
        The collective variables and their grid.
    probability
        Probability of each bin, shape ``cvs.bins``; normalised by the constructor.
    free_energy_std
        Standard error of the free energy in kT, same shape, or None.

    Raises
    ------
    ValueError
        If a shape is wrong, a probability is negative or not finite, or all probabilities are zero.
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
            std = np.array(self.free_energy_std, dtype=np.float64)  # a copy: the method may use its array again
            if std.shape != self.cvs.bins:
                raise ValueError(f"free_energy_std has shape {std.shape}, the grid is {self.cvs.bins}")
            object.__setattr__(self, "free_energy_std", std)

    @cached_property
    def free_energy(self) -> Array:
        """Free energy of each bin in kT, with minimum 0; infinite where the probability is zero."""
        with np.errstate(divide="ignore"):
            energy = -np.log(self.probability)
        return np.asarray(energy - energy.min())

    def centers(self, axis: int) -> Array:
        """Return the bin centres along one CV."""
        return self.cvs.centers(axis)

    @classmethod
    def restored(cls, cvs: CollectiveVariables, probability: Array, std: Array | None) -> PMF:
        """Rebuild a stored PMF bit for bit: normalising a second time could change the last bit.

        Raises
        ------
        ValueError
            As for the constructor, or if the probabilities do not sum to 1.
        """
        pmf = cls(cvs, probability, std)
        if abs(probability.sum() - 1.0) > 1e-9:
            raise ValueError(f"probabilities sum to {probability.sum()}, not to 1")
        object.__setattr__(pmf, "probability", np.array(probability, dtype=np.float64))
        return pmf

    @classmethod
    def from_counts(
        cls, cvs: CollectiveVariables, counts: ArrayLike, pseudocount: float = 0.5, std: Array | None = None
    ) -> PMF:
        """Estimate the PMF from a histogram, with `pseudocount` added to every bin.

        The default, one half, is the Jeffreys prior of a multinomial. It keeps the estimate positive on the whole grid.
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

        Free energies are capped at 600 kT above the minimum, which keeps every probability positive.

        Parameters
        ----------
        free_energy
            Maps points ``[points, cvs]`` to free energies ``[points]`` in kT, up to a constant.
        subdivisions
            Midpoints per bin along each CV.
        """
        values = np.asarray(free_energy(cvs.grid(subdivisions)), dtype=np.float64)
        density = np.exp(-np.minimum(values - values.min(), LARGEST_FREE_ENERGY))
        shape: list[int] = []
        for bins in cvs.bins:
            shape += [bins, subdivisions]
        return cls(cvs, density.reshape(shape).sum(axis=tuple(range(1, 2 * len(cvs), 2))), std)

    def population(self, mask: NDArray[np.bool_]) -> float:
        """Return the total probability of the bins that a boolean `mask` over the grid selects."""
        return float(self.probability[mask].sum())

    def arrays(self) -> dict[str, Array]:
        """Return the named arrays of a ``pmf.npz`` file."""
        named: dict[str, Array] = {"probability": self.probability, "free_energy": self.free_energy}
        named |= {f"centers_{axis}": self.centers(axis) for axis in range(len(self.cvs))}
        if self.free_energy_std is not None:
            named["free_energy_std"] = self.free_energy_std
        return named

    @classmethod
    def load(
        cls,
        path: str | Path,
        cvs: CollectiveVariables | None = None,
        *,
        format: str | None = None,
        unit: str | None = None,
        temperature: float | None = None,
        axes: Sequence[str] = (),
        map: int = 0,
    ) -> PMF:
        """Load the ``pmf.npz`` of a run, or the PMF of another program.

        Parameters
        ----------
        path
            The file.
        cvs
            The collective variables, such as ``cgbench.load_system("aldp").cvs``. The ``pmf.npz`` of a run holds their
            bin centres, but not their names, units and periodicity: by default they are called "CV 1", "CV 2" and so
            on, without unit, and count as not periodic. A PMF of another program is integrated over the bins of `cvs`
            (`cgbench.exchange.binning`); by default its own points become the bin centres.
        format
            Format of another program, such as "plumed", or "auto" to find it out; needed for an npz of another program.
        unit, temperature
            Unit of energy ("kJ/mol", "kcal/mol", "kT"), and temperature in kelvin, if the file does not state them.
        axes
            For each CV the name or number (from 1) of its axis in the file, if names and coordinates do not tell.
        map
            Index of the map, of a run on a system with several.

        Raises
        ------
        UserError
            If the file is missing or damaged, or is on another grid than `cvs`, or a unit or temperature is missing.
        """
        if format is not None or Path(path).suffix != ".npz":
            options = {"format": format, "unit": unit, "temperature": temperature, "axes": tuple(axes)}
            loaded: PMF = _exchange("load").load(path, cvs, **options)
            return loaded
        try:
            arrays = _of_map(read_npz(Path(path)), map)
            probability = np.asarray(arrays["probability"], dtype=np.float64)
            centers = [np.asarray(arrays[f"centers_{axis}"], dtype=np.float64) for axis in range(probability.ndim)]
        except KeyError as error:
            raise UserError(f"PMF {path} is damaged: it has no array {error}") from error
        except (TypeError, ValueError) as error:
            raise UserError(f"PMF {error}" if str(path) in str(error) else f"PMF {path}: {error}") from error
        pairs = zip(centers, probability.shape, strict=True)
        matches = [c.shape == (n,) and n > 1 and bool(np.isfinite(c).all()) for c, n in pairs]
        if not (matches and all(matches)):
            raise UserError(f"PMF {path} is damaged: probability {probability.shape} does not match its bin centres")
        grid = _grid(centers) if cvs is None else cvs
        if grid.bins != probability.shape or not all(np.allclose(c, grid.centers(k)) for k, c in enumerate(centers)):
            raise UserError(f"PMF {path} is not on the grid of {', '.join(grid.names)}: give the CVs of its system")
        try:
            return cls.restored(grid, probability, arrays.get("free_energy_std"))
        except ValueError as error:
            raise UserError(f"PMF {path} is damaged: {error}") from error

    def to_dataframe(self) -> pd.DataFrame:
        """Return a table with one row per bin: the CVs, ``free_energy`` in kT, ``probability``, and any error."""
        import pandas as pd

        columns = dict(zip(self.cvs.names, self.cvs.grid().T, strict=True))
        columns |= {"free_energy": self.free_energy.reshape(-1), "probability": self.probability.reshape(-1)}
        if self.free_energy_std is not None:
            columns["free_energy_std"] = self.free_energy_std.reshape(-1)
        return pd.DataFrame(columns)

    def to_plumed(
        self, path: str | Path, *, unit: str = "kJ/mol", temperature: float | None = None, nodes: bool = False
    ) -> None:
        """Write the free energy as a PLUMED grid.

        Parameters
        ----------
        path
            The file.
        unit
            "kJ/mol", "kcal/mol" or "kT".
        temperature
            In kelvin; needed unless the unit is kT.
        nodes
            Write values at bin edges, interpolated by cubic splines, on the domain of the CVs, as PLUMED's own grids
            are. By default the values of the bins are written at their centres, which loses nothing.

        Raises
        ------
        UserError
            If the temperature is missing, the file cannot be written, or `nodes` is asked for and a bin is empty.
        """
        _exchange("formats.writers").write_plumed(self, Path(path), unit, temperature, nodes)


def _exchange(module: str) -> Any:
    """Import a module of `cgbench.exchange` by name when it is needed: it is above the contracts."""
    return importlib.import_module(f"cgbench.exchange.{module}")


def _of_map(arrays: Mapping[str, NDArray[Any]], map: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of one map under the names that those of the first map have."""
    prefix = f"map_{map}_" if map else ""
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


def _grid(centers: Sequence[Array]) -> CollectiveVariables:
    """Return the grid with these equidistant bin centres."""
    halves = [(c[1] - c[0]) / 2 for c in centers]
    return CollectiveVariables(
        names=tuple(f"CV {axis}" for axis in range(1, len(centers) + 1)),
        lower=tuple(float(c[0] - half) for c, half in zip(centers, halves, strict=True)),
        upper=tuple(float(c[-1] + half) for c, half in zip(centers, halves, strict=True)),
        periodic=(False,) * len(centers),
        bins=tuple(len(c) for c in centers),
        unit="",
    )


def basin_mask(cvs: CollectiveVariables, contains: Callable[[Sequence[Array]], ArrayLike]) -> NDArray[np.bool_]:
    """Return which bins belong to a basin, judged at the bin centres, shape ``cvs.bins``."""
    columns = cvs.grid().T
    return np.asarray(contains(list(columns)), dtype=bool).reshape(cvs.bins)
