"""Where the next reference points are placed.

With one or two CVs, walkers on a model of the harmonic PMF stop where it is uncertain (active learning). With more CVs
there are three stages; each begins when the one before finds nothing more:

1. The same walkers find the uncertain places that are low.
2. They do not cross high barriers. Hence the set of points grows along its frontier: bins where the model is uncertain
   and may be below the ceiling, within reach of a reference point that is below it.
3. The region where s will be drawn is filled: the CVs of a new point are far from all others.

With grid conditioning, the next points are the neighbouring nodes of a regular grid.
"""

from __future__ import annotations

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.design import regular_grid
from cgbench_methods.cgflow.common.exploration import farthest_points, walk
from cgbench_methods.cgflow.harmonic.config import SLOPE_NOISE, HarmonicConfig, MinimaConfig, more_for
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate
from cgbench_methods.lib.lengths import apart, units

__all__ = ["Placement", "fit_harmonic"]

FRONTIER = 2.0  # smallest distances; largest distance of a new point from the point that it is relaxed from
NODE_REACH = 1.05  # spacings; a node of the grid is relaxed once a reference point is this near
STAGES = ("walkers", "frontier", "interior")


def fit_harmonic(
    model: FourierSurrogate, s: torch.Tensor, values: torch.Tensor, slopes: torch.Tensor, config: MinimaConfig
) -> None:
    """Fit a model of a harmonic PMF to its values and slopes; values above the ceiling are cut, and have no slope.

    Parameters
    ----------
    model
        The model.
    s, values, slopes
        Reference points ``[n, cvs]``, values in kT above the lowest ``[n]`` and slopes ``[n, cvs]``.
    config
        Ceiling and noise. The slopes lack the entropy, so their noise is larger.
    """
    noise = torch.full_like(values, config.noise)
    slopes = torch.where((values < config.ceiling)[:, None], slopes, torch.nan)
    length = config.length_scale * units(model.cvs)
    model.fit_values(s, values.clamp(max=config.ceiling), noise, slopes, SLOPE_NOISE * noise[:, None] / length)


class Placement:
    """Chooses new reference points.

    Parameters
    ----------
    cvs
        The CVs with the grid of the model.
    model
        Gaussian-process model of the harmonic PMF, fitted to all reference points before each choice.
    config
        Settings of the recipe.
    streams
        As for `cgbench.contracts.method.Method`.

    Attributes
    ----------
    stage
        The stage of the search, one of `STAGES`.
    """

    def __init__(
        self, cvs: CollectiveVariables, model: FourierSurrogate, config: HarmonicConfig, streams: Streams
    ) -> None:
        self.cvs, self.model, self.config, self.streams = cvs, model, config, streams
        self.stage = STAGES[0]

    @property
    def largest(self) -> int:
        """Largest number of reference points: it grows with the number of CVs above two."""
        return self.config.atlas.max_points * more_for(len(self.cvs))

    def choose(self, points: torch.Tensor, free_energy: torch.Tensor) -> torch.Tensor:
        """Choose new points; none at the end of the search.

        Parameters
        ----------
        points
            The reference points ``[n, cvs]``.
        free_energy
            Their harmonic free energies ``[n]``.

        Returns
        -------
        torch.Tensor
            ``[new, cvs]``.
        """
        if self.config.atlas.grid is not None:
            return self._grid_neighbours(points, self.config.atlas.grid)
        stages = {"walkers": self._uncertain, "frontier": self._frontier, "interior": self._interior}
        above = free_energy - free_energy.min()
        chosen = points[:0]
        for stage in STAGES[STAGES.index(self.stage) :] if len(self.cvs) > 2 else STAGES[:1]:
            self.stage = stage
            chosen = stages[stage](points, above)
            if len(chosen):
                break
        return chosen

    def _far_apart(self, candidates: torch.Tensor, points: torch.Tensor, batch: int) -> torch.Tensor:
        """Return at most `batch` of the candidates, far from each other and from the reference points."""
        count = min(batch, self.largest - len(points))
        return candidates[farthest_points(self.cvs, candidates, count, points, self.config.atlas.min_distance)]

    def _uncertain(self, points: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
        """Choose places where walkers found the model uncertain."""
        config = self.config.atlas
        generator = self.streams.torch("atlas walk")
        low = (above < config.ceiling).nonzero().squeeze(1)
        start = low[torch.randint(len(low), (config.walkers,), generator=generator)]
        outcome = walk(
            self.cvs,
            self.model.table(),
            points[start],
            generator,
            step=config.walk_step * units(self.cvs),
            threshold=config.threshold,
            max_steps=config.walk_steps,
            wanted=2 * config.batch,
            temperature_factor=config.temperature_factor,
        )
        return self._far_apart(outcome.positions[outcome.stopped], points, config.batch)

    def _frontier(self, points: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
        """Choose uncertain bins within reach of reference points below the ceiling."""
        config = self.config.atlas
        mean, std = self.model.on_grid()
        candidates = torch.from_numpy(self.cvs.grid())[(std > config.threshold) & (mean - std < config.ceiling)]
        nearest = torch.full((len(candidates),), torch.inf, dtype=candidates.dtype)
        for point in points[above < config.ceiling]:
            nearest = torch.minimum(nearest, apart(self.cvs, candidates, point))
        within = candidates[nearest < FRONTIER * config.min_distance]
        return self._far_apart(within, points, config.batch * more_for(len(self.cvs)))

    def _interior(self, points: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
        """Choose bins where s will be drawn."""
        mean, _ = self.model.on_grid()
        low = torch.from_numpy(self.cvs.grid())[mean - mean.min() < self.config.labels.ceiling]
        return self._far_apart(low, points, self.config.atlas.batch * more_for(len(self.cvs)))

    def _grid_neighbours(self, known: torch.Tensor, nodes_per_cv: int) -> torch.Tensor:
        """Choose new nodes of the regular grid within reach of a reference point, nearest first."""
        offsets = [0.0 if periodic else 0.5 for periodic in self.cvs.periodic]
        nodes = regular_grid(self.cvs, nodes_per_cv, offsets)
        spacing = torch.tensor(
            [(high - low) / nodes_per_cv for low, high in zip(self.cvs.lower, self.cvs.upper, strict=True)],
            dtype=torch.float64,
        )
        away = (self.cvs.difference(nodes[:, None], known[None]) / spacing).norm(dim=2)
        taken = (away[:, 1:] < 1e-6).any(dim=1)  # the first reference point is no node
        distance = away.min(dim=1).values.masked_fill(taken, torch.inf)
        order = distance.argsort(stable=True)[: self.largest - len(known)]
        return nodes[order[distance[order] < NODE_REACH]]
