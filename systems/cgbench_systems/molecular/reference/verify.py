"""Verify a certified reference by a few minutes of new sampling."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import Check, System
from cgbench.errors import UserError
from cgbench_methods.lib.sampling.bias import FourierBias, biased
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_systems.molecular.reference.configurations import HEATING_FRICTION, relaxed
from cgbench_systems.molecular.reference.route import FRICTION, TIME_STEP, Array
from cgbench_systems.molecular.reference.side_chains.bias import SummedBias, TorsionBias
from cgbench_systems.molecular.reference.side_chains.torsions import SideTorsions

__all__ = [
    "Flattened",
    "Sampling",
    "compare_energies",
    "flattening_bias",
    "predicted_starts",
    "side_torsion_rows",
    "verify",
]

CUT = 12.0  # kT; the bias does not flatten the PMF above it
PER_SIDE = 10  # coarse cells along each angle
LIMIT = 4.5  # standard errors
ENERGY_TOLERANCE = 1e-3  # kT


@dataclass(frozen=True)
class Sampling:
    """Amount of sampling of a verification.

    Attributes
    ----------
    walkers, equilibration, steps
        Number of walkers, and their steps of equilibration and of production.
    side_chains
        Further steps of equilibration where side chains have to distribute over their rotamers.
    stride
        Steps between two samples.
    seconds, least
        Production ends early when `seconds` have passed since the start, but not before `least` steps.
    compile
        Whether to compile the energy, which pays for runs of more than about a minute.
    """

    walkers: int = 1024
    equilibration: int = 2000
    steps: int = 20_000
    side_chains: int = 15_000
    stride: int = 10
    seconds: float = 270.0
    least: int = 1000
    compile: bool = True


def compare_energies(system: System, certified: list[dict[str, Any]]) -> Check:
    """Compare the energies of fixed configurations, which reveal another force field, solvent or temperature."""
    s = torch.tensor([entry["cvs"] for entry in certified], dtype=torch.float64)
    x, _ = system.coordinates.to_cartesian(s, torch.zeros(len(s), len(system.coordinates.names), dtype=torch.float64))
    found = system.reduced_energy(x.to(system.device)).detach().cpu().numpy()
    expected = np.array([entry["reduced_energy"] for entry in certified])
    worst = int(np.abs(found - expected).argmax())
    return Check(
        "energies of fixed configurations",
        bool(np.abs(found - expected).max() < ENERGY_TOLERANCE),
        f"{len(s)} configurations, largest difference {found[worst] - expected[worst]:+.1e} kT, "
        f"{found[worst]:.4f} instead of {expected[worst]:.4f} kT",
    )


def flattening_bias(cvs: CollectiveVariables, probability: Array, order: int = 12, scale: float = 1.0) -> FourierBias:
    """Return a bias that flattens a PMF, given as probabilities over the grid, up to `CUT`; or a share of it.

    The order of its Fourier series is at most what the grid can tell.
    """
    order = min(order, (min(cvs.bins) - 1) // 2)
    energy = -np.log(np.maximum(probability / probability.max(), np.exp(-CUT)))
    return FourierBias.from_grid(cvs, -scale * energy, order)


def side_torsion_rows(system: System, reference: Reference, torsions: SideTorsions) -> list[list[float]]:
    """Return the certified free energies along each side-chain torsion, ``[torsions, bins]`` in kT.

    Raises
    ------
    UserError
        If the reference does not know the side-chain torsions of the molecule.
    """
    rows = [entry["free_energy_kT"] for entry in reference.details.get("side_torsions", [])]
    if len(rows) != len(torsions):
        raise UserError(
            f"the reference of {system.name} knows {len(rows)} side-chain torsions, the molecule has "
            f"{len(torsions)} ({', '.join(torsions.names)}): build and certify the reference again"
        )
    return rows


def predicted_starts(system: System, torsions: SideTorsions, expected: Array, walkers: int, seed: int) -> torch.Tensor:
    """Return relaxed configurations ``[walkers, atoms, 3]`` with CVs drawn from probabilities over the grid.

    Side chains are spread over all rotamers.
    """
    cvs = system.cvs
    generator = torch.Generator().manual_seed(seed)
    grid = torch.from_numpy(cvs.grid())
    drawn = torch.multinomial(torch.from_numpy(expected.ravel()), walkers, True, generator=generator)
    jitter = torch.rand(walkers, 2, generator=generator, dtype=torch.float64) - 0.5
    points = (grid[drawn] + jitter * 2 * np.pi / cvs.bins[0]).to(system.device)
    return torsions.starts(points, seed) if torsions.atoms else relaxed(system, points)


class Flattened:
    """Walkers under a bias that, according to a reference, flattens its PMF and the PMF of each side-chain torsion.

    The CVs start from the distribution that the reference predicts under the bias on them. Side chains start spread
    over all rotamers, and need `Sampling.side_chains` steps to reach theirs.

    Attributes
    ----------
    expected
        Predicted probability of each bin under the bias on the CVs ``[bins, bins]``.
    dynamics
        The walkers.

    Parameters
    ----------
    system, reference
        The molecule and its certified reference.
    sampling
        Amount of sampling.
    seed
        Seed of the starts and of the dynamics.

    Raises
    ------
    UserError
        If the reference does not know the side-chain torsions of the molecule.
    """

    def __init__(self, system: System, reference: Reference, sampling: Sampling, seed: int) -> None:
        cvs, probability = system.cvs, reference.pmf.probability
        self.torsions = SideTorsions(system)
        rows = side_torsion_rows(system, reference, self.torsions)
        bias = flattening_bias(cvs, probability)
        self.expected = probability * np.exp(-bias.on_grid())
        self.expected /= self.expected.sum()
        start = predicted_starts(system, self.torsions, self.expected, sampling.walkers, seed)
        if sampling.compile:
            system.compile()
        assert system.masses is not None
        self._bias = SummedBias(bias, TorsionBias.flattening(rows))
        self._evaluate = biased(self._bias, system.reduced_energy_and_gradient, self.torsions.with_cvs)
        self._cvs = len(cvs)
        self.dynamics = Langevin(
            self._evaluate,
            system.masses.to(system.device),
            system.temperature,
            time_step=TIME_STEP,
            friction=HEATING_FRICTION,
            positions=start.float(),
            generator=torch.Generator(device=system.device).manual_seed(seed + 1),
        )
        self.dynamics.step(sampling.equilibration)
        self.dynamics.set_friction(FRICTION)
        if self.torsions.atoms:
            self.dynamics.step(sampling.side_chains)

    def sample(self, steps: int) -> tuple[Array, Array, Array]:
        """Advance all walkers, and describe them at the start of the last step.

        Returns
        -------
        s
            CVs ``[walkers, cvs]``.
        bias
            Total bias ``[walkers]`` in kT; its exponential is the equilibrium weight.
        side_bias
            The part of it on side-chain torsions ``[walkers]``.
        """
        self.dynamics.step(steps)
        s, bias = self._evaluate.last
        side = self._bias.parts[1]
        values = bias.double().cpu().numpy()
        return (
            s[:, : self._cvs].double().cpu().numpy(),
            values,
            np.zeros(len(values)) if side is None else side.double().cpu().numpy(),
        )


def verify(
    system: System,
    reference: Reference,
    sampling: Sampling,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> list[Check]:
    """Compare a reference with new sampling under a bias that, according to the reference, flattens the PMF.

    If the reference is right, walkers that start from the distribution that it predicts under the bias keep this
    distribution, and their reweighted mean potential energy is the certified one. Errors come from the differences
    between walkers.

    Parameters
    ----------
    system, reference
        The molecule and its certified reference.
    sampling
        Amount of sampling.
    seed
        Seed of the starts and of the dynamics.
    log
        Called with one line about the sampling.

    Returns
    -------
    list of Check
        Energies of fixed configurations, state space, occupation of coarse cells, tilt along the PMF, mean energy.
    """
    began = time.monotonic()
    cvs, probability = system.cvs, reference.pmf.probability
    flattened = Flattened(system, reference, sampling, seed)
    dynamics, expected = flattened.dynamics, flattened.expected
    counts = np.zeros((sampling.walkers, PER_SIDE * PER_SIDE))
    energy, weight = np.zeros(sampling.walkers), np.zeros(sampling.walkers)
    rows, done = np.arange(sampling.walkers), 0
    while done < sampling.least or (done < sampling.steps and time.monotonic() - began < sampling.seconds):
        s, pull, side = flattened.sample(sampling.stride)
        done += sampling.stride
        counts[rows, cells(cvs)[cvs.bin_index(s)]] += np.exp(side)
        factor = np.exp(pull)
        energy += factor * (dynamics.energies.double().cpu().numpy() - pull)
        weight += factor
    log(f"sampled {sampling.walkers} walkers for {done} steps in {time.monotonic() - began:.0f} s, with preparation")
    inside = system.coordinates.in_state_space(dynamics.positions)
    energies = reference.details.get("fixed_configurations")
    checks = [compare_energies(system, energies)] if energies is not None else []
    checks += [
        Check("state space", bool(inside.all()), f"{int((~inside).sum())} of {len(inside)} walkers are outside"),
        *_occupation(counts, expected, probability, cells(cvs)),
    ]
    certified = reference.details.get("mean_reduced_energy")
    if certified is not None:
        mean = float(energy.sum() / weight.sum())
        residual = energy - mean * weight
        error = float(residual.std(ddof=1) * np.sqrt(len(residual)) / weight.sum())
        error = float(np.hypot(error, certified["standard_error"]))
        z = (mean - certified["value"]) / error
        detail = f"{mean:.3f} kT, certified {certified['value']:.3f}, z = {z:+.1f}"
        checks.append(Check("mean potential energy", bool(abs(z) < LIMIT), detail))
    return checks


def cells(cvs: CollectiveVariables) -> NDArray[np.int64]:
    """Return the coarse cell of each bin ``[bins]``, in the order of `CollectiveVariables.bin_index`."""
    first, second = (np.arange(count) * PER_SIDE // count for count in cvs.bins)
    return np.asarray(first[:, None] * PER_SIDE + second).ravel()


def _occupation(counts: Array, expected: Array, probability: Array, cell: NDArray[np.int64]) -> list[Check]:
    """Compare weighted counts ``[walkers, cells]`` with expectation, cell by cell and as a tilt along the PMF."""

    def coarse(values: Array) -> Array:
        return np.asarray(np.bincount(cell, values.ravel(), counts.shape[1]), dtype=np.float64)

    predicted = coarse(expected)
    populated = predicted > 2e-3
    number, total = len(counts), counts.sum(axis=1, keepdims=True)
    shares = counts.sum(axis=0) / total.sum()

    def standard_error(values: Array, mean: Array) -> Array:
        """Return that of a ratio of sums over walkers (delta method)."""
        return np.asarray((values - mean * total).std(axis=0, ddof=1) * np.sqrt(number) / total.sum())

    error = np.maximum(standard_error(counts, shares), np.sqrt(predicted / number) / 5)
    z = ((shares - predicted) / error)[populated]
    free_energy = -np.log(probability / probability.max())
    mean_energy = coarse(expected * np.minimum(free_energy, CUT)) / predicted
    tilt, target = float(shares @ mean_energy), float(predicted @ mean_energy)
    tilt_z = (tilt - target) / float(standard_error(counts @ mean_energy[:, None], np.array([tilt]))[0])
    return [
        Check(
            "occupation of the torus",
            bool(np.abs(z).max() < LIMIT),
            f"{int(populated.sum())} cells, largest |z| {np.abs(z).max():.1f}, mean square {np.mean(z**2):.2f}",
        ),
        Check(
            "tilt along the PMF",
            bool(abs(tilt_z) < LIMIT),
            f"mean PMF under the bias {tilt:.3f} kT, expected {target:.3f}, z = {tilt_z:+.1f}",
        ),
    ]
