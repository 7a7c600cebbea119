"""Umbrella windows over the whole torus with exchange, combined by MBAR: independent of the other routes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgbench.contracts.system import System
from cgbench_methods.lib.estimators.mbar import quiet_pymbar
from cgbench_systems.molecular.reference.route import Array, Route, log
from cgbench_systems.molecular.reference.side_chains.bias import TorsionBias
from cgbench_systems.molecular.reference.side_chains.torsions import SideTorsions

__all__ = ["UmbrellaRoute"]

PULL_CHECKPOINT = 2000  # steps
DEPOSIT = 50  # steps between two hills on side-chain torsions while the walkers are pulled


class UmbrellaRoute(Route):
    """Walkers restrained to the points of a regular grid of two dihedral angles, several to each point.

    The restraint is ``stiffness (2 - cos(phi - phi_k) - cos(psi - psi_k))`` in kT. Every walker starts in the
    minimum, with side chains in any of their rotamers, and is pulled to its window. The i-th walkers of all windows
    form replicate i, a complete and independent umbrella simulation; errors come from the differences between
    replicates. Neighbouring windows of a replicate exchange their walkers (Sugita, Kitao, Okamoto, J. Chem. Phys.
    113, 6042, 2000). Without exchange, windows on a ridge of the PMF, where no affordable restraint holds a walker,
    keep their walkers on the side from which they were pulled; for alanine dipeptide the population of phi > 0 was
    then 0.0014 instead of 0.0032.

    A bias along each side-chain torsion (`TorsionBias`) is built while the walkers are pulled, then frozen. It is the
    same in all windows, and samples are weighted by its exponential.

    Attributes
    ----------
    per_side
        Number of windows along each angle.
    stiffness
        In kT. With 16 windows per side they are 0.39 rad apart and 0.29 rad wide.
    pull_steps
        Steps in which the walkers are pulled to their windows.
    frames
        Number of samples per block.
    exchange
        Steps between two attempts to exchange neighbours.
    mbar_frames
        Samples of each walker from which the free energies of the windows are computed.
    """

    name = "umbrella"
    title = "umbrella windows with exchange, combined by MBAR"
    equilibration = 20
    per_side = 16
    stiffness = 12.0
    pull_steps = 5_000
    frames = 10
    exchange = 20
    mbar_frames = 60

    def __init__(self, system: System, folder: Path, seed: int = 1) -> None:
        super().__init__(system, folder, seed)
        side = -math.pi + (torch.arange(self.per_side) + 0.5) * 2 * math.pi / self.per_side
        self.windows = torch.cartesian_prod(side, side)
        self.replicates = self.walkers // len(self.windows)
        self.goal = self.windows.repeat(self.replicates, 1).to(system.device)
        self.torsions = SideTorsions(system)
        self.torsion_bias = TorsionBias(len(self.torsions))
        self.frozen = False  # whether the bias on torsions is the final one
        start = self.torsions.starts_at_minimum(self.walkers, seed)
        self.origin = system.collective_variables(start[:1]).float()
        self.pulled, self.attempts, self.exchanged = 0, 0, 0.0
        self.dynamics = self.langevin(self._evaluate, start)

    def _centre(self) -> torch.Tensor:
        """Return the centres of the restraints; they move from the minimum to the windows by the shorter arc."""
        fraction = min(1.0, self.pulled / self.pull_steps)
        return self.origin + fraction * self.system.cvs.difference(self.goal, self.origin)

    def _evaluate(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy, gradient = self.system.reduced_energy_and_gradient(x)
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            s = self.system.collective_variables(leaf)
            restraint = self.stiffness * (1.0 - (s - self._centre()).cos()).sum(1)
            if not self.torsions.atoms:
                (pull,) = torch.autograd.grad(restraint.sum(), leaf)
                return energy + restraint.detach(), gradient + pull
            angles = self.torsions.angles(leaf)
            bias, slope = self.torsion_bias.energy_and_gradient(angles.detach())
            (pull,) = torch.autograd.grad(restraint.sum() + (angles * slope).sum(), leaf)
        return energy + restraint.detach() + bias, gradient + pull

    def advance(self) -> None:
        """Pull the walkers to their windows where this is not yet done, then sample a block."""
        while self.pulled < self.pull_steps:
            self.pulled += 1
            self.dynamics.step()
            if self.torsions.atoms and self.pulled % DEPOSIT == 0:
                self.torsion_bias.deposit(self.torsions.angles(self.dynamics.positions), DEPOSIT)
            if self.pulled % PULL_CHECKPOINT == 0:
                log(f"umbrella: pulled for {self.pulled} of {self.pull_steps} steps")
                self.save()
        if self.torsions.atoms and not self.frozen:
            self.torsion_bias.freeze()
            self.frozen = True
        frames = []
        interval = max(1, self.block_steps // self.frames)
        for done in range(self.exchange, self.block_steps + 1, self.exchange):
            self.dynamics.step(self.exchange)
            s = self.system.collective_variables(self.dynamics.positions).float()
            if done // interval > (done - self.exchange) // interval:
                frames.append(self._with_bias(s).cpu().numpy())
            self._exchange(s)
        self.check_state_space(self.dynamics.positions)
        self.blocks.append(np.array(frames))

    def _with_bias(self, s: torch.Tensor) -> torch.Tensor:
        """Append the bias on side-chain torsions to the CVs of the walkers, where there are such torsions."""
        if not self.torsions.atoms:
            return s
        bias = self.torsion_bias.energy(self.torsions.angles(self.dynamics.positions)).float()
        return torch.cat([s, bias[:, None]], dim=1)

    def _exchange(self, s: torch.Tensor) -> None:
        """Exchange walkers of neighbouring windows by Metropolis, alternating the angle and even and odd pairs."""
        axis, parity = self.attempts % 2, self.attempts // 2 % 2
        self.attempts += 1
        side, walkers = self.per_side, torch.arange(self.walkers, device=s.device)
        window = walkers % side**2
        column = window // side if axis == 0 else window % side
        lower = (column % 2 == parity).nonzero().squeeze(1)
        step = (column[lower] + 1) % side - column[lower]
        upper = lower + step * (side if axis == 0 else 1)
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
        """Describe the progress: the block, and the acceptance rate of exchanges."""
        return f"block {len(self.blocks)}, {self.exchanged / max(1, self.attempts):.0%} of exchanges accepted"

    # ---- estimates --------------------------------------------------------------------------------

    def _restraints(self, s: Array) -> Array:
        """Return the restraint energies ``[windows, samples]`` in kT."""
        centre = self.windows.numpy().astype(float)
        return np.asarray(self.stiffness * (1.0 - np.cos(s[None] - centre[:, None])).sum(2))

    def window_free_energies(self, samples: Array) -> Array:
        """Return the free energies of the windows ``[windows]`` by MBAR.

        Parameters
        ----------
        samples
            Collective variables ``[frames, walkers, 2]`` of one or more whole replicates; walker k of a replicate is
            in window k. A third column, the bias on side-chain torsions, is the same in all windows and cancels.
        """
        pymbar = quiet_pymbar()
        step = max(1, len(samples) // self.mbar_frames)
        by_window = samples[::step, :, :2].reshape(-1, samples.shape[1] // len(self.windows), len(self.windows), 2)
        s = by_window.transpose(2, 0, 1, 3).reshape(-1, 2)
        counts = np.full(len(self.windows), len(s) // len(self.windows))
        # pymbar numbers the samples window by window
        newton = {"solver_protocol": ({"method": "adaptive", "options": {"maxiter": 1000, "min_sc_iter": 2}},)}
        return np.asarray(pymbar.FES(self._restraints(s), counts, mbar_options=newton).get_mbar().f_k)

    def histogram(self, samples: Array) -> Array:
        """Return the reweighted histogram of samples ``[frames, walkers, 2 or 3]``, normalised."""
        free_energy = self.window_free_energies(samples)
        total: Array = np.zeros(self.system.cvs.bins)
        for frame in np.array_split(samples, max(1, len(samples) // 20)):
            rows = frame.reshape(-1, frame.shape[2]).astype(float)
            s = rows[:, :2]
            exponent = free_energy[:, None] - self._restraints(s)
            top = exponent.max(0)
            weights = np.exp(-top) / np.exp(exponent - top).sum(0)
            if rows.shape[1] > 2:
                weights *= np.exp(rows[:, 2])
            total += self.system.cvs.histogram(s, weights)
        return np.asarray(total / total.sum())

    def estimates(self) -> tuple[Array, Array]:
        """Return the histogram of all samples, and that of each replicate ``[replicates, bins, bins]``."""
        samples = np.concatenate(list(self.kept()))
        return self.histogram(samples), self._by_replicate(samples)

    def halves(self) -> tuple[Array, Array]:
        """Return the histograms of each replicate ``[replicates, bins, bins]`` over both halves of the time."""
        samples = np.concatenate(list(self.kept()))
        middle = len(samples) // 2
        return self._by_replicate(samples[:middle]), self._by_replicate(samples[middle:])

    def _by_replicate(self, samples: Array) -> Array:
        count = len(self.windows)
        return np.array([self.histogram(samples[:, i * count : (i + 1) * count]) for i in range(self.replicates)])

    def neighbour_overlap(self) -> float:
        """Return the smallest overlap of any window with its four neighbours (0 to 1).

        The overlap is the fraction of a window's samples whose Boltzmann factor in a neighbour's restraint is at
        least a tenth of that in its own.
        """
        samples = np.concatenate(list(self.kept()))[::10]
        least = 1.0
        centre = self.windows.numpy().astype(float)
        spacing = 2 * np.pi / self.per_side
        for k in range(len(centre)):
            s = samples[:, k :: len(centre), :2].reshape(-1, 2).astype(float)
            own = (1.0 - np.cos(s - centre[k])).sum(1)
            near = [np.array(d) * spacing for d in ((1, 0), (-1, 0), (0, 1), (0, -1))]
            others = np.min([(1.0 - np.cos(s - centre[k] - d)).sum(1) for d in near], axis=0)
            least = min(least, float((self.stiffness * (others - own) < math.log(10.0)).mean()))
        return least

    def state(self) -> dict[str, Any]:
        """Return the walkers, the pulling steps done, and the exchange statistics."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "torsion_bias": self.torsion_bias.state_dict(),
            "frozen": self.frozen,
            "pulled": self.pulled,
            "attempts": self.attempts,
            "exchanged": self.exchanged,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.dynamics.load_state_dict(state["dynamics"])
        if self.torsions.atoms:
            self.torsion_bias.load_state_dict(state["torsion_bias"])
            self.frozen = bool(state["frozen"])
        self.pulled, self.attempts = int(state["pulled"]), int(state["attempts"])
        self.exchanged = float(state["exchanged"])
