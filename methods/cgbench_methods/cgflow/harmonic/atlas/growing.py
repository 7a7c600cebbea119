"""A growing set of harmonic minima, outwards from the initial configuration.

If there are free torsions, their wells are found first, and every reference point has a minimum in each well. Each new
point is relaxed from the nearest minima known so far, of the same well.

A scan that starts each point from one neighbour has hysteresis: where the coordinates y have several minima, or a
relaxation leaves its well, the wrong minimum is handed on from point to point. Points therefore relax from several
starts, and the lowest minimum is kept. In the end each point is relaxed again from its neighbours, until nothing
becomes lower.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch

from cgbench.contracts.coordinates import free_torsions
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.design import regular_grid
from cgbench_methods.cgflow.common.exploration import farthest_points
from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima
from cgbench_methods.cgflow.harmonic.atlas.rotamers import find_wells
from cgbench_methods.cgflow.harmonic.atlas.starts import (
    Start,
    cost_of,
    distances,
    lowest,
    neighbours,
    turned_lowest,
)
from cgbench_methods.cgflow.harmonic.atlas.wells import Wells, WellTarget
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["GrowingMinima"]

IDLE_EXTENSIONS = 5  # consecutive extensions without a new minimum after which the search ends
NEIGHBOURS = 2  # nearest minima of the same well that a point is relaxed from; in the end as many as CVs, if more
AT_ONCE = 256  # points that are relaxed again together, because their Hessians take memory
SWEEPS = 3  # largest number of times that all points are relaxed again in the end
LOWER = 0.5  # kT; a minimum that is lower by more replaces the one before


class GrowingMinima(ABC):
    """A growing set of harmonic minima, each found from the nearest ones before.

    Subclasses choose the points, and may lead y to a new point in steps of s (`_carried`).

    Parameters
    ----------
    problem
        Gives the initial configuration, and counts points that could not be relaxed.
    cvs
        The CVs with the grid of the model.
    target
        The energy to minimise.
    config
        Settings of the recipe.
    streams
        As for `cgbench.contracts.method.Method`.

    Attributes
    ----------
    minima
        The harmonic minima found so far.
    wells
        Wells of the free torsions; None before the search, and for molecules without free torsions.
    """

    def __init__(
        self,
        problem: Problem,
        cvs: CollectiveVariables,
        target: ConditionalTarget,
        config: HarmonicConfig,
        streams: Streams,
    ) -> None:
        self.problem, self.target, self.config, self.recipe = problem, target, config.atlas, config
        self.streams, self.cvs = streams, cvs
        self.minima = HarmonicMinima.empty(len(self.cvs), target.size)
        self.wells: Wells | None = None

    @property
    @abstractmethod
    def largest(self) -> int:
        """Largest number of reference points."""

    @abstractmethod
    def _choose(self) -> torch.Tensor:
        """Choose new reference points."""

    @abstractmethod
    def _fit_model(self) -> None:
        """Fit the model of the harmonic PMF to all minima."""

    @property
    def points(self) -> torch.Tensor:
        """The reference points ``[n, cvs]``, each once."""
        if self.wells is None:
            return self.minima.s
        points: torch.Tensor = self.minima.s[:, :-1].unique_consecutive(dim=0)
        return points

    def set_wells(self, wells: Wells) -> None:
        """Split the target into wells; minima are then at points ``(s, k)``."""
        self.wells, self.target = wells, WellTarget(self.target, wells)

    def grow(self) -> Iterator[int]:
        """Search to the end, then settle the minima; yield the number of minima after each extension.

        Raises
        ------
        ValueError
            If the initial configuration has no finite energy and Hessian.
        """
        self._start()
        idle = 0
        while len(self.points) < self.largest and idle < IDLE_EXTENSIONS:
            chosen = self._choose()
            if len(chosen) == 0:
                break
            idle = 0 if self.extend(chosen) else idle + 1
            yield len(self.points)
        self._settle()
        self._fit_model()

    def extend(self, s: torch.Tensor) -> int:
        """Find minima at ``s [n, cvs]``, in each well, and add them; return the number of new minima."""
        points = s if self.wells is None else self.wells.points(s)
        y, hessian, _ = lowest(self.target, points, self._starts(points), self.config, self.wells)
        new = self._find(points, y, hessian)
        self.minima = self.minima.append(new)
        return len(new)

    def _start(self) -> None:
        """Find the minimum at the s of the initial configuration."""
        s, y, _ = self.target.coordinates.to_internal(self.problem.initial_configuration()[None].double().cpu())
        unit = torch.eye(self.target.size, dtype=torch.float64)[None]
        self.minima = self._find(s, y, unit)
        if not len(self.minima):
            raise ValueError(
                "the search for harmonic minima cannot start: the energy of the initial configuration, or its Hessian, "
                "is not finite (nonfinite_energy)"
            )
        if len(free_torsions(self.target.coordinates)):
            self._find_wells()

    def _find_wells(self) -> None:
        """Find the wells of the free torsions, and the minimum in each well at the s of the first minimum."""
        s, y, hessian = self.minima.s, self.minima.y[0], self.minima.hessian[0]
        generator = self.streams.torch("wells")
        count = self.recipe.wells.search_points
        nodes = regular_grid(self.cvs, 3, [0.5] * len(self.cvs)) if len(self.cvs) <= 3 else self._random(generator)
        spread = nodes[farthest_points(self.cvs, nodes, count - 1, s)]
        wells = find_wells(self.target, torch.cat([s, spread]), y, hessian, self.recipe, generator)
        self.set_wells(wells)
        start = y.repeat(len(wells), 1)
        start[:, wells.positions] = wells.centres
        self.minima = HarmonicMinima.empty(len(self.cvs) + 1, self.target.size)
        self.minima = self._find(wells.points(s), start, hessian.repeat(len(wells), 1, 1))

    def _random(self, generator: torch.Generator) -> torch.Tensor:
        """Return points that are uniform over the domain ``[n, cvs]``."""
        uniform = torch.rand(256, len(self.cvs), generator=generator, dtype=torch.float64)
        low, high = (torch.tensor(bound, dtype=torch.float64) for bound in (self.cvs.lower, self.cvs.upper))
        return low + (high - low) * uniform

    def _find(self, s: torch.Tensor, y: torch.Tensor, hessian: torch.Tensor) -> HarmonicMinima:
        """Find minima from given starts, and count points that failed."""
        config = self.config
        found = HarmonicMinima.find(
            self.target,
            s,
            y,
            hessian,
            steps=config.relax_steps,
            tolerance=config.relax_tolerance,
            stiffness_floor=config.stiffness_floor,
            relevant=None if self.wells is None else self._relevant,
        )
        self.problem.report_anomaly("unusable_sample", len(s) - len(found), len(s))
        return found

    def _relevant(self, points: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
        """Tell which minima are low enough among those of all wells at the same s, boolean ``[n]``."""
        _, group = points[:, :-1].unique_consecutive(dim=0, return_inverse=True)
        lowest = torch.full((int(group.max()) + 1,), torch.inf, dtype=energy.dtype)
        lowest = lowest.scatter_reduce(0, group, energy, "amin")[group]
        if len(self.minima):
            same = (points[:, None, :-1] == self.minima.s[None, :, :-1]).all(dim=2)
            known = torch.where(same, self.minima.energy, torch.inf).min(dim=1).values
            lowest = torch.minimum(lowest, known)
        return energy < lowest + self.recipe.wells.margin

    def _settle(self) -> None:
        """Relax each point from its neighbours' minima; replace minima that are higher, until there are none."""
        changed = torch.ones(len(self.minima), dtype=torch.bool)
        for _ in range(SWEEPS):
            # as many as CVs: around a point there are more directions to come from
            nearest = neighbours(self.cvs, self.minima.s, max(NEIGHBOURS, len(self.cvs)))
            useful = (nearest >= 0) & changed[nearest]
            changed = torch.zeros_like(changed)
            for rows in useful.any(dim=1).nonzero().squeeze(1).split(AT_ONCE):
                if len(rows):
                    changed[self._settle_some(rows, nearest[rows])] = True
            if not bool(changed.any()):
                return

    def _settle_some(self, rows: torch.Tensor, nearest: torch.Tensor) -> torch.Tensor:
        """Relax some minima from their neighbours ``[n, neighbours]``; return the numbers of those replaced."""
        s = self.minima.s[rows]
        known = torch.where(nearest >= 0, nearest, rows[:, None])  # without a neighbour, from itself
        starts = [(self._carried(s, one), self.minima.hessian[rows]) for one in known.T]
        y, hessian, cost = lowest(self.target, s, starts, self.config, self.wells)
        lower = cost < cost_of(self.wells, s, self.minima.y[rows], self.minima.energy[rows]) - LOWER
        if not bool(lower.any()):
            return rows[:0]
        found = self._find(s[lower], y[lower], hessian[lower])
        same = (found.s[:, None] == s[None]).all(dim=2).double().argmax(dim=1)  # some may have been left out
        for tensor, of_found in zip(self.minima.tensors(), found.tensors(), strict=True):
            tensor[rows[same]] = of_found
        return rows[same]

    def _carried(self, points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the coordinates y that the relaxation at each point starts with, from one minimum for each.

        Parameters
        ----------
        points
            ``[n, cvs]``; with wells ``[n, cvs + 1]``.
        rows
            Numbers of the minima ``[n]``.
        """
        return self.minima.y[rows]

    def _starts(self, points: torch.Tensor) -> list[Start]:
        """Return the nearest minima as starts, and with wells the lowest at the nearest s, turned."""
        order = distances(self.cvs, points, self.minima.s).argsort(dim=1, stable=True)[:, :NEIGHBOURS]
        starts = [(self._carried(points, one), self.minima.hessian[one]) for one in order.T]
        if self.wells is not None:
            starts.append(turned_lowest(self.cvs, self.minima, self.wells, points))
        return starts

    def free_energies(self) -> torch.Tensor:
        """Return the harmonic PMF at the reference points ``[n]``: ``-ln sum_k exp(-A_k)`` over the wells."""
        values = self.minima.free_energy
        if self.wells is None:
            return values
        group, lowest = self._lowest_of_points()
        weights = torch.exp(lowest[group] - values)
        return lowest - torch.zeros_like(lowest).index_add_(0, group, weights).log()

    @property
    def level(self) -> float:
        """Lowest value of the harmonic PMF at the reference points: its model holds the PMF above this value."""
        return float(self.free_energies().min())

    def slopes(self) -> torch.Tensor:
        """Return the slopes of the harmonic PMF without its entropy ``[n, cvs]``: means over the wells."""
        slopes = self.minima.slope[:, : len(self.cvs)]
        if self.wells is None:
            return slopes
        group, lowest = self._lowest_of_points()
        weights = torch.exp(lowest[group] - self.minima.free_energy)
        total = torch.zeros_like(lowest).index_add_(0, group, weights)
        summed = slopes.new_zeros(len(lowest), slopes.shape[1]).index_add_(0, group, weights[:, None] * slopes)
        return summed / total[:, None]

    def _lowest_of_points(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the number of each minimum's reference point, and the lowest free energy of each such point."""
        values = self.minima.free_energy
        _, group = self.minima.s[:, :-1].unique_consecutive(dim=0, return_inverse=True)
        lowest = torch.full((int(group.max()) + 1,), torch.inf, dtype=values.dtype)
        return group, lowest.scatter_reduce(0, group, values, "amin")
