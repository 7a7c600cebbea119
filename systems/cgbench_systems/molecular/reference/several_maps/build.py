"""The builder of a reference of several maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from cgbench.contracts.reference import Reference
from cgbench.contracts.system import Check, maps_of
from cgbench.scoring.reference_files import load_reference
from cgbench_systems.molecular.reference.certificate import write_checks, write_facts
from cgbench_systems.molecular.reference.dynamics_check import compare_dynamics, openmm_reduced_energies
from cgbench_systems.molecular.reference.route import RoutesBuilder, log, writing
from cgbench_systems.molecular.reference.several_maps.certificate import certify_maps, compare_rows
from cgbench_systems.molecular.reference.several_maps.routes import BiasedMaps, UnbiasedMaps
from cgbench_systems.molecular.stored_samples import write_samples

__all__ = ["MapsReferenceBuilder"]


@dataclass(frozen=True)
class Effort:
    """Amount of work besides the blocks of the routes.

    Attributes
    ----------
    orders, resamples
        Candidate orders of the Fourier fit by number of CVs of the map, and bootstrap resamples (`certify_maps`).
    batched, steps
        Trajectories of the batched force field, and lengths of the trajectories (`compare_dynamics`).
    samples
        Number of equilibrium configurations.
    """

    orders: Mapping[int, tuple[int, ...]] = field(
        default_factory=lambda: {1: (8, 12, 16, 20), 2: (8, 10, 12, 14, 16), 3: (3, 4, 5)}
    )
    resamples: int = 30
    batched: int = 6000
    steps: tuple[int, ...] = (100, 500)
    samples: int = 2000


class MapsReferenceBuilder(RoutesBuilder):
    """Builds and certifies the PMFs of several maps of torsions, and the populations of states.

    Attributes
    ----------
    routes
        Routes and their default sizes: blocks of sampling, or trajectories of route "openmm".
    biased, unbiased
        Classes of the routes.
    effort
        Amount of work besides the routes.
    """

    routes = {"biased": 380, "unbiased": 10, "openmm": 150}
    biased: ClassVar[type[BiasedMaps]] = BiasedMaps
    unbiased: ClassVar[type[UnbiasedMaps]] = UnbiasedMaps
    effort: ClassVar[Effort] = Effort()

    def certify(self) -> None:
        """Write the reference from the biased route, and equilibrium configurations from its reservoir."""
        route = self.built(self.biased)
        with writing(self.destination):
            effort = self.effort
            certify_maps(route, self.destination, self.facts, orders=effort.orders, resamples=effort.resamples)
            self._write_samples(route)
            self._write_fixed(route)
        log(f"certified: noise floor {self._reference().noise_floor:.1e}")

    def _write_samples(self, route: BiasedMaps) -> None:
        """Write configurations of the reservoir, which has them sorted by a random key."""
        order = torch.randperm(len(route.reservoir), generator=torch.Generator().manual_seed(route.seed))
        positions = route.reservoir[order[: self.effort.samples]]
        write_samples(self.destination, positions.float())

    def _write_fixed(self, route: BiasedMaps) -> None:
        """Write the energies of three configurations by OpenMM, as their CVs at zero fine-grained coordinates."""
        s = self.system.collective_variables(route.reservoir[:3].to(self.system.device).double()).cpu()
        x, _ = self.system.coordinates.to_cartesian(
            s, torch.zeros(len(s), len(self.system.coordinates.names), dtype=torch.float64)
        )
        energies = openmm_reduced_energies(self.system, self.openmm_system, x)
        points = zip(s.tolist(), energies.tolist(), strict=True)
        write_facts(
            self.destination, fixed_configurations=[{"cvs": one, "reduced_energy": energy} for one, energy in points]
        )

    def samples(self) -> None:
        """Write equilibrium configurations to ``samples.npz`` beside the reference."""
        route = self.built(self.biased)
        with writing(self.destination):
            self._write_samples(route)
        log(f"wrote {min(len(route.reservoir), self.effort.samples)} configurations")

    def _reference(self) -> Reference:
        return load_reference(self.destination, [one.cvs for one in maps_of(self.system)])

    def compare(self, route: str) -> None:
        """Compare a route with the certified files and enter the checks there."""
        if route == "biased":
            return
        checks = self._compare_unbiased() if route == "unbiased" else self._compare_openmm()
        for check in checks:
            log(f"{route}: {'passed' if check.passed else 'FAILED'} {check.name}: {check.detail}")
        with writing(self.destination):
            write_checks(self.destination, checks)

    def _compare_unbiased(self) -> list[Check]:
        sampler = self.built(self.unbiased)
        mean, error = sampler.mean_energy()
        with writing(self.destination):
            write_facts(self.destination, mean_reduced_energy={"value": mean, "standard_error": error})
        name = f"unbiased from weighted configurations, {sampler.steps:.1e} steps"
        return compare_rows(self.system, self._reference(), name, sampler.kept().sum(axis=0), sampler.walkers)

    def _compare_openmm(self) -> list[Check]:
        return compare_dynamics(
            self.system,
            self.openmm_system,
            trajectories=self.trajectories,
            batched=self.effort.batched,
            steps=self.effort.steps,
            log=log,
        )
