"""Search for harmonic minima, outwards from the initial configuration.

New reference points are where a Gaussian-process model of the harmonic PMF is uncertain (active learning), or the
neighbouring nodes of a regular grid (grid conditioning). Each is relaxed from the nearest minimum known so far.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.design import regular_grid
from cgbench_methods.cgflow.common.exploration import farthest_points, walk
from cgbench_methods.cgflow.common.stages import Stages
from cgbench_methods.cgflow.harmonic.config import MinimaConfig
from cgbench_methods.cgflow.harmonic.minima import HarmonicMinima
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["MinimaSearch"]

IDLE_EXTENSIONS = 5  # consecutive extensions without a new minimum after which the search ends
REACH = 1.05  # spacings; a node of the grid is relaxed once a reference point is this near


class MinimaSearch:
    """A growing set of harmonic minima, each found from the nearest one before.

    Parameters
    ----------
    problem
        Gives the initial configuration, and counts points that could not be relaxed.
    target
        The energy to minimise.
    config
        Settings of the search.
    order
        Largest wave number of the model along each CV.
    stages
        Collects the model at every choice of new points, for figures.
    streams
        As for `cgbench.contracts.method.Method`.

    Attributes
    ----------
    minima
        The harmonic minima found so far.
    model
        Gaussian-process model of the harmonic PMF; fitted to all minima at the end of `grow`.
    """

    def __init__(
        self,
        problem: Problem,
        target: ConditionalTarget,
        config: MinimaConfig,
        order: int,
        stages: Stages,
        streams: Streams,
    ) -> None:
        self.problem, self.target, self.config = problem, target, config
        self.stages, self.streams = stages, streams
        self.cvs = problem.cvs
        self.minima = HarmonicMinima.empty(len(self.cvs), target.size)
        self.model = FourierSurrogate(self.cvs, order, config.length_scale, config.amplitude)

    def grow(self) -> Iterator[int]:
        """Search to the end; yield the number of minima after each extension.

        Raises
        ------
        ValueError
            If the initial configuration has no finite energy and Hessian.
        """
        self._start()
        idle = 0
        while len(self.minima) < self.config.max_points and idle < IDLE_EXTENSIONS:
            chosen = self._uncertain_points() if self.config.grid is None else self._grid_neighbours(self.config.grid)
            if len(chosen) == 0:
                break
            idle = 0 if self.extend(chosen) else idle + 1
            yield len(self.minima)
        self._fit_model()

    def extend(self, s: torch.Tensor) -> int:
        """Find minima at points ``[n, cvs]`` and add them; return the number of new minima."""
        distance = self.cvs.difference(s[:, None], self.minima.s[None]).norm(dim=2)
        nearest = distance.argmin(dim=1)
        new = self._find(s, self.minima.y[nearest], self.minima.hessian[nearest])
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
        )
        self.problem.report_anomaly("unusable_sample", len(s) - len(found), len(s))
        return found

    def _fit_model(self) -> None:
        values = (self.minima.free_energy - self.minima.free_energy.min()).clamp(max=self.config.ceiling)
        noise = torch.full_like(values, self.config.noise)
        self.model.fit_values(self.minima.s, values, noise)

    def _uncertain_points(self) -> torch.Tensor:
        """Choose points where walkers found the model uncertain, far from each other and from the reference points."""
        config = self.config
        self._fit_model()
        generator = self.streams.torch("atlas walk")
        low = (self.minima.free_energy - self.minima.free_energy.min() < config.ceiling).nonzero().squeeze(1)
        start = low[torch.randint(len(low), (config.walkers,), generator=generator)]
        outcome = walk(
            self.cvs,
            self.model.table(),
            self.minima.s[start],
            generator,
            step=config.walk_step,
            threshold=config.threshold,
            max_steps=config.walk_steps,
            wanted=2 * config.batch,
            temperature_factor=config.temperature_factor,
        )
        candidates = outcome.positions[outcome.stopped]
        count = min(config.batch, config.max_points - len(self.minima))
        chosen = candidates[farthest_points(self.cvs, candidates, count, self.minima.s, config.min_distance)]
        mean, std = self.model.on_grid()
        self.stages.add("atlas", self.problem.evaluations, mean, std, config.threshold, chosen)
        return chosen

    def _grid_neighbours(self, points: int) -> torch.Tensor:
        """Choose new nodes of the regular grid within reach of a reference point, nearest first."""
        offsets = [0.0 if periodic else 0.5 for periodic in self.cvs.periodic]
        nodes = regular_grid(self.cvs, points, offsets)
        spacing = torch.tensor(
            [(high - low) / points for low, high in zip(self.cvs.lower, self.cvs.upper, strict=True)],
            dtype=torch.float64,
        )
        away = (self.cvs.difference(nodes[:, None], self.minima.s[None]) / spacing).norm(dim=2)
        known = (away[:, 1:] < 1e-6).any(dim=1)  # the first reference point is no node
        distance = away.min(dim=1).values.masked_fill(known, torch.inf)
        order = distance.argsort(stable=True)[: self.config.max_points - len(self.minima)]
        order = order[distance[order] < REACH]
        return nodes[order]
