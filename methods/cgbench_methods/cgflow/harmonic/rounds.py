"""Rounds of training and sampling: the flow, the choice of s, and the weighted samples of each round."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.method import Activity
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.design import draw_around, draw_in_cells, draw_where_low, low_density
from cgbench_methods.cgflow.harmonic.atlas.wells import WellFeatures, Wells, WellTarget
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig, more_for
from cgbench_methods.cgflow.harmonic.flow import FlowTraining, draw_weighted_samples
from cgbench_methods.cgflow.harmonic.mixture import Mixture
from cgbench_methods.cgflow.harmonic.shares import WellShares
from cgbench_methods.lib.estimators.fourier import FourierBasis
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate
from cgbench_methods.lib.flows.target import ConditionalTarget
from cgbench_methods.lib.lengths import units

__all__ = ["RoundOfSamples", "Rounds"]

SOFTNESS, UNIFORM_SHARE = 3.0, 0.05  # of the values of s in `independent_samples`; rare basins get many samples


@dataclass(frozen=True)
class RoundOfSamples:
    """Weighted samples of one round.

    Attributes
    ----------
    s
        ``[n, cvs]``.
    log_weights
        ``[n]``, including the shares of the wells.
    slopes
        ``d ln w/ds`` at fixed noise ``[n, cvs]``; None where they are not wanted.
    well
        Number of the well ``[n]``; None without free torsions.
    """

    s: torch.Tensor
    log_weights: torch.Tensor
    slopes: torch.Tensor | None
    well: torch.Tensor | None


class Rounds(FlowTraining):
    """The flow with its optimiser, and what a round does with it.

    Parameters
    ----------
    problem, config, streams
        As for `cgbench.contracts.method.Method`.
    cvs
        The CVs with the grid of the model of the PMF.
    coordinates
        The fine-grained coordinates.
    target
        The energy without wells.
    surrogate
        The model of the PMF, from which s is drawn.
    activity
        Progress of the run.

    Attributes
    ----------
    target
        The energy; at points ``(s, k)`` with wells.
    basis
        The flow's context as a function of the points.
    wells, shares
        Wells of the free torsions, and the shares of samples in them; None without free torsions.
    flow, optimiser
        None until the minima are complete.
    """

    def __init__(
        self,
        problem: Problem,
        cvs: CollectiveVariables,
        coordinates: Coordinates,
        target: ConditionalTarget,
        surrogate: FourierSurrogate,
        config: HarmonicConfig,
        streams: Streams,
        activity: Activity,
    ) -> None:
        basis = FourierBasis(cvs, config.flow.feature_order)
        super().__init__(problem, coordinates, target, basis, config, streams, activity)
        self.cvs, self.surrogate = cvs, surrogate
        self.shares: WellShares | None = None

    def use_wells(self, wells: Wells, target: WellTarget) -> None:
        """Continue at points ``(s, k)``."""
        self.wells, self.target = wells, target
        self.basis = WellFeatures(FourierBasis(self.cvs, self.config.flow.feature_order), len(wells))
        self.shares = WellShares(self.cvs, len(wells), self.config.wells)
        self.reweight = self._reweight

    def mixture(self) -> Mixture:
        """Return the mixture of the flows of all wells."""
        assert self.flow is not None and self.wells is not None and self.shares is not None
        return Mixture(self.flow, self.basis, self.wells, self.shares)

    def _reweight(
        self, points: torch.Tensor, y: torch.Tensor, log_weights: torch.Tensor, slopes: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.mixture().weights(points, y, log_weights, slopes)

    def draw_s(self, count: int, uncertain: torch.Tensor) -> torch.Tensor:
        """Draw s where the PMF is low, and a share of them around the uncertain points ``[points, cvs]``."""
        config = self.config.labels
        generator = self.streams.torch("design")
        near = round(self.config.surrogate.share * count) if len(uncertain) else 0
        parts = []
        if near:
            radius = self.config.surrogate.radius * units(self.cvs)
            parts.append(draw_around(self.cvs, uncertain, radius, near, generator))
        low = draw_where_low(
            self.cvs,
            self.surrogate.on_grid()[0],
            count - near,
            generator,
            softness=config.softness,
            ceiling=config.ceiling,
            uniform_share=config.uniform_share,
        )
        s = torch.cat([*parts, low])
        return s[torch.randperm(len(s), generator=generator)]

    def _draw_points(self, count: int, uncertain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Draw s, and with wells one of them for each s; return the points and ``ln q(k|s)``."""
        s = self.draw_s(count, uncertain)
        return (s, None) if self.shares is None else self.shares.draw(s, self.streams.torch("wells drawn"))

    def features(self, s: torch.Tensor) -> torch.Tensor:
        """Return the flow's context at s, with wells in one of them at random ``[batch, features]``."""
        if self.shares is None:
            return self.basis(s)
        return self.basis(self.shares.draw(s, self.streams.torch("wells shown"))[0])

    def train(self, number: int, uncertain: torch.Tensor) -> RoundOfSamples:
        """Train the flow by energy for some steps; return the weighted samples.

        Parameters
        ----------
        number
            Number of rounds before.
        uncertain
            Points around which a share of s is drawn ``[points, cvs]``.
        """
        points, log_share = self._draw_points(self.steps() * self.config.training.batch, uncertain)
        s = points[:, : len(self.cvs)]
        # -ln of the mean of exp(-E_k) / q(y|s, k): the PMF of well k alone, as far as its share is right
        free_energy = self.surrogate.mean(s) - (0.0 if log_share is None else log_share)
        log_weights, slopes = self.train_at(points, free_energy, number)
        return _round_of(
            points, self.shares is not None, log_weights, slopes if self.config.labels.mean_force else None
        )

    def sample(self, uncertain: torch.Tensor) -> RoundOfSamples:
        """Draw weighted samples from the trained flow; `uncertain` as for `train`."""
        config = self.config.labels
        points, _ = self._draw_points(config.batch * more_for(len(self.cvs)), uncertain)
        log_weights, slopes = self.sample_at(points, mean_force=config.mean_force)
        return _round_of(points, self.shares is not None, log_weights, slopes)

    def independent_samples(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw s and a sample of the trained flow at each; return s and the logarithms of the weights of both draws.

        s comes from ``exp(-A / softness)``, with A the present model of the PMF, and a uniform share over the domain.
        """
        assert self.flow is not None
        device = self.problem.device
        density = low_density(
            self.surrogate.on_grid()[0], softness=SOFTNESS, ceiling=torch.inf, uniform_share=UNIFORM_SHARE
        )
        s, cells = draw_in_cells(self.cvs, density, count, generator)
        points = s if self.shares is None else self.shares.draw(s, generator)[0]
        own = generator if device == "cpu" else torch.Generator(device).manual_seed(generator.initial_seed())
        log_weights, _ = draw_weighted_samples(
            self.flow, self.target, points.to(device), self.basis, own, mean_force=False, reweight=self.reweight
        )
        return s, log_weights.cpu() - density[cells].log()


def _round_of(
    points: torch.Tensor, with_wells: bool, log_weights: torch.Tensor, slopes: torch.Tensor | None
) -> RoundOfSamples:
    """Return weighted samples at points, which are ``(s, k)`` with wells."""
    if not with_wells:
        return RoundOfSamples(points, log_weights, slopes, None)
    slopes = None if slopes is None else slopes[:, :-1]
    return RoundOfSamples(points[:, :-1], log_weights, slopes, points[:, -1].long())
