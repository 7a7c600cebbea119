"""Umbrella sampling: restrained windows that exchange configurations, combined by MBAR."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from cgbench.contracts.method import Method
from cgbench.contracts.pmf import PMF
from cgbench.counting.streams import Streams
from cgbench_methods.lib.sampling.exchange import WindowExchange, rearranged
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_methods.lib.sampling.metropolis import Metropolis
from cgbench_methods.lib.sampling.restraints import HarmonicRestraints
from cgbench_methods.lib.sampling.walkers import end_block, make_walkers
from cgbench_methods.umbrella.config import UmbrellaConfig
from cgbench_methods.umbrella.estimate import Combined, combine, free_energies_of_cells, warnings_of
from cgbench_methods.umbrella.mbar import Frames
from cgbench_methods.umbrella.windows import Lattice, Site, allocate, windows_to_open

__all__ = ["UmbrellaConfig", "UmbrellaSampling"]


class UmbrellaSampling(Method):
    """Umbrella sampling with windows only where the PMF is low enough to matter.

    All walkers start in the initial configuration. Windows are opened outwards from there: next to every window whose
    free energy is below the cutoff, and half-way between neighbours that hardly overlap; walkers are copied from
    the window beside and pulled. When nothing is left to open, walkers are shared out anew by the populations
    of the windows, settle, and sample. Neighbouring windows exchange configurations by Metropolis throughout:
    without that, windows on a ridge of the PMF keep their walkers on the side that they were pulled from.
    """

    name = "umbrella"
    Config = UmbrellaConfig

    def __init__(self, problem: Any, config: UmbrellaConfig, streams: Streams) -> None:
        super().__init__(problem, config, streams)
        if config.compile:
            problem.compile()
        self._moves = streams.torch("dynamics", problem.device)
        self._partners = streams.torch("exchange")
        self.lattice = Lattice(problem.cvs, config.windows)
        self.stiffness = [1.0 / (config.width * spacing) ** 2 for spacing in self.lattice.spacing]
        self.stage = "grow"
        self.round = self.produced = self.planned = 0
        self.sites: list[Site] = []
        self.opened = 0  # windows that were there before the last were opened
        self.wanted: list[tuple[Site, int]] = []  # windows to open, and the window to start each from
        self.free_energy = np.zeros(0)  # of the windows, by MBAR
        self.above = np.zeros(0)  # of the cells around them, over the lowest
        self.window = self.replicate = torch.zeros(0, dtype=torch.long)
        self.stretches: list[Frames] = []
        self.facts: dict[str, Any] = {}
        self.exchanges = [0, 0]  # attempted, accepted
        self.bias = self._restraints(self.sites)
        self.dynamics: Langevin | Metropolis

    # ---- stages -----------------------------------------------------------------------------------

    def estimates(self) -> Iterator[PMF]:
        """Yield the PMF after each opening of windows, then at growing numbers of production steps."""
        config: UmbrellaConfig = self.config
        while self.stage == "grow":
            with self.problem.phase("grow"):
                self._keep_settled(self.opened)
                self.opened = len(self.sites)
                self._open()
                self.stretches.append(self._sample(config.round_steps))
            self.round += 1
            with self.problem.phase("combine"):
                combined = self._combine(config.grow_frames * len(self.sites), 0)
            self._choose(combined)
            self.status = f"{len(self.sites)} windows open, {len(self.wanted)} to be opened"
            if not self.wanted or self.round == config.max_rounds or 2 * self.problem.evaluations > config.evaluations:
                self.stage = "settle"
            yield combined.pmf
        if self.stage == "settle":
            self._share_out()
            left = config.evaluations - self.problem.evaluations
            with self.problem.phase("settle"):
                self._sample(min(config.settle_steps, left // (5 * len(self.window))))
            left = config.evaluations - self.problem.evaluations
            self.planned = max(2, left // (len(self.window) * config.stride)) * config.stride
            self.stage = "produce"
        while self.produced < self.planned:
            with self.problem.phase("production"):
                frames = self._sample(self._next_goal() - self.produced)
            before = [self.stretches.pop().s] if self.produced else []
            self.stretches.append(Frames(torch.cat([*before, frames.s]), frames.window, frames.replicate))
            self.produced += len(frames.s) * config.stride
            self.progress = self.produced / self.planned
            self.status = f"{self.produced:,} of {self.planned:,} steps in {len(self.sites)} windows"
            ended = self.produced == self.planned
            with self.problem.phase("combine"):
                combined = self._combine(config.mbar_frames, config.error_stretches if ended else 0)
            yield combined.pmf

    def _restraints(self, sites: list[Site]) -> HarmonicRestraints:
        centres = self.lattice.centres(sites) if sites else torch.zeros(0, len(self.problem.cvs), dtype=torch.float64)
        return HarmonicRestraints(self.problem.cvs, centres, self.stiffness)

    def _next_goal(self) -> int:
        """Production steps of the next estimate: geometrically spaced, from a thirtieth of all."""
        stride, fractions = self.config.stride, np.geomspace(1 / 30, 1.0, self.config.estimates)
        goals = [math.ceil(fraction * self.planned / stride) * stride for fraction in fractions[:-1]]
        return next((goal for goal in goals if goal > self.produced), self.planned)

    # ---- windows ----------------------------------------------------------------------------------

    def _open(self) -> None:
        """Open the wanted windows with walkers from the windows beside, and pull those there."""
        replicates = self.config.replicates
        if not self.sites:
            start = self.problem.initial_configuration()
            s = self.problem.collective_variables(start[None])[0].double().cpu()
            home = self.lattice.nearest(s.tolist())
            self.sites = [home, *self.lattice.beside(home)]
            self.free_energy = np.zeros(len(self.sites))
            self.window = torch.arange(len(self.sites)).repeat_interleave(replicates)
            self.replicate = torch.arange(replicates).repeat(len(self.sites))
            self._make_walkers(start.expand(len(self.window), *start.shape).clone())
            source = s.expand(len(self.window), -1)
        else:
            order = torch.arange(len(self.window))
            source = self.lattice.centres(self.sites)[self.window]
            for site, parent in self.wanted:
                order = torch.cat([order, *(self._walkers_of(parent, number) for number in range(replicates))])
                self.window = torch.cat([self.window, torch.full((replicates,), len(self.sites))])
                self.replicate = torch.cat([self.replicate, torch.arange(replicates)])
                self.sites.append(site)
                self.free_energy = np.append(self.free_energy, self.free_energy[parent])
            source = source[order]
            self._inherit(order)
        goal = self.lattice.centres(self.sites)[self.window]
        way = self.problem.cvs.difference(goal, source)
        for step in range(1, self.config.pull_steps + 1):
            self.bias.centres = self._on_device(source + step / self.config.pull_steps * way)
            self.dynamics.step()
        self.bias.centres = self._on_device(goal)
        end_block(self.problem, self.dynamics)

    def _choose(self, combined: Combined) -> None:
        """Say which windows to open next."""
        pairs = self.lattice.pairs(self.sites)
        half = 0.5 * torch.tensor(self.lattice.spacing, dtype=torch.float64)
        self.above = free_energies_of_cells(combined, self.lattice.centres(self.sites), half)
        self.wanted = windows_to_open(
            self.lattice,
            self.sites,
            self.above,
            pairs,
            combined.windows.pair_overlap(pairs),
            cutoff=self.config.cutoff,
            least_overlap=self.config.pair_overlap,
        )

    def _share_out(self) -> None:
        """Keep the windows that matter, and give them walkers by their populations."""
        replicates = self.config.replicates
        highest = max(self.config.cutoff + self.config.margin, np.sort(self.above)[1])  # MBAR needs two
        kept = np.flatnonzero(self.above <= highest)
        numbers = allocate(self.above[kept], self.config.walkers // replicates)
        order = torch.cat(
            [
                walkers[torch.arange(int(number)) % len(walkers)]
                for replicate in range(replicates)
                for old, number in zip(kept, numbers, strict=True)
                for walkers in (self._walkers_of(int(old), replicate),)
            ]
        )
        self._keep_settled(self.opened)
        self.stretches = [one.of_windows(kept) for one in self.stretches]
        self.sites = [self.sites[old] for old in kept]
        self.free_energy = self.free_energy[kept]
        one = torch.repeat_interleave(torch.arange(len(kept)), torch.from_numpy(numbers))
        self.window, self.replicate = one.repeat(replicates), torch.arange(replicates).repeat_interleave(len(one))
        self._inherit(order)

    def _walkers_of(self, window: int, replicate: int) -> torch.Tensor:
        return ((self.window == window) & (self.replicate == replicate)).nonzero().squeeze(1)

    # ---- dynamics ---------------------------------------------------------------------------------

    def _on_device(self, centres: torch.Tensor) -> torch.Tensor:
        dtype = torch.float64 if self.problem.masses is None else torch.float32
        return centres.to(self.problem.device, dtype)

    def _make_walkers(self, positions: torch.Tensor) -> None:
        centres = self.lattice.centres(self.sites)[self.window]
        self.bias = HarmonicRestraints(self.problem.cvs, self._on_device(centres), self.stiffness)
        config: UmbrellaConfig = self.config
        self.dynamics = make_walkers(
            self.problem,
            positions,
            self._moves,
            time_step=config.time_step,
            friction=config.friction,
            step_size=config.step_size,
            bias=self.bias,
        )

    def _inherit(self, order: torch.Tensor) -> None:
        """Make new walkers; walker i goes on as ``order[i]`` was, with a new velocity."""
        state = rearranged(self.dynamics.state_dict(), order)
        self._make_walkers(state["positions"])
        if "velocities" in state:
            state["velocities"] = self.dynamics.state_dict()["velocities"]
        self.dynamics.load_state_dict(state)

    def _sample(self, steps: int) -> Frames:
        """Advance all walkers; take a frame and exchange after each stride. Lost walkers leave NaN in the frame."""
        replicated = self.replicate * len(self.sites) + self.window
        pairs = self.lattice.pairs(self.sites)
        shifts = len(self.sites) * torch.arange(self.config.replicates)
        exchange = WindowExchange(
            self._restraints(self.sites).between,
            self.lattice.centres(self.sites)[self.window],
            replicated,
            (pairs[None] + shifts[:, None, None]).reshape(-1, 2),
            self._partners,
        )
        frames = []
        for _ in range(steps // self.config.stride):
            self.dynamics.step(self.config.stride)
            lost = end_block(self.problem, self.dynamics).cpu()
            s = self.problem.collective_variables(self.dynamics.positions).cpu()
            frames.append(s.float().masked_fill(lost[:, None], torch.nan))
            self.dynamics.load_state_dict(rearranged(self.dynamics.state_dict(), exchange.attempt(s)))
        self.exchanges = [self.exchanges[0] + exchange.attempted, self.exchanges[1] + exchange.accepted]
        shape = (0, len(self.window), len(self.problem.cvs))
        return Frames(torch.stack(frames) if frames else torch.zeros(shape), self.window, self.replicate)

    def _keep_settled(self, windows: int) -> None:
        """Drop the last frames of all but the first so many windows: the others had only just been reached."""
        if self.stretches:
            last = self.stretches.pop().of_windows(np.arange(windows))
            self.stretches += [last] if len(last.window) else []

    # ---- estimates --------------------------------------------------------------------------------

    def _combine(self, mbar_frames: int, error_stretches: int) -> Combined:
        config: UmbrellaConfig = self.config
        combined = combine(
            self.problem.cvs,
            self._restraints(self.sites),
            self.stretches,
            self.free_energy,
            cutoff=config.cutoff,
            mbar_frames=mbar_frames,
            min_overlap=config.min_overlap,
            stretches_for_errors=error_stretches,
        )
        self.free_energy = combined.windows.free_energy
        self.facts = combined.facts
        return combined

    def diagnostics(self) -> dict[str, Any]:
        """Return windows, exchanges, overlap, and warnings."""
        if not self.facts:
            return {}
        warnings = warnings_of(self.facts)
        if self.wanted and self.stage != "grow":
            warnings.append(f"{len(self.wanted)} windows were left to be opened")
        outside = self._outside_state_space()
        if outside:
            warnings.append(f"{outside} walkers are outside the state space")
        attempted, accepted = self.exchanges
        return self.facts | {
            "windows": len(self.sites),
            "walkers": len(self.window),
            "rounds": self.round,
            "exchanges_accepted": accepted / max(1, attempted),
            "warnings": warnings,
        }

    def _outside_state_space(self) -> int:
        """Walkers that pulling has turned into something else, in molecules that say what they are."""
        if "coordinates" not in self.problem.traits or self.problem.masses is None:
            return 0
        return int((~self.problem.coordinates.in_state_space(self.dynamics.positions)).sum())

    # ---- checkpoint -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Walkers, windows, and all that was sampled."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "sites": [list(site) for site in self.sites],
            "wanted": [[list(site), parent] for site, parent in self.wanted],
            "free_energy": torch.from_numpy(self.free_energy.copy()),
            "above": torch.from_numpy(self.above.copy()),
            "window": self.window,
            "replicate": self.replicate,
            "stretches": [[one.s, one.window, one.replicate] for one in self.stretches],
            "stage": self.stage,
            "numbers": [self.round, self.opened, self.produced, self.planned],
            "exchanges": self.exchanges,
            "facts": self.facts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.sites = [tuple(site) for site in state["sites"]]
        self.wanted = [(tuple(site), parent) for site, parent in state["wanted"]]
        self.free_energy, self.above = state["free_energy"].numpy(), state["above"].numpy()
        self.window, self.replicate = state["window"], state["replicate"]
        self.stretches = [Frames(*one) for one in state["stretches"]]
        self.stage = state["stage"]
        self.round, self.opened, self.produced, self.planned = (int(number) for number in state["numbers"])
        self.exchanges, self.facts = list(state["exchanges"]), dict(state["facts"])
        self._make_walkers(state["dynamics"]["positions"].to(self.problem.device))
        self.dynamics.load_state_dict(state["dynamics"])
