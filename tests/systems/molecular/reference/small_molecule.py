"""Molecules of five and six atoms whose exact PMF is known, with reference builders that take seconds.

The chains have no nonbonded terms. Their dihedral angles are therefore independent of each other and of the bonds and
angles, and the PMF is the sum of the torsion potentials. The reference is written to the folder of this file, so
copy the file before you build.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import openmm
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import Reference, ReferenceBuilder
from cgbench.contracts.system import Basin, Check, System
from cgbench.scoring.reference_files import load_reference
from cgbench_systems.molecular.forcefield import GAS_CONSTANT, TorchForceField
from cgbench_systems.molecular.geometry import dihedral
from cgbench_systems.molecular.internal_coordinates import Scales, ZMatrixCoordinates
from cgbench_systems.molecular.reference.biased import BiasedRoute
from cgbench_systems.molecular.reference.build import Effort, MolecularReferenceBuilder
from cgbench_systems.molecular.reference.umbrella import UmbrellaRoute
from cgbench_systems.molecular.reference.unbiased import UnbiasedRoute
from cgbench_systems.molecular.reference.verify import Sampling, verify

FOLDER = Path(__file__).with_name("reference")
TEMPERATURE = 300.0
MASS, LENGTH, ANGLE = 1.0, 0.15, 1.9  # dalton, nm, rad
DIHEDRALS = ((0, 1, 2, 3), (1, 2, 3, 4))
# periodicity, phase in rad, amplitude in kJ/mol of each dihedral
WAVES = (((1, 0.7, 2.0), (3, 0.0, 1.5)), ((1, -1.2, 1.5), (2, 0.4, 2.0)))
SIDE = (2, 3, 4, 5)
SIDE_WAVES = ((3, 0.0, 7.0), (1, 2.0, 1.5))  # three rotamers behind barriers of 5.6 kT, of different populations


class SmallBiased(BiasedRoute):
    walkers, block_steps, stride, equilibration, group = 128, 100, 5, 4, 4
    hills, pace, height, width, bias_factor = 40, 12, 5.0, 0.35, 4.0


class SmallUmbrella(UmbrellaRoute):
    walkers, block_steps, equilibration, pull_steps = 144, 100, 4, 250
    per_side, stiffness, frames, exchange, mbar_frames = 6, 3.0, 5, 10, 30


class SmallUnbiased(UnbiasedRoute):
    walkers, block_steps, stride, groups = 128, 100, 5, 8
    source = SmallBiased


class SmallBuilder(MolecularReferenceBuilder):
    routes = {"biased": 32, "umbrella": 16, "unbiased": 20, "openmm": 50}
    biased, umbrella, unbiased = SmallBiased, SmallUmbrella, SmallUnbiased
    effort = Effort(
        orders=(2, 3, 4), resamples=20, batched=500, steps=(50, 200), samples=200, heating=150, relaxation=200
    )


FLATTENED = Sampling(walkers=128, equilibration=150, side_chains=1500, steps=1000, stride=2, compile=False)


class GroupedBiased(SmallBiased):
    walker_groups = 8


class GroupedUnbiased(SmallUnbiased):
    source = GroupedBiased


class SlowUmbrella(SmallUmbrella):
    equilibration = 16  # blocks; the side chain takes longer


class GroupedBuilder(SmallBuilder):
    routes = SmallBuilder.routes | {"umbrella": 32}
    biased, umbrella, unbiased = GroupedBiased, SlowUmbrella, GroupedUnbiased
    effort = replace(SmallBuilder.effort, flattened=FLATTENED)


class Chain(System):
    """Five atoms in a chain, with two dihedral angles as collective variables."""

    name = "chain"
    version = "1"
    dihedrals: tuple[tuple[int, int, int, int], ...] = DIHEDRALS
    waves: tuple[tuple[tuple[int, float, float], ...], ...] = WAVES
    builder: type[MolecularReferenceBuilder] = SmallBuilder
    count = 5

    def __init__(self, *, engine: str | None = None, device: str = "cpu") -> None:
        super().__init__(engine=engine, device=device)
        self.temperature = TEMPERATURE
        self.traits = frozenset({"gradient", "coordinates", "molecular"})
        self.cvs = CollectiveVariables(("phi", "psi"), (-np.pi,) * 2, (np.pi,) * 2, (True, True), bins=(20, 20))
        self.basins = (
            Basin("phi<0", lambda columns: columns[0] < 0),
            Basin("phi>0", lambda columns: columns[0] >= 0),
        )
        self.coordinates = ZMatrixCoordinates(
            reference_atoms=(2, 1, 3),
            rows=((0, 1, 2, 3), (4, 3, 2, 1), (5, 4, 3, 2))[: self.count - 3],
            cv_atoms=(0, 4),
            periodic_atoms=(5,)[: self.count - 5],
            reference=_extended(self.count),
            scales=Scales(0.005, 0.1, 0.1),
        )

    def openmm_system(self) -> openmm.System:
        system = openmm.System()
        bonds, angles, torsions = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
        for _ in range(self.count):
            system.addParticle(MASS)
        for index in range(self.count - 1):
            bonds.addBond(index, index + 1, LENGTH, 3e4)
        for index in range(self.count - 2):
            angles.addAngle(index, index + 1, index + 2, ANGLE, 200.0)
        for atoms, waves in zip(self.dihedrals, self.waves, strict=True):
            for wave in waves:
                torsions.addTorsion(*atoms, *wave)
        for force in (bonds, angles, torsions):
            system.addForce(force)
        return system

    @cached_property
    def _engine(self) -> TorchForceField:
        return TorchForceField.from_openmm(self.openmm_system(), TEMPERATURE)

    @property
    def masses(self) -> torch.Tensor:
        return torch.full((self.count,), MASS, dtype=torch.float64)

    def initial_configuration(self) -> torch.Tensor:
        return _extended(self.count).to(self.device)

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._engine.energy_and_gradient(x)

    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([dihedral(*(x[:, atom] for atom in atoms)) for atoms in DIHEDRALS], dim=1)

    def exact(self) -> PMF:
        """The exact PMF."""

        def free_energy(s: np.ndarray) -> np.ndarray:
            terms = [
                amplitude * (1 + np.cos(periodicity * s[:, axis] - phase))
                for axis, waves in enumerate(WAVES)
                for periodicity, phase, amplitude in waves
            ]
            return np.sum(terms, axis=0) / (GAS_CONSTANT * TEMPERATURE)

        return PMF.from_function(self.cvs, free_energy, subdivisions=10)

    def reference(self) -> Reference:
        return load_reference(FOLDER, self.cvs)

    def reference_samples(self) -> torch.Tensor:
        with np.load(FOLDER / "samples.npz", allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["positions"].astype(np.float64))

    def reference_builder(self, folder: Path) -> ReferenceBuilder:
        facts = {"force_field": f"bonds, angles and torsions of a chain of {self.count} atoms"}
        return self.builder(self, self.openmm_system(), folder, FOLDER, facts)

    def verify_reference(self, reference: Reference) -> list[Check]:
        return verify(self, reference, Sampling(walkers=128, equilibration=150, steps=600, compile=False))


class SideChain(Chain):
    """Six atoms in a chain; the third dihedral angle is no collective variable and has three rotamers."""

    name = "side_chain"
    dihedrals = (*DIHEDRALS, SIDE)
    waves = (*WAVES, SIDE_WAVES)
    builder = GroupedBuilder
    count = 6

    def verify_reference(self, reference: Reference) -> list[Check]:
        return verify(self, reference, FLATTENED)

    def exact_rotamers(self) -> np.ndarray:
        """The exact populations of the rotamers at -60, 60 and 180 degrees, divided at -120, 0 and 120 degrees."""
        angle = np.linspace(-np.pi, np.pi, 3600, endpoint=False) + np.pi / 3600
        energy = sum(height * (1 + np.cos(count * angle - phase)) for count, phase, height in SIDE_WAVES)
        weight = np.exp(-energy / (GAS_CONSTANT * TEMPERATURE))
        well = np.floor((angle + 2 * np.pi / 3) / (2 * np.pi / 3)).astype(int) % 3
        return np.bincount(well, weight) / weight.sum()


def _extended(count: int) -> torch.Tensor:
    """The planar zigzag chain, ``[count, 3]`` in nm."""
    step = LENGTH * np.array([np.sin(ANGLE / 2), np.cos(ANGLE / 2), 0.0])
    return torch.from_numpy(np.array([[step[0] * i, step[1] * (i % 2), 0.0] for i in range(count)]))
