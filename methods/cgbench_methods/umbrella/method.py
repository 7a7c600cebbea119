"""The method ``umbrella``: stages, estimates and diagnostics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from cgbench.contracts.declarations import Given
from cgbench.contracts.maps import PMF_GRID
from cgbench.contracts.method import Method
from cgbench.contracts.pmf import PMF
from cgbench.counting.streams import Streams
from cgbench_methods.lib.estimators.mbar import Frames
from cgbench_methods.umbrella.config import UmbrellaConfig
from cgbench_methods.umbrella.estimate import Combined, combine, free_energies_of_cells, unvisited_cells, warnings_of
from cgbench_methods.umbrella.walkers import WindowWalkers
from cgbench_methods.umbrella.windows import Site, allocate, windows_to_open

__all__ = ["UmbrellaSampling"]

LEAST_CUTOFF = 8.0  # kT: scores and coverages count what is below


class UmbrellaSampling(Method):
    """Umbrella sampling with windows only where the PMF is low enough to matter.

    The first windows are that of the initial configuration and its neighbours. Further windows are opened next to
    every window whose free energy is below the cutoff, and half-way between neighbours with little overlap; their
    walkers are copied from the window beside them and pulled. When no window is left to open, the walkers are
    redistributed by the populations of the windows, equilibrated, and sampled. Neighbouring windows exchange
    configurations throughout. Without exchange, windows on a ridge of the PMF would keep their walkers on the side that
    they were pulled from.
    """

    name = "umbrella"
    requires = frozenset({PMF_GRID})
    Config = UmbrellaConfig
    given = (
        Given(
            collective_variables="windows in their domain",
            state_space="samples outside have no weight",
            masses="Langevin dynamics",
            gradient="every step",
            free_energies="highest of interest",
            start="first windows",
        ),
    )

    def __init__(self, problem: Any, config: UmbrellaConfig, streams: Streams) -> None:
        super().__init__(problem, config, streams)
        if config.compile:
            problem.compile()
        self.walkers = WindowWalkers(problem, config, streams)
        self.stage = "grow"
        self.round = self.produced = self.planned = 0
        self.opened = 0  # number of windows before the last round of opening
        self.wanted: list[tuple[Site, int]] = []  # windows to open, each with the window to start from
        self.free_energy = np.zeros(0)  # of the windows, by MBAR
        self.above = np.zeros(0)  # free energies of the windows' cells, relative to the lowest
        self.stretches: list[Frames] = []
        self.facts: dict[str, Any] = {}

    # ---- stages -----------------------------------------------------------------------------------

    def estimates(self) -> Iterator[PMF]:
        """Yield the PMF after each round of opening windows, then at growing numbers of production steps."""
        config: UmbrellaConfig = self.config
        while self.stage == "grow":
            with self.problem.phase("grow"):
                self._keep_equilibrated(self.opened)
                self.opened = len(self.walkers.sites)
                self._open()
                self.stretches.append(self.walkers.sample(config.round_steps))
            self.round += 1
            with self.problem.phase("combine"):
                combined = self._combine(config.grow_frames * len(self.walkers.sites), 0)
            self._choose(combined)
            self.status = f"{len(self.walkers.sites)} windows open, {len(self.wanted)} to be opened"
            if not self.wanted or self.round == config.max_rounds or 2 * self.problem.evaluations > config.evaluations:
                self.stage = "settle"
            yield combined.pmf
        if self.stage == "settle":
            self._redistribute()
            left = config.evaluations - self.problem.evaluations
            with self.problem.phase("settle"):
                self.walkers.sample(min(config.settle_steps, left // (5 * len(self.walkers))))
            left = config.evaluations - self.problem.evaluations
            self.planned = max(2, left // (len(self.walkers) * config.stride)) * config.stride
            self.stage = "produce"
        while self.produced < self.planned:
            with self.problem.phase("production"):
                frames = self.walkers.sample(self._next_goal() - self.produced)
            before = [self.stretches.pop().s] if self.produced else []
            self.stretches.append(Frames(torch.cat([*before, frames.s]), frames.window, frames.replicate))
            self.produced += len(frames.s) * config.stride
            self.progress = self.produced / self.planned
            self.status = f"{self.produced:,} of {self.planned:,} steps in {len(self.walkers.sites)} windows"
            ended = self.produced == self.planned
            with self.problem.phase("combine"):
                combined = self._combine(config.mbar_frames, config.error_stretches if ended else 0)
            yield combined.pmf

    def _next_goal(self) -> int:
        """Return the production steps of the next estimate: geometrically spaced, from a thirtieth of all."""
        stride, fractions = self.config.stride, np.geomspace(1 / 30, 1.0, self.config.estimates)
        goals = [math.ceil(fraction * self.planned / stride) * stride for fraction in fractions[:-1]]
        return next((goal for goal in goals if goal > self.produced), self.planned)

    # ---- windows ----------------------------------------------------------------------------------

    def _open(self) -> None:
        """Open the first windows, or those that were chosen."""
        if not self.walkers.sites:
            self.walkers.start()
            self.free_energy = np.zeros(len(self.walkers.sites))
        else:
            self.walkers.open(self.wanted)
            parents = [parent for _, parent in self.wanted]
            self.free_energy = np.append(self.free_energy, self.free_energy[parents])

    def _choose(self, combined: Combined) -> None:
        """Choose the windows to open next."""
        lattice, sites = self.walkers.lattice, self.walkers.sites
        pairs = lattice.pairs(sites)
        half = 0.5 * torch.tensor(lattice.spacing, dtype=torch.float64)
        self.above = free_energies_of_cells(combined, self.walkers.centres(), half)
        self.wanted = windows_to_open(
            lattice,
            sites,
            self.above,
            pairs,
            combined.windows.pair_overlap(pairs),
            cutoff=self.config.cutoff,
            least_overlap=self.config.pair_overlap,
        )

    def _redistribute(self) -> None:
        """Keep the windows below the cutoff and its margin, and distribute walkers by their populations."""
        highest = max(self.config.cutoff + self.config.margin, np.sort(self.above)[1])  # MBAR needs two
        kept = np.flatnonzero(self.above <= highest)
        self._keep_equilibrated(self.opened)
        self.stretches = [one.of_windows(kept) for one in self.stretches]
        self.free_energy = self.free_energy[kept]
        self.walkers.redistribute(kept, allocate(self.above[kept], self.config.walkers // self.config.replicates))

    def _keep_equilibrated(self, windows: int) -> None:
        """Drop the last frames of all but the first `windows` windows: walkers had only just reached the others."""
        if self.stretches:
            last = self.stretches.pop().of_windows(np.arange(windows))
            self.stretches += [last] if len(last.window) else []

    # ---- estimates --------------------------------------------------------------------------------

    def _combine(self, mbar_frames: int, error_stretches: int) -> Combined:
        config: UmbrellaConfig = self.config
        combined = combine(
            self.problem.cvs,
            self.walkers.restraints(),
            self.stretches,
            self.free_energy,
            cutoff=config.cutoff,
            mbar_frames=mbar_frames,
            min_overlap=config.min_overlap,
            stretches_for_errors=error_stretches,
        )
        self.free_energy = combined.windows.free_energy
        half = 0.5 * torch.tensor(self.walkers.lattice.spacing, dtype=torch.float64)
        self.facts = combined.facts | {"unvisited_windows": unvisited_cells(combined, self.walkers.centres(), half)}
        return combined

    def diagnostics(self) -> dict[str, Any]:
        """Return windows, exchanges, overlap, and warnings."""
        if not self.facts:
            return {}
        warnings = warnings_of(self.facts)
        if self.config.cutoff < LEAST_CUTOFF:
            warnings.append(f"windows end at {self.config.cutoff:g} kT: basins behind higher barriers are not found")
        if not self.produced:
            warnings.append("no production yet: windows are being opened")
        if self.wanted:
            warnings.append(f"{len(self.wanted)} windows remain to be opened")
        attempted, accepted = self.walkers.exchanges
        warnings += self.walkers.turns.warnings()
        return self.facts | {
            **self.walkers.turns.diagnostics(),
            "windows": len(self.walkers.sites),
            "walkers": len(self.walkers),
            "rounds": self.round,
            "exchanges_accepted": accepted / max(1, attempted),
            "reliable": not warnings,
            "warnings": warnings,
        }

    # ---- checkpoint -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return walkers, windows, and all frames."""
        return self.walkers.state_dict() | {
            "wanted": [[list(site), parent] for site, parent in self.wanted],
            "free_energy": torch.from_numpy(self.free_energy.copy()),
            "above": torch.from_numpy(self.above.copy()),
            "stretches": [[one.s, one.window, one.replicate] for one in self.stretches],
            "stage": self.stage,
            "numbers": [self.round, self.opened, self.produced, self.planned],
            "facts": self.facts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.walkers.load_state_dict(state)
        self.wanted = [(tuple(site), parent) for site, parent in state["wanted"]]
        self.free_energy, self.above = state["free_energy"].numpy(), state["above"].numpy()
        self.stretches = [Frames(*one) for one in state["stretches"]]
        self.stage = state["stage"]
        self.round, self.opened, self.produced, self.planned = (int(number) for number in state["numbers"])
        self.facts = dict(state["facts"])
