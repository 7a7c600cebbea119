"""Search for harmonic minima over many collective variables (CVs), without a grid.

Chains on a model of the harmonic PMF propose new reference points. Those where the model is uncertain are taken first,
and all are far from each other. On the way from a known minimum to a new point, s moves in short steps, and the
fine-grained coordinates are relaxed after each.
"""

from __future__ import annotations

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.harmonic.atlas.growing import GrowingMinima
from cgbench_methods.cgflow.harmonic.atlas.minima import relax
from cgbench_methods.cgflow.harmonic.config import SLOPE_NOISE, HarmonicConfig, more_for
from cgbench_methods.cgflow.harmonic.pairs.chains import move
from cgbench_methods.cgflow.harmonic.pairs.model import PairModel, PairPrior
from cgbench_methods.lib.flows.target import ConditionalTarget
from cgbench_methods.lib.lengths import apart, units

__all__ = ["PairSearch"]

LESS_KNOWN = 0.3  # growth of the assumed error of a harmonic free energy above the ceiling of s
ON_THE_WAY = 6  # largest number of steps of a relaxation on the way


class PairSearch(GrowingMinima):
    """Harmonic minima over more than three CVs.

    Parameters
    ----------
    problem, cvs, target, config, streams
        As for `GrowingMinima`.

    Attributes
    ----------
    model
        Model of the harmonic PMF; fitted to all minima at the end of `grow`.
    """

    def __init__(
        self,
        problem: Problem,
        cvs: CollectiveVariables,
        target: ConditionalTarget,
        config: HarmonicConfig,
        streams: Streams,
    ) -> None:
        super().__init__(problem, cvs, target, config, streams)
        self.pairs = config.pairs
        prior = PairPrior(self.pairs.length_scale, self.pairs.single, self.pairs.pair)
        self.model = PairModel(cvs, self.pairs.order, prior)
        self._improved = 0  # number of points when the prior was last improved

    @property
    def largest(self) -> int:
        """Largest number of reference points."""
        return self.config.max_points * more_for(len(self.cvs)) * self.pairs.more_points

    def _fit_model(self) -> None:
        """Fit the model to all minima; improve the prior each time their number has grown by half."""
        free_energy = self.free_energies()
        highest = 2 * self.config.ceiling
        above = (free_energy - free_energy.min()).clamp(max=highest)
        slopes = torch.where((above < highest)[:, None], self.slopes(), torch.nan)
        # what is high matters little, and is less of a sum over pairs
        noise = self.pairs.noise + LESS_KNOWN * (above - self.recipe.labels.ceiling).clamp(min=0.0)
        length = self.pairs.length_scale * units(self.cvs)
        self.model.fit_values(self.points, above, noise, slopes, SLOPE_NOISE * noise[:, None] / length)
        if len(above) > 1.5 * self._improved and len(above) > 10 * len(self.cvs):
            self.model.improve_prior()
            self._improved = len(above)

    def _choose(self) -> torch.Tensor:
        """Choose new reference points, uncertain ones first; all are farther than `min_distance` from each other."""
        self._fit_model()
        config, generator = self.config, self.streams.torch("atlas walk")
        above = self.free_energies() - self.free_energies().min()
        low = (above < config.ceiling).nonzero().squeeze(1)
        s = self.points[low[torch.randint(len(low), (config.walkers,), generator=generator)]]

        def energy(s: torch.Tensor) -> torch.Tensor:
            mean = self.model.mean(s)
            return torch.where(mean < config.ceiling, mean / self.pairs.atlas_softness, torch.inf)

        proposals = max(1, min(self.pairs.settling, config.walk_steps))
        step = self.pairs.walk_step * units(self.cvs)
        s = move(self.cvs, energy, s, self.points[low], generator, steps=proposals, step=step)
        uncertain = self.model.std(s)
        batch = min(config.batch * more_for(len(self.cvs)), self.largest - len(self.points))
        first = self._apart(s[uncertain.argsort(descending=True)], self.points, batch // 2)
        rest = self._apart(s, torch.cat([self.points, first]), batch - len(first))
        return torch.cat([first, rest])

    def _apart(self, candidates: torch.Tensor, points: torch.Tensor, count: int) -> torch.Tensor:
        """Return the first `count` of the candidates that are far enough from the points and from each other."""
        nearest = apart(self.cvs, candidates[:, None], points[None]).min(dim=1).values
        chosen: list[int] = []
        for number, candidate in enumerate(candidates):
            if len(chosen) >= count:
                break
            if float(nearest[number]) > self.config.min_distance:
                chosen.append(number)
                nearest = torch.minimum(nearest, apart(self.cvs, candidates, candidate))
        return candidates[chosen]

    def _carried(self, points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the coordinates y relaxed in short steps of s, from one minimum for each point."""
        cvs = len(self.cvs)
        y, hessian = self.minima.y[rows], self.minima.hessian[rows]
        whole = self.cvs.difference(points[:, :cvs], self.minima.s[rows, :cvs])
        count = max(1, int(torch.ceil((whole / units(self.cvs)).norm(dim=1).max() / self.pairs.reach)))
        for number in range(1, count):
            part = points.clone()
            part[:, :cvs] = self.cvs.wrap(points[:, :cvs] - whole * (1.0 - number / count))
            relaxed = relax(self.target, part, y, hessian, steps=ON_THE_WAY, tolerance=self.config.relax_tolerance)
            y = torch.where(relaxed.energy.isfinite()[:, None], relaxed.y, y)
        return y
