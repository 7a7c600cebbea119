"""Choice of the values of s to sample: regular grids, regions of low PMF, neighbourhoods of given points."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.cgflow.common.exploration import broaden

__all__ = ["draw_around", "draw_in_cells", "draw_where_low", "low_density", "regular_grid"]


def regular_grid(cvs: CollectiveVariables, points: int, offsets: Sequence[float]) -> torch.Tensor:
    """Return the nodes of a regular grid over the domain, ``[nodes, cvs]``.

    Parameters
    ----------
    points
        Nodes along each CV.
    offsets
        Distance of the first node from the lower bound of each CV, in spacings.
    """
    axes = [
        low + (high - low) * (torch.arange(points, dtype=torch.float64) + offset) / points
        for low, high, offset in zip(cvs.lower, cvs.upper, offsets, strict=True)
    ]
    return torch.cartesian_prod(*axes).reshape(-1, len(cvs))


def draw_around(
    cvs: CollectiveVariables, points: torch.Tensor, radius: float | torch.Tensor, count: int, generator: torch.Generator
) -> torch.Tensor:
    """Draw `count` values of s within `radius` of the points, about equally many around each; ``[count, cvs]``.

    `radius` is a number, or has one entry per CV ``[cvs]``.
    """
    each = -(-count // len(points))
    around = broaden(cvs, points, radius, each, generator)
    return around[torch.randperm(len(around), generator=generator)[:count]]


def draw_where_low(
    cvs: CollectiveVariables,
    free_energy: torch.Tensor,
    count: int,
    generator: torch.Generator,
    *,
    softness: float,
    ceiling: float,
    uniform_share: float,
) -> torch.Tensor:
    """Draw values of s where the PMF A is low.

    The density is a mixture, ``(1 - uniform_share) exp(-A / softness) / Z + uniform_share / V``, on the region where A
    is below `ceiling`, and zero elsewhere.

    Parameters
    ----------
    free_energy
        A in kT at the centres of the PMF's bins ``[cells]``, up to a constant.
    count
        Number of values.
    softness
        In kT.
    ceiling
        In kT, above the lowest value of A.
    uniform_share
        Share of the uniform density.

    Returns
    -------
    torch.Tensor
        ``[count, cvs]``, uniform within each bin.
    """
    density = low_density(free_energy, softness=softness, ceiling=ceiling, uniform_share=uniform_share)
    return draw_in_cells(cvs, density, count, generator)[0]


def low_density(free_energy: torch.Tensor, *, softness: float, ceiling: float, uniform_share: float) -> torch.Tensor:
    """Return the probability of each cell in `draw_where_low`, ``[cells]``."""
    above = free_energy - free_energy.min()
    density = torch.exp(-above / softness) * (above < ceiling)
    density = density / density.sum()
    flat = (above < ceiling).double()
    return (1 - uniform_share) * density + uniform_share * flat / flat.sum()


def draw_in_cells(
    cvs: CollectiveVariables, density: torch.Tensor, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw values of s uniform within cells of the grid; return them ``[count, cvs]`` and their cells ``[count]``.

    Parameters
    ----------
    density
        Probability of each cell ``[cells]``, up to a factor.
    """
    cells = torch.multinomial(density, count, replacement=True, generator=generator)
    width = torch.tensor(
        [(high - low) / bins for low, high, bins in zip(cvs.lower, cvs.upper, cvs.bins, strict=True)],
        dtype=torch.float64,
    )
    jitter = torch.rand(count, len(cvs), generator=generator, dtype=torch.float64) - 0.5
    return torch.from_numpy(cvs.grid())[cells] + jitter * width, cells
