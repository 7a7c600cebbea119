"""The builder of a molecule's reference: four routes, one certificate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import openmm

from cgbench.contracts.pmf import basin_mask
from cgbench.contracts.reference import Reference, ReferenceBuilder
from cgbench.contracts.system import Check, System
from cgbench.errors import UserError
from cgbench.scoring.divergences import forward_kld
from cgbench.scoring.reference_files import load_reference
from cgbench.storage.files import write_atomically, write_npz
from cgbench_systems.molecular.reference.biased import BiasedRoute
from cgbench_systems.molecular.reference.certificate import certify, write_checks
from cgbench_systems.molecular.reference.dynamics_check import compare_dynamics, openmm_reduced_energies
from cgbench_systems.molecular.reference.route import TIME_STEP, Array, Route, log
from cgbench_systems.molecular.reference.samples import equilibrium_samples
from cgbench_systems.molecular.reference.statistics import share
from cgbench_systems.molecular.reference.umbrella import UmbrellaRoute
from cgbench_systems.molecular.reference.unbiased import UnbiasedRoute
from cgbench_systems.molecular.reference.verify import fixed_configurations

__all__ = ["MolecularReferenceBuilder", "compare_estimate"]

LIMIT = 4.0  # standard errors


class MolecularReferenceBuilder(ReferenceBuilder):
    """Builds and certifies a PMF on two angles.

    Parameters
    ----------
    system
        On its batched engine.
    openmm_system
        The same molecule as OpenMM defines it.
    folder
        Checkpoints of the routes.
    destination
        The system's reference folder.
    facts
        What the certificate says of the force field.
    """

    routes: ClassVar[dict[str, int]] = {"biased": 500, "umbrella": 120, "unbiased": 100, "openmm": 400}

    def __init__(
        self, system: System, openmm_system: openmm.System, folder: Path, destination: Path, facts: Mapping[str, Any]
    ) -> None:
        self.system, self.openmm_system = system, openmm_system
        self.folder, self.destination, self.facts = folder, destination, facts

    def _route(self, name: str) -> Route:
        classes: dict[str, type[Route]] = {
            "biased": BiasedRoute,
            "umbrella": UmbrellaRoute,
            "unbiased": UnbiasedRoute,
        }
        return classes[name](self.system, self.folder)

    def build(self, route: str, blocks: int) -> None:
        """Sample by one route; route "openmm" makes `blocks` trajectories when it is compared."""
        if route == "openmm":
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        sampler = self._route(route)
        if sampler.load():
            log(f"{route}: going on from {len(sampler.blocks)} blocks")
        if len(sampler.blocks) < blocks:
            self.system.compile()
            sampler.run(blocks)

    def _loaded(self, name: str) -> Any:
        sampler = self._route(name)
        if not sampler.load():
            raise UserError(f"route {name} has no checkpoint in {self.folder}: build it first")
        return sampler

    def certify(self) -> None:
        """Write the reference from the biased route."""
        certify(self._loaded("biased"), self.destination, self.facts)
        log(f"certified: noise floor {self._reference().noise_floor:.1e}")

    def samples(self) -> None:
        """Write ``samples.npz`` beside the reference."""
        self.system.compile()
        positions = equilibrium_samples(self.system, self._reference())
        inside = self.system.coordinates.in_state_space(positions)
        if not bool(inside.all()):
            raise UserError(f"{int((~inside).sum())} of {len(inside)} samples left the state space")
        write_npz(self.destination / "samples.npz", {"positions": positions.cpu().numpy()})
        log(f"wrote {len(positions)} configurations")

    def _reference(self) -> Reference:
        return load_reference(self.destination, self.system.cvs)

    def compare(self, route: str) -> None:
        """Compare a route with the certified files and enter the result."""
        if route == "biased":
            return
        checks: list[Check] = getattr(self, f"_compare_{route}")()
        for check in checks:
            log(f"{route}: {'passed' if check.passed else 'FAILED'} {check.name}: {check.detail}")
        write_checks(self.destination, checks)

    def _compare_umbrella(self) -> list[Check]:
        sampler = self._loaded("umbrella")
        whole, parts = sampler.estimates()
        name = f"umbrella + MBAR, {sampler.steps:.1e} steps"
        return compare_estimate(self.system, self._reference(), name, whole, parts)

    def _compare_unbiased(self) -> list[Check]:
        sampler = self._loaded("unbiased")
        groups = sampler.group_histograms()
        reference = self._reference()
        name = f"unbiased from weighted starts, {sampler.steps:.1e} steps"
        checks = compare_estimate(self.system, reference, name, groups.sum(0), groups)
        mean, error = sampler.mean_energy()
        basin = self.system.basins[-1]
        equilibrium = reference.pmf.population(basin_mask(self.system.cvs, basin.contains))
        self._note(
            mean_reduced_energy={"value": mean, "standard_error": error},
            relaxation_time_ps={basin.name: sampler.relaxation_time(equilibrium)},
        )
        length = len(sampler.blocks) * sampler.block_steps * TIME_STEP
        log(f"unbiased: {basin.name} relaxes in {sampler.relaxation_time(equilibrium):.1f} ps; runs of {length:.0f} ps")
        return checks

    def _compare_openmm(self) -> list[Check]:
        s, x = fixed_configurations(self.system, self._reference())
        energies = openmm_reduced_energies(self.system, self.openmm_system, x)
        self._note(
            fixed_configurations=[
                {"cvs": point, "reduced_energy": energy}
                for point, energy in zip(s.tolist(), energies.tolist(), strict=True)
            ]
        )
        return compare_dynamics(self.system, self.openmm_system, trajectories=self.routes["openmm"], log=log)

    def _note(self, **facts: Any) -> None:
        path = self.destination / "reference.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        record |= facts
        write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def compare_estimate(system: System, reference: Reference, name: str, whole: Array, parts: Array) -> list[Check]:
    """Compare an independent estimate with a reference, within the errors of both.

    Parameters
    ----------
    whole, parts
        Histogram ``[bins, bins]`` of the route, and those ``[parts, bins, bins]`` of its independent parts.
    """
    checks = []
    basins = reference.details["basins"]
    for basin in system.basins:
        value, error = share(parts, basin_mask(system.cvs, basin.contains))
        certified = basins[basin.name]
        both = float(np.hypot(error, certified["population_standard_error"]))
        z = (value - certified["population"]) / both
        checks.append(
            Check(
                f"{name}: population of {basin.name}",
                bool(abs(z) < LIMIT),
                f"{value:.5f} +- {error:.5f}, certified {certified['population']:.5f}, z = {z:+.1f}",
            )
        )
    # the divergence between reference and route is what the noise of both makes it
    p = reference.pmf.probability
    estimate = whole / whole.sum()
    seen = estimate > 0
    noise = _expected_divergence(p, parts, seen)
    found = forward_kld(p[seen], estimate[seen])
    checks.append(
        Check(
            f"{name}: divergence",
            bool(found < 1.5 * (noise + reference.noise_floor)),
            f"forward KLD {found:.2e} over {seen.mean():.1%} of the bins, "
            f"{noise:.2e} expected from the route's noise and {reference.noise_floor:.1e} from the reference's",
        )
    )
    return checks


def _expected_divergence(p: Array, parts: Array, seen: np.ndarray) -> float:
    """Forward KLD that the scatter between independent parts predicts for their sum: half a chi-square."""
    total = parts.sum(axis=0)
    shares = parts.sum(axis=(1, 2))
    mean = total / total.sum()
    residual = parts - mean * shares[:, None, None]
    variance = residual.var(axis=0, ddof=1) * len(parts) / total.sum() ** 2
    return float(0.5 * (variance[seen] / np.maximum(p[seen], 1e-300)).sum())
