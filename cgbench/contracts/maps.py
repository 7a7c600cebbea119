"""Maps and states: what is estimated and scored of a system with more collective variables than a grid can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.storage.files import read_npz

__all__ = ["FEW_CVS", "MOST_CVS", "PMF_GRID", "Estimate", "Map", "States", "as_estimate", "columns", "load_pmfs"]

PMF_GRID = "pmf_grid"  # trait of systems with one map over at most two CVs
FEW_CVS = "few_cvs"  # trait of systems with at most three CVs
MOST_CVS = 3  # that a grid or a bias over all of them can have

Array = NDArray[np.float64]


def columns(s: Any, axes: Sequence[int]) -> Any:
    """Return some columns of CVs ``[..., cvs]``, an array or a tensor on any device: ``[..., axes]``."""
    if isinstance(s, torch.Tensor):
        return s[..., torch.tensor(axes, device=s.device)]
    return s[..., list(axes)]


@dataclass(frozen=True)
class Map:
    """A subset of a system's collective variables (CVs), whose joint PMF is estimated and scored.

    Attributes
    ----------
    axes
        Indices of the CVs among those of the system.
    cvs
        These CVs and their grid.
    """

    axes: tuple[int, ...]
    cvs: CollectiveVariables

    @property
    def name(self) -> str:
        """Names of the CVs, such as "phi 2 and psi 2"."""
        return " and ".join(self.cvs.names)

    def select(self, s: Any) -> Any:
        """Return the map's columns of CVs ``[..., cvs]`` of the system (an array or a tensor)."""
        return columns(s, self.axes)


@dataclass(frozen=True)
class States:
    """Disjoint regions in the space of all CVs of a system, whose populations are estimated and scored.

    Attributes
    ----------
    names
        Names of the states.
    assign
        Maps CVs ``[samples, cvs]`` (float64) to the index of each sample's state ``[samples]``, -1 for none.
    """

    names: tuple[str, ...]
    assign: Callable[[Array], NDArray[np.int64]]

    def counts(self, s: ArrayLike, weights: ArrayLike | None = None) -> Array:
        """Return the number (or sum of weights) of samples in each state, ``[states]``.

        Parameters
        ----------
        s
            CVs of the samples ``[samples, cvs]``. NaN belongs to no state.
        weights
            One weight per sample, or None for counts.
        """
        values = np.asarray(s, dtype=np.float64)
        index = np.where(np.isfinite(values).all(axis=-1), self.assign(values), -1)
        chosen = None if weights is None else np.asarray(weights)[index >= 0]
        return np.bincount(index[index >= 0], chosen, minlength=len(self.names)).astype(np.float64)


@dataclass(frozen=True)
class Estimate:
    """PMFs of all maps of a system, and the populations of its states.

    Attributes
    ----------
    pmfs
        One PMF per map, in the order of `System.maps`.
    populations
        Population of each state by name, or None if the system defines no states. They need not sum to 1, because
        states may leave gaps.

    Raises
    ------
    ValueError
        If there is no PMF, or a population is negative, above 1 or not finite.
    """

    pmfs: tuple[PMF, ...]
    populations: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not self.pmfs:
            raise ValueError("an estimate needs at least one PMF")
        for name, value in (self.populations or {}).items():
            if not (math.isfinite(value) and -1e-9 <= value <= 1 + 1e-9):
                raise ValueError(f"the population of state {name} is {value}; it must be between 0 and 1")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the named arrays of a ``pmf.npz`` file.

        The arrays of the first map have the names that `PMF.arrays` gives them. Those of map k, from 1, begin with
        ``map_<k>_``. ``state_populations`` has one value per state.
        """
        named: dict[str, NDArray[Any]] = dict(self.pmfs[0].arrays())
        for number, pmf in enumerate(self.pmfs[1:], 1):
            named |= {f"map_{number}_{name}": values for name, values in pmf.arrays().items()}
        if self.populations is not None:
            named["state_populations"] = np.array(list(self.populations.values()), dtype=np.float64)
        return named


def load_pmfs(path: str | Path) -> tuple[PMF, ...]:
    """Return the PMFs of all maps in the ``pmf.npz`` of a run; see `PMF.load`.

    Raises
    ------
    UserError
        If the file is missing or damaged.
    """
    pmfs = [PMF.load(path)]
    while f"map_{len(pmfs)}_probability" in read_npz(Path(path)):
        pmfs.append(PMF.load(path, map=len(pmfs)))
    return tuple(pmfs)


def as_estimate(found: Any, maps: Sequence[Map], states: States | None) -> Estimate:
    """Return what a method yielded as an `Estimate`, after checking that it is complete.

    Raises
    ------
    TypeError, ValueError
        If it is not an estimate of all maps and states.
    """
    estimate = Estimate((found,)) if isinstance(found, PMF) else found
    if not isinstance(estimate, Estimate):
        raise TypeError(
            f"estimates() yields a {type(found).__name__}, not a cgbench.contracts.pmf.PMF or maps.Estimate"
        )
    if len(estimate.pmfs) != len(maps):
        raise ValueError(
            f"estimates() yields {len(estimate.pmfs)} PMF for {len(maps)} maps: yield an Estimate with one PMF per map "
            f'of self.problem.maps, or require the trait "{PMF_GRID}"'
        )
    for pmf, one in zip(estimate.pmfs, maps, strict=True):
        if not isinstance(pmf, PMF):
            raise TypeError(f"estimates() yields a {type(pmf).__name__} for map {one.name}, not a PMF")
        if pmf.cvs != one.cvs:
            raise ValueError(
                f"estimates() yields a PMF over {pmf.cvs}; it must be over those of self.problem, {one.cvs}"
            )
    names = () if states is None else states.names
    if tuple(estimate.populations or ()) != names:
        raise ValueError(
            f"estimates() yields populations of {list(estimate.populations or ())}; the states are {list(names)}"
        )
    return estimate
