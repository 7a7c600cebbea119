"""Search for harmonic minima over at most three collective variables (CVs), on a grid.

`placement` chooses new reference points from a Gaussian-process model of the harmonic PMF.
"""

from __future__ import annotations

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.stages import Stages
from cgbench_methods.cgflow.harmonic.atlas.growing import GrowingMinima
from cgbench_methods.cgflow.harmonic.atlas.placement import Placement, fit_harmonic
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["MinimaSearch"]


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
        Gaussian-process model of the harmonic PMF above its lowest value; fitted to all minima at the end of `grow`.
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
        above = free_energy - free_energy.min()
        fit_harmonic(self.model, self.points, above, self.slopes(), self.config)

    def _choose(self) -> torch.Tensor:
        """Choose new reference points."""
        if self.config.grid is not None:
            return self.placement.choose(self.points, self.free_energies())
        self._fit_model()
        chosen = self.placement.choose(self.points, self.free_energies())
        mean, std = self.model.on_grid()
        self.stages.add("atlas", self.problem.evaluations, mean, std, self.config.threshold, chosen)
        return chosen
