"""Search for harmonic minima, outwards from the initial configuration.

If there are free torsions, their wells are found first, and every reference point has a minimum in each well.
`placement` chooses new reference points from a Gaussian-process model of the harmonic PMF. Each is relaxed from the
nearest minimum known so far, of the same well.
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
from cgbench_methods.cgflow.common.stages import Stages
from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima
from cgbench_methods.cgflow.harmonic.atlas.placement import Placement
from cgbench_methods.cgflow.harmonic.atlas.wells import Wells, WellTarget, find_wells
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["GrowingMinima", "MinimaSearch"]

IDLE_EXTENSIONS = 5  # consecutive extensions without a new minimum after which the search ends


class GrowingMinima(ABC):
    """A growing set of harmonic minima, each found from the nearest one before.

    Subclasses choose the points.

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
        """Search to the end; yield the number of minima after each extension.

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
        self._fit_model()

    def extend(self, s: torch.Tensor) -> int:
        """Find minima at ``s [n, cvs]``, in each well, and add them; return the number of new minima."""
        if self.wells is None:
            points = s
            distance = self.cvs.difference(s[:, None], self.minima.s[None]).norm(dim=2)
        else:
            points = self.wells.points(s)
            distance = self.cvs.difference(points[:, None, :-1], self.minima.s[None, :, :-1]).norm(dim=2)
            distance[points[:, None, -1] != self.minima.s[None, :, -1]] = torch.inf
        nearest = distance.argmin(dim=1)
        new = self._find(points, self.minima.y[nearest], self.minima.hessian[nearest])
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
        lowest = lowest.scatter_reduce(0, group, energy, "amin")
        return energy < lowest[group] + self.recipe.wells.margin

    def free_energies(self) -> torch.Tensor:
        """Return the harmonic PMF at the reference points ``[n]``: ``-ln sum_k exp(-A_k)`` over the wells."""
        values = self.minima.free_energy
        if self.wells is None:
            return values
        _, group = self.minima.s[:, :-1].unique_consecutive(dim=0, return_inverse=True)
        lowest = torch.full((int(group.max()) + 1,), torch.inf, dtype=values.dtype)
        lowest = lowest.scatter_reduce(0, group, values, "amin")
        weights = torch.exp(lowest[group] - values)
        return lowest - torch.zeros_like(lowest).index_add_(0, group, weights).log()


class MinimaSearch(GrowingMinima):
    """Harmonic minima over at most three CVs, placed by a Gaussian-process model on a grid.

    Parameters
    ----------
    problem, cvs, target, config, streams
        As for `GrowingMinima`.
    stages
        Collects the model at every choice of new points, for figures.

    Attributes
    ----------
    model
        Gaussian-process model of the harmonic PMF; fitted to all minima at the end of `grow`.
    """

    def __init__(
        self,
        problem: Problem,
        cvs: CollectiveVariables,
        target: ConditionalTarget,
        config: HarmonicConfig,
        stages: Stages,
        streams: Streams,
    ) -> None:
        super().__init__(problem, cvs, target, config, streams)
        self.stages = stages
        self.model = FourierSurrogate(self.cvs, config.surrogate.order, self.config.length_scale, self.config.amplitude)
        self.placement = Placement(self.cvs, self.model, config, streams)

    @property
    def largest(self) -> int:
        """Largest number of reference points."""
        return self.placement.largest

    def _fit_model(self) -> None:
        free_energy = self.free_energies()
        values = (free_energy - free_energy.min()).clamp(max=self.config.ceiling)
        noise = torch.full_like(values, self.config.noise)
        self.model.fit_values(self.points, values, noise)

    def _choose(self) -> torch.Tensor:
        """Choose new reference points."""
        if self.config.grid is not None:
            return self.placement.choose(self.points, self.free_energies())
        self._fit_model()
        chosen = self.placement.choose(self.points, self.free_energies())
        mean, std = self.model.on_grid()
        self.stages.add("atlas", self.problem.evaluations, mean, std, self.config.threshold, chosen)
        return chosen
