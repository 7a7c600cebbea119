"""Sites of windows on a lattice over the domain of the collective variables (CVs), and their walkers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables

__all__ = ["Lattice", "Site", "allocate", "windows_to_open"]

Site = tuple[int, ...]  # in halves of the spacing; even numbers are lattice sites, odd ones are half-way between


class Lattice:
    """Sites of windows: the centres of equal cells, and the points half-way between two of them.

    Parameters
    ----------
    cvs
        The CVs and their domain.
    per_cv
        Number of cells along each CV.
    """

    def __init__(self, cvs: CollectiveVariables, per_cv: int) -> None:
        self.cvs, self.per_cv = cvs, per_cv
        self.spacing = [(high - low) / per_cv for low, high in zip(cvs.lower, cvs.upper, strict=True)]

    def centres(self, sites: Sequence[Site]) -> torch.Tensor:
        """Coordinates of sites, ``[sites, cvs]``, float64."""
        cells = torch.tensor(sites, dtype=torch.float64) / 2 + 0.5
        return torch.tensor(self.cvs.lower, dtype=torch.float64) + cells * torch.tensor(
            self.spacing, dtype=torch.float64
        )

    def nearest(self, s: Sequence[float]) -> Site:
        """Return the site of the cell that contains `s`, or of the nearest cell."""
        cells = [(value - low) / width for value, low, width in zip(s, self.cvs.lower, self.spacing, strict=True)]
        return tuple(2 * min(max(int(np.floor(cell)), 0), self.per_cv - 1) for cell in cells)

    def beside(self, site: Site) -> list[Site]:
        """Return the neighbouring sites along each CV; none for a half-way site."""
        if any(number % 2 for number in site):
            return []
        found = []
        for axis, step in itertools.product(range(len(site)), (-2, 2)):
            moved = self._inside((*site[:axis], site[axis] + step, *site[axis + 1 :]))
            if moved is not None:
                found.append(moved)
        return list(dict.fromkeys(found))  # two cells along a periodic CV are neighbours on both sides

    def midpoint(self, first: Site, second: Site) -> Site | None:
        """Return the site half-way between neighbours along one CV; None for any other pair."""
        difference = self._difference(first, second)
        if any(number % 2 for number in (*first, *second)) or sorted(map(abs, difference))[-2:] not in ([2], [0, 2]):
            return None
        return self._inside(tuple(a + d // 2 for a, d in zip(first, difference, strict=True)))

    def pairs(self, sites: Sequence[Site]) -> torch.Tensor:
        """Return the pairs of sites at most one spacing apart along every CV, ``[pairs, 2]``."""
        index = {site: number for number, site in enumerate(sites)}
        found = []
        for site, first in index.items():
            for shift in itertools.product(range(-2, 3), repeat=len(site)):
                moved = self._inside(tuple(a + d for a, d in zip(site, shift, strict=True)))
                second = index.get(moved, -1) if moved is not None else -1
                if first < second:
                    found.append([first, second])
        unique = sorted(set(map(tuple, found)))
        return torch.tensor(unique, dtype=torch.long).reshape(-1, 2)

    def _inside(self, site: Site) -> Site | None:
        wrapped = []
        for number, periodic in zip(site, self.cvs.periodic, strict=True):
            if not periodic and not 0 <= number <= 2 * (self.per_cv - 1):
                return None
            wrapped.append(number % (2 * self.per_cv) if periodic else number)
        return tuple(wrapped)

    def _difference(self, first: Site, second: Site) -> Site:
        around = 2 * self.per_cv
        return tuple(
            (b - a + self.per_cv) % around - self.per_cv if periodic else b - a
            for a, b, periodic in zip(first, second, self.cvs.periodic, strict=True)
        )


def windows_to_open(
    lattice: Lattice,
    sites: Sequence[Site],
    above: NDArray[np.float64],
    pairs: torch.Tensor,
    overlaps: NDArray[np.float64],
    *,
    cutoff: float,
    least_overlap: float,
) -> list[tuple[Site, int]]:
    """Choose windows to open: next to all low windows, lowest first, then between neighbours with little overlap.

    Parameters
    ----------
    lattice
        Possible sites of windows.
    sites
        Sites of the open windows.
    above
        Free energies of their cells in kT, relative to the lowest.
    pairs
        Pairs of neighbours among them, ``[pairs, 2]``.
    overlaps
        Overlap of each pair.
    cutoff
        Free energy in kT above which no window is opened.
    least_overlap
        Neighbours with less overlap get a window between them.

    Returns
    -------
    list
        Sites, each with the number of the window to start from.
    """
    wanted: dict[Site, int] = {}
    for number in np.argsort(above, kind="stable"):
        if above[number] <= cutoff:
            for site in lattice.beside(sites[number]):
                wanted.setdefault(site, int(number))
    for (first, second), overlap in zip(pairs.tolist(), overlaps, strict=True):
        between = lattice.midpoint(sites[first], sites[second])
        low = max(above[first], above[second]) <= cutoff
        if between is not None and low and overlap < least_overlap:
            wanted.setdefault(between, first)
    opened = set(sites)
    return [(site, parent) for site, parent in wanted.items() if site not in opened]


def allocate(free_energy: NDArray[np.float64], walkers: int) -> NDArray[np.int64]:
    """Distribute walkers over windows: half of them evenly, half by the square root of the windows' populations.

    Sampling noise causes a forward KLD of about ``sum_b p_b / n_b`` over bins of probability p with n samples. For a
    given total it is smallest if n is proportional to the square root of p. But the populations of basins depend on
    the windows between them, which are rarely populated; hence the even half.

    Parameters
    ----------
    free_energy
        Free energies of the windows in kT.
    walkers
        Number of walkers; every window gets at least one even if there are fewer walkers than windows.

    Returns
    -------
    numbers
        Walkers of each window; their sum is `walkers`, or the number of windows if that is larger.
    """
    root = np.exp(-0.5 * (free_energy - free_energy.min()))
    share = np.maximum(0.5 * walkers * (1.0 / len(root) + root / root.sum()) - 1.0, 0.0)
    spare = max(0, walkers - len(share))
    wanted = spare * share / max(share.sum(), 1e-300)
    extra = np.floor(wanted).astype(np.int64)
    left = spare - int(extra.sum())
    extra[np.argsort(extra - wanted, kind="stable")[:left]] += 1
    numbers: NDArray[np.int64] = 1 + extra
    return numbers
