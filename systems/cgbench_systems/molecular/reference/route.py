"""What the routes to a reference share: a system, a folder, checkpoints, and a log."""

from __future__ import annotations

import pickle
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench_methods.lib.sampling.langevin import EnergyAndGradient, Langevin

__all__ = ["Route", "log"]

Array = NDArray[np.float64]
TIME_STEP, FRICTION = 0.001, 1.0  # ps, 1/ps


def log(text: str) -> None:
    """Print with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Route(ABC):
    """One resumable way to sample; `blocks` are weighted histograms of equal stretches of time.

    Parameters
    ----------
    system
        The molecule.
    folder
        Where the checkpoint lives; a route goes on from it.
    seed
        Of all randomness of the route.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    walkers: int = 2048
    block_steps: int = 1000
    stride: int = 10
    equilibration: int  # blocks left out at the start
    group: int = 20  # blocks that make an independent one

    def __init__(self, system: System, folder: Path, seed: int = 0) -> None:
        self.system, self.folder, self.seed = system, folder, seed
        self.generator = torch.Generator(device=system.device).manual_seed(seed)
        self.blocks: list[Array] = []

    def langevin(self, evaluate: EnergyAndGradient, positions: torch.Tensor) -> Langevin:
        """The one dynamics of all routes: Langevin middle scheme, float32."""
        assert self.system.masses is not None
        return Langevin(
            evaluate,
            self.system.masses.to(self.system.device),
            self.system.temperature,
            time_step=TIME_STEP,
            friction=FRICTION,
            positions=positions.float(),
            generator=self.generator,
        )

    @abstractmethod
    def advance(self) -> None:
        """Sample one more block (or a stretch of preparation)."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that `load` needs, besides blocks and generator."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""

    def summary(self) -> str:
        """One line on how far the route is."""
        return f"block {len(self.blocks)}"

    def run(self, blocks: int, progress: Callable[[str], None] = log) -> None:
        """Sample until there are so many blocks, saving after each."""
        while len(self.blocks) < blocks:
            self.advance()
            self.save()
            progress(f"{self.name}: {self.summary()}")

    def kept(self) -> Array:
        """Blocks after equilibration ``[blocks, bins, bins]``."""
        return np.array(self.blocks[self.equilibration :])

    @property
    def steps(self) -> int:
        """Energy evaluations behind `kept`."""
        return max(0, len(self.blocks) - self.equilibration) * self.block_steps * self.walkers

    def check_state_space(self, positions: torch.Tensor) -> None:
        """Walkers must stay in the state space; a D molecule or a cis bond would spoil the average."""
        inside = self.system.coordinates.in_state_space(positions)
        if not bool(inside.all()):
            raise RuntimeError(f"{int((~inside).sum())} walkers left the state space of {self.system.name}")

    # ---- checkpoint -------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        """File that the route goes on from."""
        return self.folder / f"{self.name}.pt"

    def save(self) -> None:
        """Write the checkpoint; it is whole at every moment."""
        state = self.state() | {
            "generator": self.generator.get_state(),
            "blocks": torch.from_numpy(np.array(self.blocks)),
        }
        temporary = self.checkpoint.with_suffix(".new")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)

    def load(self) -> bool:
        """Go on from the checkpoint if there is one.

        Raises
        ------
        UserError
            If it cannot be read.
        """
        if not self.checkpoint.exists():
            return False
        try:
            state = torch.load(self.checkpoint, weights_only=True, map_location=self.system.device)
            self.blocks = list(state["blocks"].cpu().numpy())
            self.restore(state)
            self.generator.set_state(state["generator"].cpu())
        except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"checkpoint {self.checkpoint} cannot be read ({reason}); remove it to start over"
            ) from error
        return True
