"""The System contract: a Boltzmann density, its collective variables and its coordinates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import FEW_CVS, MOST_CVS, PMF_GRID, Map, States
from cgbench.contracts.reference import Reference

if TYPE_CHECKING:
    from pathlib import Path

    import openmm
    import torch
    from openmm import app

    from cgbench.contracts.reference import ReferenceBuilder

__all__ = ["Basin", "Check", "OpenMMModel", "System", "maps_of", "traits_of"]


@dataclass(frozen=True)
class Basin:
    """A named region of the CV domain, used for free-energy differences.

    Attributes
    ----------
    name
        Name as used in the literature, e.g. "C7ax".
    contains
        Maps a list with one array per CV of the map (equal shapes) to a boolean array.
    map
        Index of the map (`System.maps`) that the basin is a region of.
    """

    name: str
    contains: Callable[[Sequence[NDArray[np.float64]]], NDArray[np.bool_]]
    map: int = 0


@dataclass(frozen=True)
class Check:
    """The result of one self-check, for ``cgbench doctor``."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class OpenMMModel:
    """A molecule as OpenMM simulates it.

    Attributes
    ----------
    topology
        ``openmm.app.Topology``.
    system
        ``openmm.System``, a new one in every model: forces may be added to it.
    collective_variables
        One ``openmm.Force`` per CV, whose energy is the CV in the unit of `System.cvs`. Not part of `system`.
    platform, properties
        Name and properties of the OpenMM platform.
    """

    topology: app.Topology
    system: openmm.System
    collective_variables: tuple[openmm.Force, ...]
    platform: str
    properties: Mapping[str, str]


class System(ABC):
    """A molecule or model potential at one temperature.

    Energies are reduced (in kT), lengths are in nm (or the model's unit), angles in radians in [-pi, pi).

    Attributes
    ----------
    name
        Registered name.
    version
        Incremented by any change to the density or to the reference; part of every record.
    temperature
        In kelvin (for model potentials: 1/beta in the model's unit).
    cvs
        Collective variables and the grid of the PMF.
    maps
        Subsets of the CVs whose joint PMFs are estimated and scored, each a tuple of their indices: at most two CVs, or
        three on a coarse grid. By default one map over all CVs. With several maps, methods yield an `Estimate`.
    states
        Disjoint regions in the space of all CVs whose populations are estimated and scored, or None.
    basins
        Named regions; only the referee uses them.
    traits
        Features that methods can require: "gradient", "coordinates", "molecular" (masses and physical time),
        "openmm" (`openmm_model`). The harness adds "few_cvs" to systems with at most three CVs, and "pmf_grid" to
        those with one map over at most two CVs and no states.
    engines
        Names of the engines that can compute the energy; the first is the default.
    coordinates
        The bijection between configurations and ``(s, y)``.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    temperature: float
    cvs: CollectiveVariables
    maps: tuple[tuple[int, ...], ...] = ()
    states: States | None = None
    basins: tuple[Basin, ...] = ()
    traits: frozenset[str] = frozenset()
    engines: ClassVar[tuple[str, ...]] = ("torch",)
    coordinates: Coordinates

    def __init__(self, *, engine: str | None = None, device: str = "cpu") -> None:
        from cgbench.errors import UserError, choices

        self.engine = self.engines[0] if engine is None else engine
        if self.engine not in self.engines:
            raise UserError(f"system {self.name} has no engine {engine!r}: choose from {choices(self.engines)}")
        self.device = device

    @property
    def coordinate_sets(self) -> Mapping[str, Coordinates]:
        """All coordinate sets by name; "default" is `coordinates`."""
        return {"default": self.coordinates}

    @property
    def masses(self) -> torch.Tensor | None:
        """Atomic masses in dalton ``[atoms]``, or None for systems without dynamics."""
        return None

    @abstractmethod
    def initial_configuration(self) -> torch.Tensor:
        """Return a minimum of the energy to start from, ``[atoms, 3]`` (or ``[dims]``), float64."""

    @abstractmethod
    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return reduced energies ``[batch]`` and their gradients (shape of `x`), in the dtype of `x`."""

    def reduced_energy(self, x: torch.Tensor) -> torch.Tensor:
        """Return reduced energies ``[batch]``; differentiable once (the gradient is computed with the energy)."""
        from cgbench.counting.energy_gate import EnergyWithGradient

        energy: torch.Tensor = EnergyWithGradient.apply(x, self.reduced_energy_and_gradient)  # type: ignore[no-untyped-call]
        return energy

    @abstractmethod
    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        """Return the collective variables ``[batch, cvs]`` of configurations."""

    @abstractmethod
    def reference(self) -> Reference:
        """Return the ground-truth PMF. Only `cgbench.scoring.referee` may call this."""

    def reference_samples(self) -> torch.Tensor | None:
        """Return equilibrium configurations ``[samples, ...]``, float64, or None.

        Only `cgbench.scoring.referee` may call this.
        """
        return None

    def openmm_model(self) -> OpenMMModel:
        """Return a new model of the molecule for OpenMM simulations. Only for systems with the trait "openmm"."""
        raise TypeError(f"system {self.name} has no OpenMM model: it does not implement openmm_model")

    def compile(self) -> None:  # noqa: B027 - optional hook
        """Prepare for a long run, with torch.compile where that pays off. The function computed stays the same."""

    def reference_builder(self, folder: Path) -> ReferenceBuilder | None:
        """Return a builder of the reference that keeps its checkpoints in `folder`; None for an exact reference."""
        return None

    def verify_reference(self, reference: Reference) -> list[Check]:
        """Compare a reference with a few minutes of new sampling or with another exact calculation."""
        return []

    def self_check(self) -> list[Check]:
        """Run quick checks for ``cgbench doctor``: engines agree, gradients are correct."""
        return []


def maps_of(system: System) -> tuple[Map, ...]:
    """Return the maps of a system: those that it declares, by default one over all its CVs."""
    axes: Sequence[tuple[int, ...]] = system.maps or (tuple(range(len(system.cvs))),)
    return tuple(Map(tuple(chosen), system.cvs.subset(chosen)) for chosen in axes)


def traits_of(system: System) -> frozenset[str]:
    """Return the traits of a system, with "few_cvs" and "pmf_grid" where they hold (see `System`)."""
    maps = maps_of(system)
    small = len(system.cvs) <= 2
    whole = len(maps) == 1 and maps[0].axes == tuple(range(len(system.cvs))) and system.states is None
    found = {FEW_CVS: len(system.cvs) <= MOST_CVS, PMF_GRID: small and whole}
    return frozenset(system.traits) | {trait for trait, holds in found.items() if holds}
