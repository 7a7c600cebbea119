"""Draw the equilibrium configurations on which the full densities of generative methods are scored."""

from __future__ import annotations

import numpy as np
import torch

from cgbench.contracts.reference import Reference
from cgbench.contracts.system import System
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_systems.molecular.reference.configurations import HEATING_FRICTION, relaxed
from cgbench_systems.molecular.reference.route import FRICTION, TIME_STEP
from cgbench_systems.molecular.reference.side_chains.torsions import SideTorsions
from cgbench_systems.molecular.reference.verify import Flattened, Sampling

__all__ = ["equilibrium_samples"]

INTERVAL = 25  # strides between two snapshots of the walkers under a flattening bias


def equilibrium_samples(
    system: System,
    reference: Reference,
    count: int = 2000,
    heating: int = 2000,
    steps: int = 4000,
    flattened: Sampling | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Return the last configurations of many walkers that start from the reference distribution.

    The collective variables are drawn from the certified PMF and the other coordinates relaxed to near a minimum. The
    walkers are then heated with strong friction and sampled by unbiased MD. No barrier has to be crossed, since
    every basin has its share of walkers from the start.

    A molecule with side-chain torsions starts from configurations that are drawn by their weights from walkers under a
    flattening bias (`Flattened`), because only these have the right rotamers.

    Parameters
    ----------
    system, reference
        The molecule and its certified reference.
    count
        Number of configurations.
    heating, steps
        Steps with strong friction, and steps after them.
    flattened
        Amount of sampling under the flattening bias; its `seconds` and `least` have no meaning here.
    seed
        Seed of the starts and of the dynamics.

    Returns
    -------
    positions
        ``[count, atoms, 3]`` in nm, float32.
    """
    if SideTorsions(system).atoms:
        start = _flattened_starts(system, reference, count, flattened or Sampling(compile=False), seed)
    else:
        start = _relaxed_starts(system, reference, count, seed)
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


def _relaxed_starts(system: System, reference: Reference, count: int, seed: int) -> torch.Tensor:
    """Draw CVs from the PMF and relax the other coordinates, ``[count, atoms, 3]``."""
    cvs, probability = system.cvs, reference.pmf.probability
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(torch.from_numpy(probability.ravel()), count, True, generator=generator)
    jitter = torch.rand(count, len(cvs), generator=generator, dtype=torch.float64) - 0.5
    width = torch.from_numpy((np.array(cvs.upper) - np.array(cvs.lower)) / np.array(cvs.bins))
    return relaxed(system, torch.from_numpy(cvs.grid())[drawn] + jitter * width)


def _flattened_starts(system: System, reference: Reference, count: int, sampling: Sampling, seed: int) -> torch.Tensor:
    """Draw configurations of walkers under a flattening bias by their equilibrium weights, ``[count, atoms, 3]``."""
    flattened = Flattened(system, reference, sampling, seed)
    positions, biases = [], []
    interval = INTERVAL * sampling.stride
    for _ in range(sampling.steps // interval):
        positions.append(flattened.dynamics.positions)
        _, bias, _ = flattened.sample(1)  # describes the configurations before the step
        biases.append(bias)
        flattened.dynamics.step(interval - 1)
    weights = torch.from_numpy(np.exp(np.concatenate(biases) - np.max(biases)))
    drawn = torch.multinomial(weights, count, True, generator=torch.Generator().manual_seed(seed))
    return torch.cat(positions)[drawn]
