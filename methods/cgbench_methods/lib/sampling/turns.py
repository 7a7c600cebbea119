"""How often side chains and other torsions that are not collective variables turn during a simulation.

A bias on the collective variables does not help a side chain over its barriers. If walkers keep the rotamer that they
started in, all of them share its error, and the errors that a method claims do not contain it.

A torsion has turned when it is more than a right angle from where it was after its last turn, so vibrations do not
count. For two wells of equal population that walkers leave at the rate r, n turns of a walker take the time n/r and the
memory of the start decays as exp(-2 r t): after `FEW` turns little is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from cgbench.contracts.problem import Problem

__all__ = ["Turns"]

TURN = 0.5 * math.pi
EVERY = 200  # steps between two looks
FEW = 5.0  # turns of a walker, below which the torsion is slow


class Turns:
    """Counts the turns of each walker's free torsions (`Problem.free_torsions`).

    Parameters
    ----------
    problem
        The system. Without free torsions nothing is counted.
    walkers
        Number of walkers.
    """

    def __init__(self, problem: Problem, walkers: int) -> None:
        self.problem, self.names = problem, problem.free_torsions
        self.last = torch.full((walkers, len(self.names)), torch.nan, dtype=torch.float64)
        self.turns = torch.zeros(walkers, len(self.names), dtype=torch.int64)
        self._steps = 0  # since the last look

    def note(self, x: torch.Tensor, steps: int) -> None:
        """Look at configurations ``[walkers, atoms, 3]`` advanced by `steps`, if `EVERY` steps have passed."""
        self._steps += steps
        if not self.names or self._steps < EVERY:
            return
        self._steps = 0
        angles = self.problem.free_torsion_angles(x).double().cpu()
        distance = torch.remainder(angles - self.last + math.pi, 2 * math.pi) - math.pi
        turned = distance.abs() > TURN  # false for a walker that has diverged
        self.turns = self.turns + turned
        self.last = torch.where(turned | self.last.isnan(), angles, self.last)

    def reorder(self, order: torch.Tensor) -> None:
        """Follow walkers that were rearranged: walker i is now what walker ``order[i]`` was."""
        self.last, self.turns = self.last[order], self.turns[order]

    def diagnostics(self) -> dict[str, Any]:
        """Return ``turns_per_walker``, and a verdict if a torsion is slow; nothing without free torsions."""
        if not self.names:
            return {}
        mean = dict(zip(self.names, self.turns.double().mean(0).tolist(), strict=True))
        return {"turns_per_walker": mean} | ({"reliable": False} if self.warnings() else {})

    def warnings(self) -> list[str]:
        """Return a warning if torsions are slow."""
        mean = self.turns.double().mean(0).tolist()
        slow = [f"{name}: {turns:.2g}" for name, turns in zip(self.names, mean, strict=True) if turns < FEW]
        if not slow:
            return []
        return [
            f"side chains turn too rarely ({', '.join(slow)} turns per walker); their populations may be those of the "
            "start, and the claimed errors do not contain this"
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"last": self.last, "turns": self.turns, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.last, self.turns, self._steps = state["last"], state["turns"], int(state["steps"])
