"""Alanine dipeptide in implicit solvent, on the batched force field or on OpenMM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import openmm
import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.reference import Reference, ReferenceBuilder
from cgbench.contracts.system import Basin, Check, OpenMMModel, System
from cgbench.scoring.reference_files import load_reference
from cgbench_systems.aldp.coordinates import PHI, PSI, AlanineCoordinates, default_coordinates, literature_coordinates
from cgbench_systems.aldp.topology import TEMPERATURE, initial_positions, make_system, make_topology
from cgbench_systems.molecular.forcefield import TorchForceField
from cgbench_systems.molecular.geometry import dihedral
from cgbench_systems.molecular.openmm_engine import OpenMMEngine

__all__ = ["REFERENCE_FOLDER", "AlanineDipeptide"]

REFERENCE_FOLDER = Path(__file__).with_name("reference")
FACTS = {
    "force_field": "AMBER ff96 (amber96.xml) with OBC1 implicit solvent (implicit/obc1.xml), no cutoff, no constraints"
}

Contains = Callable[[Sequence[np.ndarray]], np.ndarray]


def _between(degrees: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return whether angles are in ``[low, high)`` degrees, an interval that may cross +-180."""
    return np.asarray(np.mod(degrees - low, 360.0) < np.mod(high - low, 360.0))


def _region(phi: tuple[float, float], psi: tuple[float, float]) -> Contains:
    """Return the indicator function of a rectangle on the torus, in degrees."""

    def contains(columns: Sequence[np.ndarray]) -> np.ndarray:
        first, second = (np.degrees(column) for column in columns)
        return np.asarray(_between(first, *phi) & _between(second, *psi))

    return contains


def _positive_phi(columns: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(columns[0] > 0.0)


class AlanineDipeptide(System):
    """Alanine dipeptide, AMBER ff96 with OBC1 implicit solvent, 300 K, no constraints, no cutoff.

    The state space is L-alanine with trans peptide bonds (see `AlanineCoordinates.in_state_space`).

    Parameters
    ----------
    engine
        "torch" (batched) or "openmm".
    device
        A torch device; OpenMM uses its CPU platform, or CUDA for a CUDA device.
    """

    name = "aldp"
    version = "1"
    engines = ("torch", "openmm")

    def __init__(self, *, engine: str | None = None, device: str = "cpu") -> None:
        super().__init__(engine=engine, device=device)
        self.temperature = TEMPERATURE
        self.traits = frozenset({"gradient", "coordinates", "molecular", "openmm"})
        self.cvs = CollectiveVariables(
            names=("phi", "psi"), lower=(-np.pi, -np.pi), upper=(np.pi, np.pi), periodic=(True, True)
        )
        self.basins = (
            Basin("C5/PPII", _region((180, 0), (60, -120))),
            Basin("alphaR", _region((180, 0), (-120, 60))),
            Basin("phi>0", _positive_phi),
        )
        self.coordinates = self._sets["default"]

    @cached_property
    def _sets(self) -> dict[str, AlanineCoordinates]:
        reference = torch.from_numpy(initial_positions())
        return {"default": default_coordinates(reference), "literature": literature_coordinates(reference)}

    @property
    def coordinate_sets(self) -> Mapping[str, Coordinates]:
        """Coordinate sets "default" (folded methyl rotors, narrow scales) and "literature" (12 free dihedrals)."""
        return self._sets

    def openmm_system(self) -> openmm.System:
        """Return the molecule's ``openmm.System``, which defines its energy."""
        return make_system()

    @property
    def _platform(self) -> str:
        return "CUDA" if self.device.startswith("cuda") else "CPU"

    def openmm_model(self) -> OpenMMModel:
        """Return the molecule for OpenMM's own simulations, with phi and psi as OpenMM torsions."""
        angles = []
        for atoms in (PHI, PSI):
            angle = openmm.CustomTorsionForce("theta")
            angle.addTorsion(*atoms, [])
            angles.append(angle)
        properties = {"DeterministicForces": "true"}
        if self._platform == "CPU":
            properties["Threads"] = str(torch.get_num_threads())
        return OpenMMModel(make_topology(), self.openmm_system(), tuple(angles), self._platform, properties)

    @cached_property
    def _engine(self) -> TorchForceField | OpenMMEngine:
        if self.engine == "openmm":
            return OpenMMEngine(self.openmm_system(), self.temperature, self._platform)
        return TorchForceField.from_openmm(self.openmm_system(), self.temperature)

    @cached_property
    def masses(self) -> torch.Tensor:
        """Atomic masses in dalton, ``[22]``."""
        system = self.openmm_system()
        return torch.tensor(
            [system.getParticleMass(i)._value for i in range(system.getNumParticles())], dtype=torch.float64
        )

    def initial_configuration(self) -> torch.Tensor:
        """Return the minimum near (phi, psi) = (-146, 161) degrees, ``[22, 3]`` in nm."""
        return torch.from_numpy(initial_positions()).to(self.device)

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return reduced energies ``[batch]`` and gradients ``[batch, 22, 3]`` in 1/nm."""
        return self._engine.energy_and_gradient(x)

    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``phi, psi`` of configurations, ``[batch, 2]`` in [-pi, pi)."""
        angles = [dihedral(*(x[:, atom] for atom in quadruple)) for quadruple in (PHI, PSI)]
        return torch.stack(angles, dim=1)

    def reference(self) -> Reference:
        """Return the reference PMF from biased molecular dynamics (`cgbench_systems.molecular.reference`)."""
        return load_reference(REFERENCE_FOLDER, self.cvs)

    def reference_samples(self) -> torch.Tensor:
        """Return 2,000 equilibrium configurations (`cgbench_systems.molecular.reference.samples`), float64."""
        with np.load(REFERENCE_FOLDER / "samples.npz", allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["positions"].astype(np.float64))

    def compile(self) -> None:
        """Compile the batched force field on first use; OpenMM needs no compilation."""
        if isinstance(self._engine, TorchForceField):
            self._engine.compile()

    def reference_builder(self, folder: Path) -> ReferenceBuilder:
        """Return the builder: biased, umbrella and unbiased MD, checked against OpenMM."""
        from cgbench_systems.molecular.reference.build import MolecularReferenceBuilder

        return MolecularReferenceBuilder(self, self.openmm_system(), folder, REFERENCE_FOLDER, FACTS)

    def verify_reference(self, reference: Reference) -> list[Check]:
        """Compare a reference with new sampling (at most five minutes) under a bias that flattens it."""
        from cgbench_systems.molecular.reference.verify import Sampling, verify

        return verify(self, reference, Sampling())

    def self_check(self) -> list[Check]:
        """Compare the engines on random configurations, and check that the coordinates invert."""
        generator = torch.Generator().manual_seed(0)
        s = torch.pi * (2 * torch.rand(20, 2, generator=generator, dtype=torch.float64) - 1)
        y = 0.5 * torch.randn(20, len(self.coordinates.names), generator=generator, dtype=torch.float64)
        y = torch.where(self.coordinates.periodic, 0.5 * y, y)  # a folded methyl rotor is within +-60 degrees
        x, log_det = self.coordinates.to_cartesian(s, y)
        s_back, y_back, log_det_back = self.coordinates.to_internal(x)
        trip = max(float((a - b).abs().max()) for a, b in ((s, s_back), (y, y_back), (log_det, -log_det_back)))
        energy, gradient = TorchForceField.from_openmm(self.openmm_system(), self.temperature).energy_and_gradient(x)
        openmm_reference = OpenMMEngine(self.openmm_system(), self.temperature, "Reference")
        true_energy, true_gradient = openmm_reference.energy_and_gradient(x)
        energy_error = float(((energy - true_energy) / true_energy).abs().max())
        force_error = float((gradient - true_gradient).norm() / true_gradient.norm())
        return [
            Check("coordinates round trip", trip < 1e-9, f"largest difference {trip:.1e}"),
            Check("energy against OpenMM", energy_error < 1e-6, f"largest relative difference {energy_error:.1e}"),
            Check("forces against OpenMM", force_error < 1e-8, f"relative difference {force_error:.1e}"),
        ]
