"""Dynamics of many walkers, to which the flow proposes new configurations.

Short dynamics moves a walker within its state. After it the chains and the flow propose a whole configuration
``(s', y')``, wherever it is. By the rule of Metropolis and Hastings it replaces that of the walker with probability
``min(1, w' / w)``, with the joint weights w of `cgbench_methods.cgflow.harmonic.pairs`. Both kinds of moves keep the
Boltzmann distribution, so positions of the walkers need no weights. Where the flow generates too little, w is large:
a walker there refuses proposals and is moved by the dynamics alone. Source: Gabrié, Rotskoff and Vanden-Eijnden,
PNAS 119, e2109420119 (2022).

Walkers start at samples of the flow, drawn by their truncated weights. The first round removes what truncation did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.harmonic.config import PairsConfig
from cgbench_methods.cgflow.harmonic.pairs.learning import truncated
from cgbench_methods.cgflow.harmonic.pairs.rounds import PairRounds, Sampled
from cgbench_methods.lib.estimators.importance import drawn_by_weight
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_methods.lib.sampling.metropolis import Metropolis
from cgbench_methods.lib.sampling.walkers import advance, walkers_at

__all__ = ["AssistedDynamics", "Visited"]


@dataclass(frozen=True)
class Visited:
    """What the walkers did in one round.

    Attributes
    ----------
    s, group
        Their positions after each proposal ``[n, cvs]``, and their groups ``[n]``; without those outside the state
        space or diverged.
    proposals
        The samples that were proposed.
    accepted
        Part of the proposals that were accepted.
    """

    s: torch.Tensor
    group: torch.Tensor
    proposals: Sampled
    accepted: float


class AssistedDynamics:
    """Walkers that move by dynamics and by proposals of the flow.

    Parameters
    ----------
    problem, coordinates
        The system and its fine-grained coordinates.
    rounds
        The trained flow with the chains; one walker for each chain, in the same groups.
    config
        Settings.
    truncation
        Weights of the starting points are cut at this multiple of the model.
    streams
        Sources of randomness.

    Attributes
    ----------
    dynamics
        None before `start`.
    moves
        Accepted proposals of each walker since `forget_moves` ``[walkers]``.
    """

    def __init__(
        self,
        problem: Problem,
        coordinates: Coordinates,
        rounds: PairRounds,
        config: PairsConfig,
        truncation: float,
        streams: Streams,
    ) -> None:
        self.problem, self.coordinates, self.rounds = problem, coordinates, rounds
        self.config, self.truncation = config, truncation
        self.group = torch.arange(config.walkers) * config.groups // config.walkers
        self._choices = streams.torch("choices of walkers")
        self._noise = streams.torch("dynamics of walkers", problem.device)
        self.dynamics: Langevin | Metropolis | None = None
        self.forget_moves()

    def __len__(self) -> int:
        return len(self.group)

    def forget_moves(self) -> None:
        """Count accepted proposals anew."""
        self.moves = torch.zeros(len(self), dtype=torch.int64)

    # ---- start ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the walkers of each group at samples of its chains, drawn by their truncated weights."""
        drawn = self.rounds.draw(self.config.starts * len(self))
        samples = drawn.samples
        cut, _ = truncated(samples.log_weights, self.rounds.model.mean(samples.s), self.truncation)
        log_weights = (cut - samples.log_density).masked_fill(cut.isnan() | cut.isposinf(), -torch.inf)
        chosen = []
        for group, count in enumerate(torch.bincount(self.group).tolist()):
            rows = (samples.group == group).nonzero().squeeze(1)
            own = log_weights[rows]
            if not bool(own.isfinite().any()):  # no sample has a weight: all are alike
                own = torch.zeros_like(own)
            chosen.append(rows[drawn_by_weight(own, count, self._choices)])
        start = torch.cat(chosen)
        device = self.problem.device
        x, _ = self.coordinates.to_cartesian(samples.s[start].to(device), drawn.y[start.to(device)])
        self._begin(x)

    def _begin(self, positions: torch.Tensor) -> None:
        self.dynamics = walkers_at(self.problem, self.config, positions, self._noise)

    # ---- rounds -----------------------------------------------------------------------------------

    def sample(self) -> Visited:
        """Move all walkers by dynamics and proposals; return where they were after each proposal."""
        assert self.dynamics is not None
        drawn = self.rounds.draw(self.config.proposals * len(self))
        samples, count = drawn.samples, len(self)
        visited, groups, accepted = [], [], 0
        for number in range(self.config.proposals):
            unusable = advance(self.problem, self.dynamics, self.config.stride).cpu()
            part = slice(number * count, (number + 1) * count)
            x = self.dynamics.positions.double()
            s, present = self.rounds.log_weights_of(x, self.problem.reduced_energy(x))
            uniform = torch.rand(count, generator=self._choices, dtype=torch.float64)
            accept = uniform.log() < samples.joint[part] - present
            new = samples.s[part]
            device = self.problem.device
            proposed, _ = self.coordinates.to_cartesian(new.to(device), drawn.y[part])
            self.dynamics.replace(accept.to(device), proposed, drawn.energies[part])
            usable = accept | ~unusable
            visited.append(torch.where(accept[:, None], new, s)[usable])
            groups.append(self.group[usable])
            self.moves = self.moves + accept
            accepted += int(accept.sum())
        return Visited(torch.cat(visited), torch.cat(groups), samples, accepted / len(samples.s))

    # ---- checkpoints ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the walkers and the number of their moves."""
        return {"dynamics": None if self.dynamics is None else self.dynamics.state_dict(), "moves": self.moves}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.moves = state["moves"]
        if state["dynamics"] is not None:
            self._begin(state["dynamics"]["positions"].to(self.problem.device))
            assert self.dynamics is not None
            self.dynamics.load_state_dict(state["dynamics"])
