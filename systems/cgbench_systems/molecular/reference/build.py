"""The builder of a molecule's reference: three routes and OpenMM, one certificate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import openmm

from cgbench.contracts.pmf import basin_mask
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import Check, System
from cgbench.errors import UserError
from cgbench.scoring.reference_files import load_reference
from cgbench_methods.lib.estimators.importance import RELIABLE_PARETO_K
from cgbench_systems.molecular.reference.biased import BiasedRoute
from cgbench_systems.molecular.reference.certificate import (
    ORDERS,
    RESAMPLES,
    certify,
    write_checks,
    write_cpu_time,
    write_facts,
    write_route,
)
from cgbench_systems.molecular.reference.comparison import compare_estimate, compare_halves
from cgbench_systems.molecular.reference.configurations import fixed_configurations
from cgbench_systems.molecular.reference.confirming.frozen import (
    DoubleStepRoute,
    FrozenRoute,
    HalfStepRoute,
    MetropolisRoute,
)
from cgbench_systems.molecular.reference.confirming.importance import ImportanceRoute
from cgbench_systems.molecular.reference.confirming.uncertainty import basin_checks, basin_differences
from cgbench_systems.molecular.reference.dynamics_check import compare_dynamics, openmm_reduced_energies
from cgbench_systems.molecular.reference.route import TIME_STEP, Array, Route, RoutesBuilder, log, writing
from cgbench_systems.molecular.reference.samples import equilibrium_samples
from cgbench_systems.molecular.reference.side_chains.torsions import SideTorsions
from cgbench_systems.molecular.reference.umbrella import UmbrellaRoute
from cgbench_systems.molecular.reference.unbiased import UnbiasedRoute
from cgbench_systems.molecular.reference.verify import Sampling
from cgbench_systems.molecular.stored_samples import write_samples

__all__ = ["Effort", "MolecularReferenceBuilder", "ShorterReferenceBuilder"]


@dataclass(frozen=True)
class Effort:
    """Amount of work besides the blocks of the routes.

    Attributes
    ----------
    orders, resamples
        Candidate orders of the Fourier fit, and bootstrap resamples (`certify`).
    batched, steps
        Trajectories of the batched force field, and lengths of the trajectories (`compare_dynamics`).
    samples, heating, relaxation, flattened
        Number of equilibrium configurations, their steps with strong friction and after it, and the sampling from
        which molecules with side chains take their starts (`equilibrium_samples`).
    """

    orders: tuple[int, ...] = ORDERS
    resamples: int = RESAMPLES
    batched: int = 20_000
    steps: tuple[int, ...] = (100, 500)
    samples: int = 2000
    heating: int = 2000
    relaxation: int = 4000
    flattened: Sampling = Sampling(compile=False)


CONFIRMING = {"half_step": 150, "double_step": 150, "metropolis": 150, "importance": 500}  # routes and their blocks


class MolecularReferenceBuilder(RoutesBuilder):
    """Builds and certifies the PMF of a molecule on two dihedral angles.

    Attributes
    ----------
    routes
        Routes and their default sizes: blocks of sampling, or trajectories of route "openmm".
    biased, umbrella, unbiased, half_step, double_step, metropolis, importance
        Classes of the routes.
    effort
        Amount of work besides the routes.
    """

    routes = {"biased": 500, "umbrella": 120, "unbiased": 100, "openmm": 400} | CONFIRMING
    confirming = frozenset(CONFIRMING)
    biased: ClassVar[type[BiasedRoute]] = BiasedRoute
    umbrella: ClassVar[type[UmbrellaRoute]] = UmbrellaRoute
    unbiased: ClassVar[type[UnbiasedRoute]] = UnbiasedRoute
    half_step: ClassVar[type[HalfStepRoute]] = HalfStepRoute
    double_step: ClassVar[type[DoubleStepRoute]] = DoubleStepRoute
    metropolis: ClassVar[type[MetropolisRoute]] = MetropolisRoute
    importance: ClassVar[type[ImportanceRoute]] = ImportanceRoute
    effort: ClassVar[Effort] = Effort()

    def certify(self) -> None:
        """Write the reference from the biased route."""
        route = self.built(self.biased)
        with writing(self.destination):
            certify(route, self.destination, self.facts, orders=self.effort.orders, resamples=self.effort.resamples)
        log(f"certified: noise floor {self._reference().noise_floor:.1e}")

    def samples(self) -> None:
        """Write equilibrium configurations to ``samples.npz`` beside the reference."""
        reference = self._reference()
        self.system.compile()
        effort = self.effort
        positions = equilibrium_samples(
            self.system, reference, effort.samples, effort.heating, effort.relaxation, effort.flattened
        )
        inside = self.system.coordinates.in_state_space(positions)
        if not bool(inside.all()):
            raise UserError(f"{int((~inside).sum())} of {len(inside)} samples left the state space")
        with writing(self.destination):
            write_samples(self.destination, positions)
        log(f"wrote {len(positions)} configurations")

    def _reference(self) -> Reference:
        return load_reference(self.destination, self.system.cvs)

    def compare(self, route: str) -> None:
        """Compare a route with the certified files and enter the checks there."""
        if route == "biased":
            return
        compare = {
            "umbrella": self._compare_umbrella,
            "unbiased": self._compare_unbiased,
            "openmm": self._compare_openmm,
            "half_step": lambda reference: self._compare_frozen(self.half_step, reference),
            "double_step": lambda reference: self._compare_frozen(self.double_step, reference),
            "metropolis": lambda reference: self._compare_frozen(self.metropolis, reference),
            "importance": self._compare_importance,
        }
        checks = compare[route](self._reference())
        for check in checks:
            log(f"{route}: {'passed' if check.passed else 'FAILED'} {check.name}: {check.detail}")
        with writing(self.destination):
            write_checks(self.destination, checks)

    def _compare_umbrella(self, reference: Reference) -> list[Check]:
        sampler = self.built(self.umbrella)
        with writing(self.destination):
            write_cpu_time(sampler, self.destination)
        whole, parts = sampler.estimates()
        name = f"umbrella + MBAR, {sampler.steps:.1e} steps"
        self._note_basins(sampler, parts, reference)
        checks = compare_estimate(self.system, reference, name, whole, parts)
        return [*checks, *compare_halves(self.system, name, *sampler.halves())]

    def _compare_unbiased(self, reference: Reference) -> list[Check]:
        sampler = self.built(self.unbiased)
        groups = sampler.group_histograms()
        self._note_basins(sampler, groups, reference)
        name = f"unbiased from weighted starts, {sampler.steps:.1e} steps"
        checks = compare_estimate(self.system, reference, name, groups.sum(0), groups)
        mean, error = sampler.mean_energy()
        basin = self.system.basins[-1]
        equilibrium = reference.pmf.population(basin_mask(self.system.cvs, basin.contains))
        relaxation = sampler.relaxation_time(equilibrium)
        with writing(self.destination):
            write_cpu_time(sampler, self.destination)
            write_facts(
                self.destination,
                mean_reduced_energy={"value": mean, "standard_error": error},
                relaxation_time_ps={} if math.isnan(relaxation) else {basin.name: relaxation},
            )
        length = len(sampler.blocks) * sampler.block_steps * TIME_STEP
        time = "is too noisy to be fitted" if math.isnan(relaxation) else f"is {relaxation:.1f} ps"
        log(f"unbiased: relaxation time of {basin.name} {time}; the trajectories have {length:g} ps")
        return checks

    def sampling_route(self, route: str) -> Route:
        """Return a route; importance sampling gets the trained generator."""
        if route == "importance":
            return self.importance(self.system, self.folder, sampler=self.sampler)
        return super().sampling_route(route)

    def _compare_frozen(self, kind: type[FrozenRoute], reference: Reference) -> list[Check]:
        sampler = self.built(kind)
        groups = sampler.group_histograms()
        name = f"{sampler.name}, {sampler.steps:.1e} steps"
        checks = self._compare_basins(sampler, name, groups, reference, sampler.bias_per_difference, sampler.facts())
        return [*checks, *compare_halves(self.system, name, *sampler.halves())]

    def _compare_importance(self, reference: Reference) -> list[Check]:
        sampler = self.built(self.importance)
        groups = sampler.group_histograms()
        size, index = sampler.quality()
        name = f"importance, {sampler.steps:.1e} samples"
        by_basin = {
            basin.name: round(sampler.quality(basin_mask(self.system.cvs, basin.contains))[0])
            for basin in self.system.basins
        }
        facts = {"samples": sampler.steps, "effective_samples": round(size), "effective_samples_by_basin": by_basin}
        facts["pareto_k"] = round(index, 3)
        checks = self._compare_basins(sampler, name, groups, reference, -1.0, facts)
        return [
            *checks,
            Check(
                f"{name}: tail of the weights",
                bool(index < RELIABLE_PARETO_K),
                f"Pareto k {index:.2f}, {size:.1e} effective samples",
            ),
        ]

    def _note_basins(self, sampler: Route, groups: Array, reference: Reference) -> None:
        """Enter the differences in free energy of a route with the reference's own dynamics in the certificate."""
        differences = basin_differences(self.system, reference.details["basins"], groups)
        with writing(self.destination):
            facts = {"title": sampler.title, "bias_per_difference": None, "basins": differences}
            write_route(self.destination, sampler.name, facts)

    def _compare_basins(
        self,
        sampler: Route,
        name: str,
        groups: Array,
        reference: Reference,
        bias_per_difference: float | None,
        facts: Mapping[str, Any],
    ) -> list[Check]:
        """Compare the basins and the PMF of a route, and enter its differences in free energy in the certificate."""
        differences = basin_differences(self.system, reference.details["basins"], groups)
        with writing(self.destination):
            write_cpu_time(sampler, self.destination)
            write_route(
                self.destination,
                sampler.name,
                {
                    "title": sampler.title,
                    **facts,
                    "bias_per_difference": bias_per_difference,
                    "basins": differences,
                },
            )
        checks = compare_estimate(self.system, reference, name, groups.sum(axis=0), groups)
        return [*basin_checks(name, differences), *checks]

    def _compare_openmm(self, reference: Reference) -> list[Check]:
        s, x = fixed_configurations(self.system, reference)
        energies = openmm_reduced_energies(self.system, self.openmm_system, x)
        with writing(self.destination):
            write_facts(
                self.destination,
                fixed_configurations=[
                    {"cvs": point, "reduced_energy": energy}
                    for point, energy in zip(s.tolist(), energies.tolist(), strict=True)
                ],
            )
        return compare_dynamics(
            self.system,
            self.openmm_system,
            trajectories=self.trajectories,
            batched=self.effort.batched,
            steps=self.effort.steps,
            log=log,
        )


class ShorterBiased(BiasedRoute):
    """Route "biased" in minutes, with errors from independent groups of walkers.

    Of all biases p^(1/g - 1), a bias factor g between 2 and 5 leaves the least noise in a forward KLD. The largest of
    these also leaves the lowest barriers. With it, hills must be low: all walkers start in one minimum, and where the
    first hills overshoot the final bias, nothing takes them away. Later visits there are rare and have large weights.
    """

    hills, pace, height, bias_factor = 600, 20, 10.0, 5.0
    equilibration, walker_groups = 20, 16


class ShorterUmbrella(UmbrellaRoute):
    """Route "umbrella" in minutes.

    Rotamers relax within each window, over barriers that the common bias on a torsion lowers only on average. That
    takes longer than anything else, and the more blocks are discarded: with 4 of them, the population of alphaR of
    valine dipeptide was 0.067 instead of 0.10, and grew from block to block.
    """

    equilibration, pull_steps, mbar_frames = 4, 4000, 24
    equilibration_of_rotamers = 32

    def __init__(self, system: System, folder: Path, seed: int = 1) -> None:
        super().__init__(system, folder, seed)
        if self.torsions.atoms:
            self.equilibration = self.equilibration_of_rotamers


class ShorterUnbiased(UnbiasedRoute):
    """Route "unbiased" in minutes."""

    source = ShorterBiased


class ShorterReferenceBuilder(MolecularReferenceBuilder):
    """Builds a reference with a noise floor of at most about 2e-4 in minutes of one core, for 20 to 30 atoms."""

    biased, umbrella, unbiased = ShorterBiased, ShorterUmbrella, ShorterUnbiased
    effort = Effort(resamples=50, batched=6000)

    routes = {"biased": 130, "umbrella": 16, "unbiased": 6, "openmm": 150} | CONFIRMING
    umbrella_with_side_chains = 64

    def __init__(
        self, system: System, openmm_system: openmm.System, folder: Path, destination: Path, facts: Mapping[str, Any]
    ) -> None:
        super().__init__(system, openmm_system, folder, destination, facts)
        if SideTorsions(system).atoms:
            self.routes = self.routes | {"umbrella": self.umbrella_with_side_chains}
