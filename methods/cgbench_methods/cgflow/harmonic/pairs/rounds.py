"""Training and draws of the flow with more than three collective variables: s is drawn by Markov chains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.method import Activity
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.exploration import inside_domain
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.cgflow.harmonic.flow import FlowTraining, draw_configurations, draw_weighted_samples
from cgbench_methods.cgflow.harmonic.pairs.basis import PairBasis
from cgbench_methods.cgflow.harmonic.pairs.chains import move
from cgbench_methods.cgflow.harmonic.pairs.learning import constant_of
from cgbench_methods.cgflow.harmonic.pairs.marginals import marginal
from cgbench_methods.cgflow.harmonic.pairs.model import PairModel
from cgbench_methods.lib.flows.target import ConditionalTarget
from cgbench_methods.lib.lengths import units

__all__ = ["Drawn", "PairRounds", "Sampled"]

LEAST = 1e-30  # probability of a bin under the model
FIRST = 5  # times as many proposals as after a change of the model: chains start from reference points


@dataclass(frozen=True)
class Sampled:
    """Weighted samples of one round.

    Attributes
    ----------
    s
        ``[n, cvs]``.
    log_weights, slopes
        ``ln exp(-E(s, y)) / q(y|s)`` ``[n]`` and its derivatives in s at fixed noise ``[n, cvs]``; these may be None.
    log_density
        ``ln pi(s)`` up to a constant ``[n]``.
    group
        Group of the chain that drew s ``[n]``.
    """

    s: torch.Tensor
    log_weights: torch.Tensor
    slopes: torch.Tensor | None
    log_density: torch.Tensor
    group: torch.Tensor

    @property
    def joint(self) -> torch.Tensor:
        """Joint log-weights of (s, y) ``[n]``."""
        return self.log_weights - self.log_density


@dataclass(frozen=True)
class Drawn:
    """Weighted samples with their configurations.

    Attributes
    ----------
    samples
        The samples.
    y
        Their fine-grained coordinates ``[n, fine]``.
    energies
        Their reduced energies ``[n]``.
    """

    samples: Sampled
    y: torch.Tensor
    energies: torch.Tensor


class PairRounds(FlowTraining):
    """The flow, the chains that draw s from ``exp(-A / softness)`` below the ceiling, and what a round does with them.

    Parameters
    ----------
    problem, coordinates, target, config, streams, activity
        As for `FlowTraining`.
    model
        The model of the PMF.

    Attributes
    ----------
    walkers
        Positions of the chains ``[walkers, cvs]``.
    known
        Reference points, whose differences are jumps of the chains ``[points, cvs]``.
    constant
        What makes the model, which is known up to a constant, ``-ln`` of the mean weight: of the harmonic minima at
        first, then of the last training round.
    """

    def __init__(
        self,
        problem: Problem,
        coordinates: Coordinates,
        target: ConditionalTarget,
        model: PairModel,
        config: HarmonicConfig,
        streams: Streams,
        activity: Activity,
    ) -> None:
        basis = PairBasis(problem.cvs, config.flow.feature_order)
        super().__init__(problem, coordinates, target, basis, config, streams, activity)
        self.cvs, self.model, self.pairs = problem.cvs, model, config.pairs
        self.walkers = torch.zeros(0, len(self.cvs), dtype=torch.float64)
        self.known = self.walkers
        self._lowest = 0.0  # of the model: the ceiling is above it
        self.constant = 0.0

    # ---- chains -----------------------------------------------------------------------------------

    def energy(self, s: torch.Tensor) -> torch.Tensor:
        """Return ``-ln pi(s)`` up to a constant ``[batch]``; infinite above the ceiling."""
        above = self.model.mean(s) - self._lowest
        return torch.where(above < self.pairs.ceiling, above / self.pairs.softness, torch.inf)

    def start(self, points: torch.Tensor, free_energy: torch.Tensor) -> None:
        """Start the chains from reference points ``[n, cvs]`` with the given harmonic free energies ``[n]``."""
        self.constant = float(free_energy.min())
        above = free_energy - self.constant
        self.known = points[above < self.config.atlas.ceiling]
        generator = self.streams.torch("design")
        probability = torch.exp(-above / self.pairs.softness)
        chosen = torch.multinomial(probability, self.pairs.walkers, replacement=True, generator=generator)
        self.walkers = points[chosen]
        self.settle(FIRST * self.pairs.settling)

    def settle(self, proposals: int | None = None) -> None:
        """Move the chains after a change of the model, by default as often as the settings say."""
        self._lowest = float(self.model.mean(torch.cat([self.known, self.walkers])).min())
        count = self.pairs.settling if proposals is None else proposals
        self.walkers = self._moved(self.walkers, count, self.streams.torch("design"))
        outside = self.energy(self.walkers).isinf()
        if bool(outside.any()) and not bool(outside.all()):
            inside = self.walkers[~outside]
            self.walkers[outside] = inside[torch.arange(int(outside.sum())) % len(inside)]

    def _moved(self, walkers: torch.Tensor, proposals: int, generator: torch.Generator) -> torch.Tensor:
        step = self.pairs.walk_step * units(self.cvs)
        return move(self.cvs, self.energy, walkers, self.known, generator, steps=proposals, step=step)

    def draw_s(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw `count` values of s by the chains; return them ``[count, cvs]`` and the groups of the chains."""
        generator = self.streams.torch("design")
        drawn = []
        walkers = len(self.walkers)
        for _ in range(-(-count // walkers)):
            self.walkers = self._moved(self.walkers, self.pairs.spacing, generator)
            drawn.append(self.walkers)
        group = torch.arange(walkers) * self.pairs.groups // walkers
        return torch.cat(drawn)[:count], group.repeat(len(drawn))[:count]

    # ---- rounds -----------------------------------------------------------------------------------

    def train(self, number: int) -> Sampled:
        """Train the flow by energy for some steps, after `number` rounds before; return the weighted samples."""
        s, group = self.draw_s(self.steps() * self.config.training.batch)
        density = -self.energy(s)
        mean = self.model.mean(s)
        log_weights, slopes = self.train_at(s, mean + self.constant, number)
        usable = log_weights.isfinite()
        if bool(usable.any()):
            self.constant = constant_of((log_weights + mean)[usable], self.config.labels.truncation)
        return Sampled(s, log_weights, slopes if self.config.labels.mean_force else None, density, group)

    def draw(self, count: int) -> Drawn:
        """Draw weighted samples of the trained flow; those of one chain follow each other in no order.

        Neighbouring values of s of a chain depend on each other. Hence they are exchanged among the chains of a group.
        """
        assert self.flow is not None
        s, group = self.draw_s(count)
        generator = self.streams.torch("exchange among chains")
        order = torch.rand(len(s), generator=generator).add(group).argsort()  # random, groups one after the other
        s[group.argsort(stable=True)] = s[order]
        device = self.problem.device
        y, energies, log_weights = draw_configurations(
            self.flow, self.target, s.to(device), self.basis, self.streams.torch("label samples", device)
        )
        return Drawn(Sampled(s, log_weights.cpu(), None, -self.energy(s), group), y, energies)

    @torch.no_grad()
    def log_weights_of(self, x: torch.Tensor, energies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return s ``[n, cvs]`` of configurations, and the joint log-weights ``[n]`` of the flow's samples there.

        A weight is infinite where the flow or the chains generate nothing, such as outside the state space.

        Parameters
        ----------
        x, energies
            Configurations ``[n, ...]``, and their reduced energies ``[n]``.
        """
        assert self.flow is not None
        s, y, volume = self.coordinates.to_internal(x)
        log_q = self.flow.log_prob(y, context=self.basis(s))
        s = s.cpu()
        density = self.energy(s).masked_fill(~inside_domain(self.cvs, s), torch.inf)  # minus its logarithm
        log_weights = density - (energies + volume + log_q).cpu()
        log_weights = log_weights.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
        return s, log_weights.masked_fill(~self.coordinates.in_state_space(x).cpu(), torch.inf)

    def maps_of_model(self) -> list[NDArray[np.float64]]:
        """Return the probabilities of all maps under the model, with s drawn by the chains."""
        s, _ = self.draw_s(self.pairs.marginal_draws)
        log_weights = self.energy(s) - self.model.mean(s)
        return [marginal(self.model, one, s, log_weights).clamp(min=LEAST).numpy() for one in self.problem.maps]

    def independent_samples(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw s by copies of the chains and a sample of the flow at each; return s and the joint log-weights."""
        assert self.flow is not None
        device = self.problem.device
        walkers, drawn = self.walkers.clone(), []
        for _ in range(-(-count // len(walkers))):
            walkers = self._moved(walkers, self.pairs.settling, generator)
            drawn.append(walkers)
        s = torch.cat(drawn)[:count]
        own = generator if device == "cpu" else torch.Generator(device).manual_seed(generator.initial_seed())
        log_weights, _ = draw_weighted_samples(self.flow, self.target, s.to(device), self.basis, own, mean_force=False)
        return s, log_weights.cpu() + self.energy(s)

    # ---- checkpoints ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the flow, its optimiser and the chains."""
        assert self.flow is not None and self.optimiser is not None
        return {
            "flow": dict(self.flow.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "walkers": self.walkers,
            "known": self.known,
            "lowest": self._lowest,
            "constant": self.constant,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, after the flow has been built."""
        assert self.flow is not None and self.optimiser is not None
        self.flow.load_state_dict(state["flow"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.walkers, self.known, self._lowest = state["walkers"], state["known"], float(state["lowest"])
        self.constant = float(state["constant"])
