"""Equilibrium configurations that full densities are scored on."""

from __future__ import annotations

import numpy as np
import torch

from cgbench.contracts.reference import Reference
from cgbench.contracts.system import System
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_systems.molecular.reference.route import FRICTION, TIME_STEP
from cgbench_systems.molecular.reference.verify import HEATING_FRICTION, relaxed

__all__ = ["equilibrium_samples"]


def equilibrium_samples(
    system: System, reference: Reference, count: int = 2000, heating: int = 2000, steps: int = 4000, seed: int = 0
) -> torch.Tensor:
    """One configuration each of many walkers that start distributed as the reference says.

    The collective variables are drawn from the certified PMF, the other coordinates relax near a minimum, are
    heated with strong friction and go on under plain dynamics: no barrier has to be crossed, since every basin
    holds its share of walkers from the start.

    Returns
    -------
    positions
        ``[count, atoms, 3]`` in nm, float32.
    """
    cvs, probability = system.cvs, reference.pmf.probability
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(torch.from_numpy(probability.ravel()), count, True, generator=generator)
    jitter = torch.rand(count, len(cvs), generator=generator, dtype=torch.float64) - 0.5
    width = torch.from_numpy((np.array(cvs.upper) - np.array(cvs.lower)) / np.array(cvs.bins))
    start = relaxed(system, torch.from_numpy(cvs.grid())[drawn] + jitter * width)
    assert system.masses is not None
    dynamics = Langevin(
        system.reduced_energy_and_gradient,
        system.masses,
        system.temperature,
        time_step=TIME_STEP,
        friction=HEATING_FRICTION,
        positions=start.float(),
        generator=torch.Generator().manual_seed(seed + 1),
    )
    dynamics.step(heating)
    dynamics.set_friction(FRICTION)
    dynamics.step(steps)
    return dynamics.positions
