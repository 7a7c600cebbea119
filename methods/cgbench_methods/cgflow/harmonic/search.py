"""How the harmonic atlas spreads from the one minimum: to where its model is uncertain, or over a regular grid."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.design import regular_grid
from cgbench_methods.cgflow.common.exploration import farthest_points, walk
from cgbench_methods.cgflow.common.stages import Stages
from cgbench_methods.cgflow.harmonic.config import AtlasConfig
from cgbench_methods.cgflow.harmonic.minima import HarmonicMinima
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["MinimaSearch"]

IDLE_EXTENSIONS = 5  # of the atlas, one after the other, that no point survived; then it grows no more


class MinimaSearch:
    """Grows an atlas, each new point relaxed from the nearest that is charted already.

    Parameters
    ----------
    problem
        Says where to start, and is told of points that could not be charted.
    target
        The energy that points are relaxed in.
    config
        Settings of the search.
    order
        Largest wave number of the model along each CV.
    stages
        Told of every choice of new points by the model.
    streams
        As for `cgbench.contracts.method.Method`.

    Attributes
    ----------
    minima
        The points so far.
    model
        The PMF fitted to the atlas's harmonic free energies, up to date once `grow` is through.
    """

    def __init__(
        self,
        problem: Problem,
        target: ConditionalTarget,
        config: AtlasConfig,
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
        """Grow to the end; yields the number of points after each extension.

        Raises
        ------
        ValueError
            If the initial configuration cannot be charted.
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
        """Chart points ``[n, cvs]``; says how many of them are in the atlas now."""
        distance = self.cvs.difference(s[:, None], self.minima.s[None]).norm(dim=2)
        parent = distance.argmin(dim=1)
        new = self._chart(s, self.minima.y[parent], self.minima.hessian[parent])
        self.minima = self.minima.append(new)
        return len(new)

    def _start(self) -> None:
        s, y, _ = self.target.coordinates.to_internal(self.problem.initial_configuration()[None].double().cpu())
        unit = torch.eye(self.target.size, dtype=torch.float64)[None]
        self.minima = self._chart(s, y, unit)
        if not len(self.minima):
            raise ValueError(
                "no atlas can grow: the energy of the initial configuration, or its Hessian, is not finite "
                "(nonfinite_energy)"
            )

    def _chart(self, s: torch.Tensor, y: torch.Tensor, hessian: torch.Tensor) -> HarmonicMinima:
        config = self.config
        charted = HarmonicMinima.chart(
            self.target,
            s,
            y,
            hessian,
            steps=config.relax_steps,
            tolerance=config.relax_tolerance,
            stiffness_floor=config.stiffness_floor,
        )
        self.problem.report_anomaly("unusable_sample", len(s) - len(charted), len(s))
        return charted

    def _fit_model(self) -> None:
        values = (self.minima.free_energy - self.minima.free_energy.min()).clamp(max=self.config.ceiling)
        noise = torch.full_like(values, self.config.noise)
        self.model.fit_values(self.minima.s, values, noise)

    def _uncertain_points(self) -> torch.Tensor:
        """Points that walkers on the model found uncertain, far from each other and from the charted ones."""
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
        """Nodes of the regular grid not yet charted, those within reach of charted points first."""
        offsets = [0.0 if periodic else 0.5 for periodic in self.cvs.periodic]
        nodes = regular_grid(self.cvs, points, offsets)
        spacing = torch.tensor(
            [(high - low) / points for low, high in zip(self.cvs.lower, self.cvs.upper, strict=True)],
            dtype=torch.float64,
        )
        away = (self.cvs.difference(nodes[:, None], self.minima.s[None]) / spacing).norm(dim=2)
        charted = (away[:, 1:] < 1e-6).any(dim=1)
        reach = away.min(dim=1).values.masked_fill(charted, torch.inf)
        order = reach.argsort(stable=True)[: self.config.max_points - len(self.minima)]
        order = order[reach[order] < 1.05]
        return nodes[order]
