"""What all molecules made by OpenMM share: energies, masses, torsions as collective variables, self-checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch
from numpy.typing import NDArray
from openmm import app, unit

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import PMF_GRID
from cgbench.contracts.reference import Reference, ReferenceBuilder
from cgbench.contracts.system import Check, OpenMMModel, System, maps_of, traits_of
from cgbench.scoring.reference_files import load_reference
from cgbench_systems.molecular.forcefield import TorchForceField
from cgbench_systems.molecular.openmm_engine import OpenMMEngine, platform_properties
from cgbench_systems.molecular.stored_samples import load_samples
from cgbench_systems.molecular.torsions import torsions

__all__ = ["Columns", "MolecularSystem", "angle_range", "torsion_cvs"]

Torsion = tuple[int, int, int, int]
Columns = Sequence[NDArray[np.float64]]


def torsion_cvs(names: Sequence[str], bins: int = 100) -> CollectiveVariables:
    """Return torsions as collective variables: periodic, from -pi to pi."""
    count = len(names)
    return CollectiveVariables(
        names=tuple(names),
        lower=(-np.pi,) * count,
        upper=(np.pi,) * count,
        periodic=(True,) * count,
        bins=(bins,) * count,
    )


def angle_range(ranges: Sequence[tuple[float, float] | None]) -> Callable[[Columns], NDArray[np.bool_]]:
    """Return the definition of a basin: one range in degrees for each torsion, or None for no restriction.

    A range goes upwards from its first value, across +-180 degrees if the second is smaller.
    """

    def contains(columns: Columns) -> NDArray[np.bool_]:
        inside = np.ones(np.shape(columns[0]), dtype=bool)
        for column, limits in zip(columns, ranges, strict=True):
            if limits is not None:
                low, high = limits
                width = np.mod(high - low, 360.0)
                inside &= np.mod(np.degrees(column) - low, 360.0) < (width if width > 0 else 360.0)
        return inside

    return contains


class MolecularSystem(System):
    """A molecule as OpenMM defines it, with torsions as collective variables.

    Subclasses set `torsions`, `force_field`, `reference_folder`, `cvs`, `temperature`, `coordinates` and `basins`, and
    implement `topology`, `openmm_system` and `initial_configuration`.

    Attributes
    ----------
    torsions
        Atoms of each collective variable.
    force_field
        The force field in words, for the certificate of a reference.
    reference_folder
        Folder of the certified reference and of the equilibrium configurations.
    """

    engines = ("torch", "openmm")
    torsions: tuple[Torsion, ...]
    force_field: str
    reference_folder: Path

    def __init__(self, *, engine: str | None = None, device: str = "cpu") -> None:
        super().__init__(engine=engine, device=device)
        self.traits = frozenset({"gradient", "coordinates", "molecular", "openmm"})

    def topology(self) -> app.Topology:
        """Return OpenMM's topology."""
        raise NotImplementedError

    def openmm_system(self) -> openmm.System:
        """Return a new ``openmm.System`` of the molecule."""
        raise NotImplementedError

    @property
    def _platform(self) -> str:
        return "CUDA" if self.device.startswith("cuda") else "CPU"

    def openmm_model(self) -> OpenMMModel:
        """Return the molecule with the collective variables as OpenMM's torsions."""
        angles = []
        for atoms in self.torsions:
            angle = openmm.CustomTorsionForce("theta")
            angle.addTorsion(*atoms, [])
            angles.append(angle)
        properties = {"DeterministicForces": "true"} | platform_properties(self.device)
        return OpenMMModel(self.topology(), self.openmm_system(), tuple(angles), self._platform, properties)

    @cached_property
    def _engine(self) -> TorchForceField | OpenMMEngine:
        if self.engine == "openmm":
            return OpenMMEngine(
                self.openmm_system(), self.temperature, self._platform, platform_properties(self.device)
            )
        return TorchForceField.from_openmm(self.openmm_system(), self.temperature)

    @cached_property
    def masses(self) -> torch.Tensor:
        """Atomic masses in dalton, ``[atoms]``."""
        system = self.openmm_system()
        masses = [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(system.getNumParticles())]
        return torch.tensor(masses, dtype=torch.float64)

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return reduced energies ``[batch]`` and gradients ``[batch, atoms, 3]`` in 1/nm."""
        return self._engine.energy_and_gradient(x)

    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        """Return the torsions of configurations, ``[batch, cvs]`` in [-pi, pi)."""
        return torsions(x, self.torsions)

    def reference(self) -> Reference:
        """Return the reference PMF from biased molecular dynamics (`cgbench_systems.molecular.reference`)."""
        return load_reference(self.reference_folder, [one.cvs for one in maps_of(self)])

    def reference_samples(self) -> torch.Tensor | None:
        """Return equilibrium configurations (`cgbench_systems.molecular.reference.samples`), or None without any."""
        return load_samples(self.reference_folder, self.version)

    def reference_builder(self, folder: Path) -> ReferenceBuilder:
        """Return the builder: biased, umbrella and unbiased MD, checked against OpenMM."""
        from cgbench_systems.molecular.reference.build import MolecularReferenceBuilder
        from cgbench_systems.molecular.reference.several_maps.build import MapsReferenceBuilder

        facts = {"force_field": self.force_field}
        if PMF_GRID not in traits_of(self):
            return MapsReferenceBuilder(self, self.openmm_system(), folder, self.reference_folder, facts)
        return MolecularReferenceBuilder(self, self.openmm_system(), folder, self.reference_folder, facts)

    def verify_reference(self, reference: Reference) -> list[Check]:
        """Compare a reference with new sampling (at most five minutes).

        With one map, walkers sample under a bias that flattens it; with several, they continue the equilibrium
        configurations without a bias.
        """
        from cgbench_systems.molecular.reference.several_maps.verify import MapsSampling, verify_maps
        from cgbench_systems.molecular.reference.verify import Sampling, verify

        if PMF_GRID not in traits_of(self):
            return verify_maps(self, reference, load_samples(self.reference_folder, self.version), MapsSampling())
        return verify(self, reference, Sampling())

    def compile(self) -> None:
        """Compile the batched force field on first use; OpenMM needs no compilation."""
        if isinstance(self._engine, TorchForceField):
            self._engine.compile()

    def _varied_configurations(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw collective variables over the whole domain and fine-grained coordinates near the reference."""
        generator = torch.Generator().manual_seed(0)
        kinds: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
        s = torch.pi * (2 * torch.rand(count, len(self.cvs), **kinds) - 1)
        y = 0.5 * torch.randn(count, len(self.coordinates.names), **kinds)
        return s, torch.where(self.coordinates.periodic, 0.5 * y, y)  # a folded rotor turns within +-60 degrees

    def self_check(self) -> list[Check]:
        """Compare the engines on random configurations, and the coordinates with themselves."""
        s, y = self._varied_configurations(20)
        x, log_det = self.coordinates.to_cartesian(s, y)
        s_back, y_back, log_det_back = self.coordinates.to_internal(x)
        trip = max(float((a - b).abs().max()) for a, b in ((s, s_back), (y, y_back), (log_det, -log_det_back)))
        energy, gradient = TorchForceField.from_openmm(self.openmm_system(), self.temperature).energy_and_gradient(x)
        certified = OpenMMEngine(self.openmm_system(), self.temperature, "Reference")
        true_energy, true_gradient = certified.energy_and_gradient(x)
        energy_error = float(((energy - true_energy) / true_energy).abs().max())
        force_error = float((gradient - true_gradient).norm() / true_gradient.norm())
        return [
            Check("coordinates round trip", trip < 1e-9, f"largest difference {trip:.1e}"),
            Check("energy against OpenMM", energy_error < 1e-6, f"largest relative difference {energy_error:.1e}"),
            Check("forces against OpenMM", force_error < 1e-8, f"relative difference {force_error:.1e}"),
        ]
