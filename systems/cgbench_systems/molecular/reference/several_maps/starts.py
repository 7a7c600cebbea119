"""Starting configurations spread over all conformations of a molecule."""

from __future__ import annotations

import math

import torch

from cgbench.contracts.system import System
from cgbench_systems.molecular.reference.side_chains.torsions import SideTorsions

__all__ = ["spread_starts"]

CANDIDATES = 4  # for each start that is kept
BATCH = 1024


def spread_starts(system: System, torsions: SideTorsions, count: int, seed: int) -> torch.Tensor:
    """Return configurations with random torsions, relaxed at these; those of lowest energy among several times as many.

    The starts know nothing of the populations that are to be found: walkers that agree in the end have mixed.

    Parameters
    ----------
    system, torsions
        The molecule, and its free torsions that are no collective variables.
    count
        Number of configurations.
    seed
        Seed of the torsions.

    Returns
    -------
    positions
        ``[count, atoms, 3]`` in nm.
    """
    generator = torch.Generator().manual_seed(seed)
    s = torch.rand(CANDIDATES * count, len(system.cvs), generator=generator, dtype=torch.float64)
    s = (2 * math.pi * s - math.pi).to(system.device)
    relaxed = [torsions.starts(part, seed + number) for number, part in enumerate(s.split(BATCH))]
    positions = torch.cat(relaxed)
    energies = torch.cat([system.reduced_energy_and_gradient(part)[0] for part in positions.split(BATCH)])
    inside = system.coordinates.in_state_space(positions) & energies.isfinite()
    order = torch.where(inside, energies, torch.inf).argsort()
    return positions[order[:count]]
