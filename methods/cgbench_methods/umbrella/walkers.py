"""Walkers restrained to windows: they open windows, are distributed over them, and exchange configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.lib.estimators.mbar import Frames
from cgbench_methods.lib.sampling.exchange import WindowExchange, rearranged
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_methods.lib.sampling.metropolis import Metropolis
from cgbench_methods.lib.sampling.restraints import HarmonicRestraints
from cgbench_methods.lib.sampling.turns import Turns
from cgbench_methods.lib.sampling.walkers import end_block, walkers_at
from cgbench_methods.umbrella.config import UmbrellaConfig
from cgbench_methods.umbrella.windows import Lattice, Site

__all__ = ["WindowWalkers"]


class WindowWalkers:
    """Open windows and the walkers restrained to them.

    Each replicate is an independent simulation of all windows: walkers of different replicates do not exchange.

    Parameters
    ----------
    problem, config, streams
        As for `cgbench.contracts.method.Method`.

    Attributes
    ----------
    lattice
        Possible sites of windows.
    sites
        Sites of the open windows.
    window, replicate
        Window and replicate of each walker, ``[walkers]``.
    exchanges
        Numbers of attempted and of accepted exchanges.
    turns
        Counts of the turns of side chains, since the windows last changed.
    """

    def __init__(self, problem: Problem, config: UmbrellaConfig, streams: Streams) -> None:
        self.problem, self.config = problem, config
        self.lattice = Lattice(problem.cvs, config.windows)
        self.sites: list[Site] = []
        self.window = self.replicate = torch.zeros(0, dtype=torch.long)
        self.exchanges = [0, 0]
        self.dynamics: Langevin | Metropolis
        self.turns: Turns
        self._bias: HarmonicRestraints
        self._stiffness = [1.0 / (config.width * spacing) ** 2 for spacing in self.lattice.spacing]
        self._moves = streams.torch("dynamics", problem.device)
        self._partners = streams.torch("exchange")

    def __len__(self) -> int:
        return len(self.window)

    def centres(self) -> torch.Tensor:
        """Centres of the open windows ``[windows, cvs]``."""
        return self.lattice.centres(self.sites)

    def restraints(self) -> HarmonicRestraints:
        """Restraints of the open windows."""
        return HarmonicRestraints(self.problem.cvs, self.centres(), self._stiffness)

    # ---- windows ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the window of the initial configuration and its neighbours, and pull walkers to them."""
        start = self.problem.initial_configuration()
        s = self.problem.collective_variables(start[None])[0].double().cpu()
        home = self.lattice.nearest(s.tolist())
        self.sites = [home, *self.lattice.beside(home)]
        self.window = torch.arange(len(self.sites)).repeat_interleave(self.config.replicates)
        self.replicate = torch.arange(self.config.replicates).repeat(len(self.sites))
        self._make_walkers(start.expand(len(self.window), *start.shape).clone())
        self._pull(s.expand(len(self.window), -1))

    def open(self, wanted: Sequence[tuple[Site, int]]) -> None:
        """Open windows with copies of the walkers of other windows, and pull those to them.

        Parameters
        ----------
        wanted
            Sites, each with the number of the window to copy walkers from.
        """
        replicates = self.config.replicates
        order = torch.arange(len(self.window))
        source = self.centres()[self.window]
        for site, parent in wanted:
            order = torch.cat([order, *(self._walkers_of(parent, number) for number in range(replicates))])
            self.window = torch.cat([self.window, torch.full((replicates,), len(self.sites))])
            self.replicate = torch.cat([self.replicate, torch.arange(replicates)])
            self.sites.append(site)
        self._continue_from(order)
        self._pull(source[order])

    def redistribute(self, kept: NDArray[np.int64], numbers: NDArray[np.int64]) -> None:
        """Keep only the windows `kept`, with as many walkers of each replicate as `numbers` says, ``[windows]``."""
        replicates = self.config.replicates
        order = torch.cat(
            [
                walkers[torch.arange(int(number)) % len(walkers)]
                for replicate in range(replicates)
                for old, number in zip(kept, numbers, strict=True)
                for walkers in (self._walkers_of(int(old), replicate),)
            ]
        )
        self.sites = [self.sites[old] for old in kept]
        one = torch.repeat_interleave(torch.arange(len(kept)), torch.from_numpy(numbers))
        self.window, self.replicate = one.repeat(replicates), torch.arange(replicates).repeat_interleave(len(one))
        self._continue_from(order)

    def _walkers_of(self, window: int, replicate: int) -> torch.Tensor:
        return ((self.window == window) & (self.replicate == replicate)).nonzero().squeeze(1)

    # ---- dynamics ---------------------------------------------------------------------------------

    def _on_device(self, centres: torch.Tensor) -> torch.Tensor:
        dtype = torch.float64 if self.problem.masses is None else torch.float32
        return centres.to(self.problem.device, dtype)

    def _make_walkers(self, positions: torch.Tensor) -> None:
        centres = self.centres()[self.window]
        self._bias = HarmonicRestraints(self.problem.cvs, self._on_device(centres), self._stiffness)
        self.dynamics = walkers_at(self.problem, self.config, positions, self._moves, self._bias)
        self.turns = Turns(self.problem, len(positions))

    def _continue_from(self, order: torch.Tensor) -> None:
        """Make new walkers; walker i continues from the position of walker ``order[i]``, with a new velocity."""
        state = rearranged(self.dynamics.state_dict(), order)
        self._make_walkers(state["positions"])
        fresh = self.dynamics.state_dict()
        state |= {name: fresh[name] for name in state if name.endswith("velocities")}
        self.dynamics.load_state_dict(state)

    def _pull(self, source: torch.Tensor) -> None:
        """Move the restraints from `source` ``[walkers, cvs]`` to the walkers' windows, by the shorter way."""
        goal = self.centres()[self.window]
        way = self.problem.cvs.difference(goal, source)
        for step in range(1, self.config.pull_steps + 1):
            self._bias.centres = self._on_device(source + step / self.config.pull_steps * way)
            self.dynamics.step()
        self._bias.centres = self._on_device(goal)
        end_block(self.problem, self.dynamics)

    def sample(self, steps: int) -> Frames:
        """Advance all walkers; record a frame and exchange after each stride. Unusable walkers are NaN in the frame."""
        pairs = self.lattice.pairs(self.sites)
        shifts = len(self.sites) * torch.arange(self.config.replicates)
        exchange = WindowExchange(
            self.restraints().between,
            self.centres()[self.window],
            self.replicate * len(self.sites) + self.window,
            (pairs[None] + shifts[:, None, None]).reshape(-1, 2),
            self._partners,
        )
        frames = []
        for _ in range(steps // self.config.stride):
            self.dynamics.step(self.config.stride)
            unusable = end_block(self.problem, self.dynamics).cpu()
            self.turns.note(self.dynamics.positions, self.config.stride)
            s = self.problem.collective_variables(self.dynamics.positions).cpu()
            frames.append(s.float().masked_fill(unusable[:, None], torch.nan))
            order = exchange.attempt(s)
            self.dynamics.load_state_dict(rearranged(self.dynamics.state_dict(), order))
            self.turns.reorder(order)
        self.exchanges = [self.exchanges[0] + exchange.attempted, self.exchanges[1] + exchange.accepted]
        shape = (0, len(self.window), len(self.problem.cvs))
        return Frames(torch.stack(frames) if frames else torch.zeros(shape), self.window, self.replicate)

    # ---- checkpoint -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return walkers, windows and counts of exchanges."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "turns": self.turns.state_dict(),
            "sites": [list(site) for site in self.sites],
            "window": self.window,
            "replicate": self.replicate,
            "exchanges": self.exchanges,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.sites = [tuple(site) for site in state["sites"]]
        self.window, self.replicate = state["window"], state["replicate"]
        self.exchanges = list(state["exchanges"])
        self._make_walkers(state["dynamics"]["positions"].to(self.problem.device))
        self.dynamics.load_state_dict(state["dynamics"])
        self.turns.load_state_dict(state["turns"])
