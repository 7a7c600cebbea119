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
from cgbench.contracts.reference import Reference

if TYPE_CHECKING:
    from pathlib import Path

    import openmm
    import torch
    from openmm import app

    from cgbench.contracts.reference import ReferenceBuilder

__all__ = ["Basin", "Check", "OpenMMModel", "System"]


@dataclass(frozen=True)
class Basin:
    """A named region of the CV domain, for free-energy differences.

    Attributes
    ----------
    name
        Name in the field's words, e.g. "C7ax".
    contains
        Maps the list of CV columns (arrays of equal shape) to a boolean array.
    """

    name: str
    contains: Callable[[Sequence[NDArray[np.float64]]], NDArray[np.bool_]]


@dataclass(frozen=True)
class Check:
    """Outcome of one self-check, for ``cgbench doctor``."""

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
        ``openmm.System``, made anew for every model: forces may be added to it.
    collective_variables
        One ``openmm.Force`` per CV whose energy is the CV, in the unit of `System.cvs`; not part of `system`.
    platform, properties
        Name of an OpenMM platform, and its properties.
    """

    topology: app.Topology
    system: openmm.System
    collective_variables: tuple[openmm.Force, ...]
    platform: str
    properties: Mapping[str, str]


class System(ABC):
    """A molecule or model potential at a temperature.

    Energies are reduced (in kT), lengths in nm (or the model's unit), angles in radians in [-pi, pi).

    Attributes
    ----------
    name
        Registered name.
    version
        Raised by any change to the density or to the reference; part of every record.
    temperature
        In kelvin (for model potentials: 1/beta in the model's unit).
    cvs
        Collective variables and the grid of the PMF.
    basins
        Named regions, the referee's business alone.
    traits
        What methods may ask for: "gradient", "coordinates", "molecular" (masses and physical time), "openmm"
        (`openmm_model`).
    engines
        Names of the engines that can compute the energy; the first is the default.
    coordinates
        The bijection between configurations and ``(s, y)``.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    temperature: float
    cvs: CollectiveVariables
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
        """All coordinate systems by name; "default" is `coordinates`."""
        return {"default": self.coordinates}

    @property
    def masses(self) -> torch.Tensor | None:
        """Atomic masses in dalton ``[atoms]``, or None where there is no dynamics."""
        return None

    @abstractmethod
    def initial_configuration(self) -> torch.Tensor:
        """A minimum of the energy to start from, ``[atoms, 3]`` (or ``[dims]``), float64."""

    @abstractmethod
    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reduced energies ``[batch]`` and their gradients (shape of `x`), in the dtype of `x`."""

    def reduced_energy(self, x: torch.Tensor) -> torch.Tensor:
        """Reduced energies ``[batch]``; differentiable once (the gradient comes with the energy)."""
        from cgbench.counting.energy_gate import EnergyWithGradient

        energy: torch.Tensor = EnergyWithGradient.apply(x, self.reduced_energy_and_gradient)  # type: ignore[no-untyped-call]
        return energy

    @abstractmethod
    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        """Collective variables ``[batch, cvs]`` of configurations."""

    @abstractmethod
    def reference(self) -> Reference:
        """The ground-truth PMF. Only `cgbench.scoring.referee` calls this."""

    def reference_samples(self) -> torch.Tensor | None:
        """Equilibrium configurations ``[samples, ...]``, float64, or None; for `cgbench.scoring.referee` alone."""
        return None

    def openmm_model(self) -> OpenMMModel:
        """The molecule for OpenMM's own simulations, made anew; for systems with the trait "openmm"."""
        raise TypeError(f"system {self.name} is not made by OpenMM")

    def compile(self) -> None:  # noqa: B027 - optional hook
        """Prepare for a long run (torch.compile, where that pays); results stay the same function."""

    def reference_builder(self, folder: Path) -> ReferenceBuilder | None:
        """What makes the reference anew, with its checkpoints in `folder`; None for an exact reference."""
        return None

    def verify_reference(self, reference: Reference) -> list[Check]:
        """Compare a reference with a few minutes of new sampling, or with another exact calculation."""
        return []

    def self_check(self) -> list[Check]:
        """Quick checks for ``cgbench doctor``: engines agree, gradients are right."""
        return []
