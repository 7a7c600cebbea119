"""A few minutes of new sampling that must agree with a certified reference."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import basin_mask
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import Check, System
from cgbench_methods.lib.sampling.bias import FourierBias, biased
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_systems.molecular.reference.route import FRICTION, TIME_STEP, Array

__all__ = ["Sampling", "fixed_configurations", "verify"]

CUT = 12.0  # kT above which the PMF is left unbiased
PER_SIDE = 10  # coarse cells along each angle
LIMIT = 4.5  # standard errors
ENERGY_TOLERANCE = 1e-3  # kT
HEATING_FRICTION = 10.0  # 1/ps, before counting


@dataclass(frozen=True)
class Sampling:
    """How much verification samples.

    Attributes
    ----------
    walkers, equilibration, steps
        Number of walkers, and steps of each before and while counting.
    stride
        Steps between counted configurations.
    seconds, least
        Sampling ends when so long has passed since the start, but not before so many steps.
    compile
        Whether to compile the energy: pays from about a minute on.
    """

    walkers: int = 1024
    equilibration: int = 2000
    steps: int = 20_000
    stride: int = 10
    seconds: float = 270.0
    least: int = 1000
    compile: bool = True


def fixed_configurations(system: System, reference: Reference) -> tuple[torch.Tensor, torch.Tensor]:
    """CVs ``[points, 2]`` and positions ``[points, atoms, 3]`` whose energies the certificate states.

    At the lowest bin of every basin of the reference, with the fine-grained coordinates at their origin.
    """
    cvs, probability = system.cvs, reference.pmf.probability
    masks = [basin_mask(cvs, basin.contains) for basin in system.basins]
    lowest = [int(np.where(mask, probability, 0.0).argmax()) for mask in masks]
    s = torch.from_numpy(cvs.grid())[lowest]
    x, _ = system.coordinates.to_cartesian(s, torch.zeros(len(s), len(system.coordinates.names), dtype=torch.float64))
    return s, x


def _energies(system: System, certified: list[dict[str, Any]]) -> Check:
    """Energies of the certificate's configurations, which tell another force field, solvent or temperature at once."""
    s = torch.tensor([entry["cvs"] for entry in certified], dtype=torch.float64)
    x, _ = system.coordinates.to_cartesian(s, torch.zeros(len(s), len(system.coordinates.names), dtype=torch.float64))
    found = system.reduced_energy(x.to(system.device)).detach().cpu().numpy()
    expected = np.array([entry["reduced_energy"] for entry in certified])
    worst = int(np.abs(found - expected).argmax())
    return Check(
        "energies of fixed configurations",
        bool(np.abs(found - expected).max() < ENERGY_TOLERANCE),
        f"{len(s)} configurations, largest difference {found[worst] - expected[worst]:+.1e} kT, "
        f"{found[worst]:.4f} for {expected[worst]:.4f} kT",
    )


def flattening_bias(cvs: CollectiveVariables, probability: Array, order: int = 12) -> FourierBias:
    """A bias that makes a PMF flat up to `CUT`, from its probabilities over the grid."""
    energy = -np.log(np.maximum(probability / probability.max(), np.exp(-CUT)))
    return FourierBias.from_grid(cvs, -energy, order)


def relaxed(system: System, s: torch.Tensor, steps: int = 150, rate: float = 0.05) -> torch.Tensor:
    """Configurations at given CVs with the other coordinates near a minimum, from the Z-matrix alone."""
    coordinates: Coordinates = system.coordinates
    y = torch.zeros(len(s), len(coordinates.names), dtype=torch.float64, device=s.device, requires_grad=True)
    lowest = system.reduced_energy(system.initial_configuration()[None])
    optimiser = torch.optim.Adam([y], lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        x, _ = coordinates.to_cartesian(s, y)
        energy = system.reduced_energy(x)
        torch.log1p((energy - lowest + 20.0).clamp(min=0.0)).sum().backward()
        assert y.grad is not None
        y.grad.nan_to_num_()
        optimiser.step()
    with torch.no_grad():
        x, _ = coordinates.to_cartesian(s, y)
    return x.detach()


def verify(
    system: System,
    reference: Reference,
    sampling: Sampling,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> list[Check]:
    """Sample anew under a bias that the reference says is flattening, and compare.

    If the reference is right, walkers that start distributed as it predicts under the bias stay so, and the mean
    potential energy is the certified one. Errors come from the spread between walkers.

    Returns
    -------
    list of Check
        Energies of fixed configurations, state space, occupation of coarse cells, tilt along the PMF, mean energy.
    """
    began = time.monotonic()
    cvs, probability = system.cvs, reference.pmf.probability
    generator = torch.Generator().manual_seed(seed)
    bias = flattening_bias(cvs, probability)
    grid = torch.from_numpy(cvs.grid())
    expected = probability * np.exp(-bias.on_grid())
    expected /= expected.sum()
    drawn = torch.multinomial(torch.from_numpy(expected.ravel()), sampling.walkers, True, generator=generator)
    jitter = torch.rand(sampling.walkers, 2, generator=generator, dtype=torch.float64) - 0.5
    start = relaxed(system, (grid[drawn] + jitter * 2 * np.pi / cvs.bins[0]).to(system.device))
    if sampling.compile:
        system.compile()
    assert system.masses is not None
    evaluate = biased(bias, system.reduced_energy_and_gradient, system.collective_variables)
    dynamics = Langevin(
        evaluate,
        system.masses.to(system.device),
        system.temperature,
        time_step=TIME_STEP,
        friction=HEATING_FRICTION,
        positions=start.float(),
        generator=torch.Generator(device=system.device).manual_seed(seed + 1),
    )
    dynamics.step(sampling.equilibration)
    dynamics.set_friction(FRICTION)
    cells = (PER_SIDE, PER_SIDE)
    counts = np.zeros((sampling.walkers, PER_SIDE * PER_SIDE))
    energy, weight = np.zeros(sampling.walkers), np.zeros(sampling.walkers)
    rows, done = np.arange(sampling.walkers), 0
    while done < sampling.least or (done < sampling.steps and time.monotonic() - began < sampling.seconds):
        dynamics.step(sampling.stride)
        done += sampling.stride
        s, pull = evaluate.last
        index = cvs.bin_index(s.double().cpu().numpy())
        first, second = np.divmod(index, cvs.bins[1])
        cell = (first * PER_SIDE // cvs.bins[0]) * PER_SIDE + second * PER_SIDE // cvs.bins[1]
        counts[rows, cell] += 1
        factor = torch.exp(pull.double()).cpu().numpy()
        energy += factor * (dynamics.energies.double() - pull.double()).cpu().numpy()
        weight += factor
    log(f"sampled {sampling.walkers} walkers for {done} steps; {time.monotonic() - began:.0f} s in all")
    inside = system.coordinates.in_state_space(dynamics.positions)
    energies = reference.details.get("fixed_configurations")
    checks = [_energies(system, energies)] if energies is not None else []
    checks += [
        Check("state space", bool(inside.all()), f"{int((~inside).sum())} of {len(inside)} walkers outside it"),
        *_occupation(counts / counts.sum(1, keepdims=True), expected, probability, cells),
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


def _occupation(shares: Array, expected: Array, probability: Array, cells: tuple[int, int]) -> list[Check]:
    """Compare cells ``[walkers, cells]`` with their expectation, each alone and as a tilt along the PMF."""
    blocks = (cells[0], expected.shape[0] // cells[0], cells[1], expected.shape[1] // cells[1])
    predicted = expected.reshape(blocks).sum(axis=(1, 3)).ravel()
    populated = predicted > 2e-3
    error = shares.std(axis=0, ddof=1) / np.sqrt(len(shares))
    error = np.maximum(error, np.sqrt(predicted / len(shares)) / 5)
    z = ((shares.mean(0) - predicted) / error)[populated]
    free_energy = -np.log(probability / probability.max())
    mean_energy = (expected * np.minimum(free_energy, CUT)).reshape(blocks).sum(axis=(1, 3)).ravel() / predicted
    tilt = shares @ mean_energy
    target = float(predicted @ mean_energy)
    tilt_z = (tilt.mean() - target) / (tilt.std(ddof=1) / np.sqrt(len(tilt)))
    return [
        Check(
            "occupation of the torus",
            bool(np.abs(z).max() < LIMIT),
            f"{int(populated.sum())} cells, largest |z| {np.abs(z).max():.1f}, mean square {np.mean(z**2):.2f}",
        ),
        Check(
            "tilt along the PMF",
            bool(abs(tilt_z) < LIMIT),
            f"mean PMF under the bias {tilt.mean():.3f} kT, expected {target:.3f}, z = {tilt_z:+.1f}",
        ),
    ]
