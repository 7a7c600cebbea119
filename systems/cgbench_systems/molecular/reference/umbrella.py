"""Umbrella windows over the whole torus with exchange, combined by MBAR: a route of its own, from the minimum."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgbench.contracts.system import System
from cgbench_systems.molecular.reference.route import Array, Route, log

__all__ = ["UmbrellaRoute"]


class UmbrellaRoute(Route):
    """Walkers restrained to the points of a regular grid of (phi, psi), several to each.

    The restraint is ``stiffness (2 - cos(phi - phi_k) - cos(psi - psi_k))`` in kT. Every walker starts in the
    minimum and is pulled to its window. The walkers with one number in each window are a complete and
    independent umbrella simulation, so that errors come from comparing those. Neighbouring windows of one
    simulation exchange their walkers (Sugita, Kitao, Okamoto, J. Chem. Phys. 113, 6042, 2000). Without exchange
    windows on a ridge of the PMF, which no affordable restraint holds there, keep their walkers on the side
    that they were pulled from: the population of phi > 0 was then 0.0014, less than half of what it is.
    """

    name = "umbrella"
    title = "umbrella windows with exchange, combined by MBAR"
    equilibration = 20
    per_side = 16
    stiffness = 12.0  # kT; windows are 0.39 rad apart, their width is 0.29 rad
    pull_steps = 5_000
    frames = 10  # kept of each block
    exchange = 20  # steps between attempts to exchange neighbours
    mbar_frames = 60  # of each walker, that the free energies of windows are solved with

    def __init__(self, system: System, folder: Path, seed: int = 1) -> None:
        super().__init__(system, folder, seed)
        side = -math.pi + (torch.arange(self.per_side) + 0.5) * 2 * math.pi / self.per_side
        self.windows = torch.cartesian_prod(side, side)
        self.replicates = self.walkers // len(self.windows)
        self.goal = self.windows.repeat(self.replicates, 1).to(system.device)
        start = system.initial_configuration()[None].repeat(self.walkers, 1, 1)
        self.origin = system.collective_variables(start[:1]).float()
        self.pulled, self.attempts, self.exchanged = 0, 0, 0.0
        self.dynamics = self.langevin(self._evaluate, start)

    def _centre(self) -> torch.Tensor:
        """Centres of the restraints; they move from the minimum to the windows, by the shorter way."""
        reach = min(1.0, self.pulled / self.pull_steps)
        return self.origin + reach * self.system.cvs.difference(self.goal, self.origin)

    def _evaluate(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy, gradient = self.system.reduced_energy_and_gradient(x)
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            s = self.system.collective_variables(leaf)
            restraint = self.stiffness * (1.0 - (s - self._centre()).cos()).sum(1)
            (pull,) = torch.autograd.grad(restraint.sum(), leaf)
        return energy + restraint.detach(), gradient + pull

    def advance(self) -> None:
        """Pull to the windows first, then sample a block."""
        while self.pulled < self.pull_steps:
            self.pulled += 1
            self.dynamics.step()
            if self.pulled % 2000 == 0:
                log(f"umbrella: pulled {self.pulled} of {self.pull_steps} steps")
        frames = []
        kept = max(1, self.block_steps // self.frames)
        for done in range(self.exchange, self.block_steps + 1, self.exchange):
            self.dynamics.step(self.exchange)
            s = self.system.collective_variables(self.dynamics.positions).float()
            if done // kept > (done - self.exchange) // kept:
                frames.append(s.cpu().numpy())
            self._exchange(s)
        self.check_state_space(self.dynamics.positions)
        self.blocks.append(np.array(frames))

    def _exchange(self, s: torch.Tensor) -> None:
        """Exchange the walkers of neighbouring windows by Metropolis; along each angle, even and odd pairs in turn."""
        axis, parity = self.attempts % 2, self.attempts // 2 % 2
        self.attempts += 1
        side, walkers = self.per_side, torch.arange(self.walkers, device=s.device)
        window = walkers % side**2
        place = window // side if axis == 0 else window % side
        lower = (place % 2 == parity).nonzero().squeeze(1)
        onwards = (place[lower] + 1) % side - place[lower]
        upper = lower + onwards * (side if axis == 0 else 1)
        centre = self.goal[:, axis]
        cost = -self.stiffness * (
            (s[upper, axis] - centre[lower]).cos()
            + (s[lower, axis] - centre[upper]).cos()
            - (s[lower, axis] - centre[lower]).cos()
            - (s[upper, axis] - centre[upper]).cos()
        )
        uniform = torch.rand(len(lower), generator=self.generator, device=s.device)
        accepted = uniform.log() < -cost
        order = walkers.clone()
        order[lower[accepted]], order[upper[accepted]] = upper[accepted], lower[accepted]
        self.dynamics.positions = self.dynamics.positions[order]
        self.dynamics.velocities = self.dynamics.velocities[order]
        self.exchanged += float(accepted.float().mean())

    def summary(self) -> str:
        """Block, and how often an exchange is accepted."""
        return f"block {len(self.blocks)}, {self.exchanged / max(1, self.attempts):.0%} of exchanges accepted"

    # ---- estimates --------------------------------------------------------------------------------

    def _restraints(self, s: Array) -> Array:
        """Restraint energies ``[windows, samples]``."""
        centre = self.windows.numpy().astype(float)
        return np.asarray(self.stiffness * (1.0 - np.cos(s[None] - centre[:, None])).sum(2))

    def window_free_energies(self, samples: Array) -> Array:
        """Free energies of the windows ``[windows]`` by MBAR, from ``samples [frames, walkers, 2]``.

        The walkers are those of whole replicates: window k of a replicate is walker k.
        """
        from pymbar import FES

        step = max(1, len(samples) // self.mbar_frames)
        by_window = samples[::step].reshape(-1, samples.shape[1] // len(self.windows), len(self.windows), 2)
        s = by_window.transpose(2, 0, 1, 3).reshape(-1, 2)
        counts = np.full(len(self.windows), len(s) // len(self.windows))
        # pymbar numbers the samples window by window
        newton = {"solver_protocol": ({"method": "adaptive", "options": {"maxiter": 1000, "min_sc_iter": 2}},)}
        return np.asarray(FES(self._restraints(s), counts, mbar_options=newton).get_mbar().f_k)

    def histogram(self, samples: Array) -> Array:
        """Reweighted histogram of ``samples [frames, walkers, 2]``, normalised."""
        free_energy = self.window_free_energies(samples)
        total: Array = np.zeros(self.system.cvs.bins)
        for frame in np.array_split(samples, max(1, len(samples) // 20)):
            s = frame.reshape(-1, 2).astype(float)
            exponent = free_energy[:, None] - self._restraints(s)
            top = exponent.max(0)
            weights = np.exp(-top) / np.exp(exponent - top).sum(0)
            total += self.system.cvs.histogram(s, weights)
        return np.asarray(total / total.sum())

    def estimates(self) -> tuple[Array, Array]:
        """Return the histogram of everything, and one of each replicate ``[replicates, bins, bins]``."""
        samples = np.concatenate(self.blocks[self.equilibration :])
        count = len(self.windows)
        parts = [self.histogram(samples[:, i * count : (i + 1) * count]) for i in range(self.replicates)]
        return self.histogram(samples), np.array(parts)

    def neighbour_overlap(self) -> float:
        """Smallest overlap of a window with the union of its four neighbours, over windows (0 to 1).

        The part of a window's samples that a neighbour's restraint makes at least a tenth as likely.
        """
        samples = np.concatenate(self.blocks[self.equilibration :])[::10]
        least = 1.0
        centre = self.windows.numpy().astype(float)
        spacing = 2 * np.pi / self.per_side
        for k in range(len(centre)):
            s = samples[:, k :: len(centre)].reshape(-1, 2).astype(float)
            own = (1.0 - np.cos(s - centre[k])).sum(1)
            near = [np.array(d) * spacing for d in ((1, 0), (-1, 0), (0, 1), (0, -1))]
            others = np.min([(1.0 - np.cos(s - centre[k] - d)).sum(1) for d in near], axis=0)
            least = min(least, float((self.stiffness * (others - own) < math.log(10.0)).mean()))
        return least

    def state(self) -> dict[str, Any]:
        """Walkers, how far they have been pulled, and their exchanges."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "pulled": self.pulled,
            "attempts": self.attempts,
            "exchanged": self.exchanged,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.dynamics.load_state_dict(state["dynamics"])
        self.pulled, self.attempts = int(state["pulled"]), int(state["attempts"])
        self.exchanged = float(state["exchanged"])
