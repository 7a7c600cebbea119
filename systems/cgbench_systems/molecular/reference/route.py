"""What the routes to a reference share: their dynamics, their blocks of samples and their checkpoints."""

from __future__ import annotations

import io
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import openmm
import torch
from numpy.typing import NDArray

from cgbench.contracts.reference import ReferenceBuilder
from cgbench.contracts.system import System
from cgbench.errors import StorageError, UserError
from cgbench.storage.files import write_atomically
from cgbench_methods.lib.sampling.langevin import EnergyAndGradient, Langevin

__all__ = ["FRICTION", "TIME_STEP", "Array", "Route", "RoutesBuilder", "check_blocks", "log", "writing"]

R = TypeVar("R", bound="Route")

Array = NDArray[np.float64]
TIME_STEP, FRICTION = 0.001, 1.0  # ps, 1/ps


def log(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Route(ABC):
    """A resumable way to sample the PMF.

    Attributes
    ----------
    name, title
        Name on the command line, and what the certificate says.
    walkers
        Number of walkers.
    block_steps, stride
        Steps of each walker per block, and between two samples.
    equilibration
        Number of blocks that are discarded at the start.
    group
        Number of successive blocks that together are treated as independent of the next ones.
    time_step
        Time step in ps.
    blocks
        Samples of successive blocks: weighted histograms, or collective variables (umbrella sampling).
    cpu_seconds
        CPU time of the sampling so far.

    Parameters
    ----------
    system
        The molecule.
    folder
        Folder of the checkpoint, from which a route continues.
    seed
        Seed of all random numbers of the route.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    walkers: int = 2048
    block_steps: int = 1000
    stride: int = 10
    equilibration: int
    group: int = 20
    time_step: float = TIME_STEP

    def __init__(self, system: System, folder: Path, seed: int = 0) -> None:
        self.system, self.folder, self.seed = system, folder, seed
        self.generator = torch.Generator(device=system.device).manual_seed(seed)
        self.blocks: list[Array] = []
        self.cpu_seconds = 0.0

    def langevin(
        self, evaluate: EnergyAndGradient, positions: torch.Tensor, time_step: float | None = None
    ) -> Langevin:
        """Return the dynamics of the routes: the Langevin middle scheme in float32, by default with `time_step`."""
        assert self.system.masses is not None
        return Langevin(
            evaluate,
            self.system.masses.to(self.system.device),
            self.system.temperature,
            time_step=self.time_step if time_step is None else time_step,
            friction=FRICTION,
            positions=positions.to(self.system.device).float(),
            generator=self.generator,
        )

    @abstractmethod
    def advance(self) -> None:
        """Sample one block, after the preparation where this is not yet done."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, besides the blocks and the generator."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""

    def summary(self) -> str:
        """Describe the progress in one line."""
        return f"block {len(self.blocks)}"

    def run(self, blocks: int, progress: Callable[[str], None] = log) -> None:
        """Sample until there are `blocks` blocks, with a checkpoint after each."""
        began = time.process_time()
        while len(self.blocks) < blocks:
            self.advance()
            now = time.process_time()
            self.cpu_seconds, began = self.cpu_seconds + now - began, now
            self.save()
            progress(f"{self.name}: {self.summary()}")

    def kept(self) -> Array:
        """Return the blocks after equilibration, ``[blocks, ...]``.

        Raises
        ------
        UserError
            If there are none yet.
        """
        kept = self.blocks[self.equilibration :]
        if not kept:
            raise UserError(
                f"route {self.name} has {len(self.blocks)} blocks in {self.folder}, and the first {self.equilibration} "
                f"are equilibration: build at least {self.equilibration + 1} (--blocks)"
            )
        return np.array(kept)

    @property
    def steps(self) -> int:
        """Number of energy evaluations in the kept blocks."""
        return max(0, len(self.blocks) - self.equilibration) * self.block_steps * self.walkers

    def check_state_space(self, positions: torch.Tensor) -> None:
        """Check that all walkers are in the state space; others, such as D-alanine, would distort the averages.

        Raises
        ------
        UserError
            If walkers left the state space, or their positions are not finite.
        """
        inside = self.system.coordinates.in_state_space(positions)
        if not bool(inside.all()):
            raise UserError(
                f"route {self.name}: {int((~inside).sum())} of {len(inside)} walkers left the state space of "
                f"{self.system.name} in block {len(self.blocks) + 1}: restrain the molecule, or widen its state space "
                "(Coordinates.in_state_space)"
            )

    # ---- checkpoint -------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        """File that the route continues from."""
        return self.folder / f"{self.name}.pt"

    def save(self) -> None:
        """Write the checkpoint atomically, with all tensors on the CPU.

        Raises
        ------
        StorageError
            If it cannot be written; the previous checkpoint stays.
        """
        state = self.state() | {
            "system": self._identity(),
            "generator": self.generator.get_state(),
            "blocks": torch.from_numpy(np.array(self.blocks)),
            "cpu_seconds": self.cpu_seconds,
        }
        buffer = io.BytesIO()
        torch.save(_on_cpu(state), buffer)
        try:
            write_atomically(self.checkpoint, buffer.getvalue())
        except OSError as error:
            raise StorageError(f"cannot write checkpoint {self.checkpoint}: {error.strerror or error}") from error

    def load(self) -> bool:
        """Continue from the checkpoint; return False if there is none.

        Raises
        ------
        UserError
            If the checkpoint cannot be read or is of another system.
        """
        if not self.checkpoint.exists():
            return False
        try:
            state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        except Exception as error:  # a damaged file may raise anything
            raise self._unreadable(error) from error
        mine = self._identity()
        if isinstance(state, dict) and state.get("system", mine) != mine:
            raise UserError(
                f"checkpoint {self.checkpoint} is of {state['system']}, not of {mine}: choose another folder (--out)"
            )
        try:
            self.blocks = list(state["blocks"].numpy())
            self.restore(state)
            self.generator.set_state(state["generator"])
            self.cpu_seconds = float(state.get("cpu_seconds", 0.0))
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise self._unreadable(error) from error
        return True

    def _identity(self) -> str:
        return f"{self.system.name}, version {self.system.version}, {self.walkers} walkers"

    def _unreadable(self, error: Exception) -> UserError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return UserError(f"checkpoint {self.checkpoint} cannot be read ({reason}); remove it to start over")


class RoutesBuilder(ReferenceBuilder):
    """What builders of references share: their routes, each with its checkpoint.

    Attributes
    ----------
    routes
        Routes and their default sizes: blocks of sampling, or trajectories of route "openmm". A sampling route's class
        is the attribute of its name.

    Parameters
    ----------
    system
        The molecule on its batched force field.
    openmm_system
        The same molecule as an ``openmm.System``.
    folder
        Folder of the checkpoints.
    destination
        The system's reference folder.
    facts
        What the certificate says about the system: its force field, for example.

    Raises
    ------
    UserError
        If the system has no basins or states.
    """

    def __init__(
        self, system: System, openmm_system: openmm.System, folder: Path, destination: Path, facts: Mapping[str, Any]
    ) -> None:
        self.system, self.openmm_system = system, openmm_system
        self.folder, self.destination, self.facts = folder, destination, facts
        self.trajectories = self.routes["openmm"]
        if not system.basins and system.states is None:
            raise UserError(f"system {system.name} has no basins or states, whose populations certify a reference")

    def build(self, route: str, blocks: int) -> None:
        """Sample a route until it has `blocks` blocks; route "openmm" only notes its number of trajectories."""
        if route == "openmm":
            self.trajectories = blocks
            return
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        sampler = self.sampling_route(route)
        if sampler.load():
            log(f"{route}: continuing from {len(sampler.blocks)} blocks")
        if len(sampler.blocks) < blocks:
            self.system.compile()
            sampler.run(blocks)

    def check_certifiable(self, blocks: int) -> None:
        """Check what `check_blocks` does, for the blocks that the biased route has or is to have.

        Raises
        ------
        UserError
            In words of the command line.
        """
        route: Any = self.sampling_route("biased")
        route.load()
        check_blocks(route, max(blocks, len(route.blocks)), self.destination)

    def sampling_route(self, route: str) -> Route:
        """Return a route that can be sampled."""
        kind: type[Route] = getattr(self, route)
        return kind(self.system, self.folder)

    def built(self, kind: type[R]) -> R:
        """Return a route with the blocks of its checkpoint.

        Raises
        ------
        UserError
            If it has none.
        """
        sampler = kind(self.system, self.folder)
        if not sampler.load():
            raise UserError(
                f"route {kind.name} has no checkpoint in {self.folder}: build it first (--route {kind.name})"
            )
        return sampler


def check_blocks(route: Any, blocks: int, destination: Path) -> None:
    """Refuse a certificate from so few blocks that it has no errors, or that would replace a better one.

    Parameters
    ----------
    route
        The biased route, with `fewest_blocks`.
    blocks
        Number of its blocks.
    destination
        The system's reference folder.

    Raises
    ------
    UserError
        In words of the command line.
    """
    if blocks < route.fewest_blocks:
        raise UserError(
            f"a certificate needs at least {route.fewest_blocks} blocks of route {route.name} (--blocks), not {blocks} "
            f"in {route.folder}"
        )
    if not (destination / "reference.json").exists():
        return
    known = json.loads((destination / "reference.json").read_text(encoding="utf-8"))
    steps = (blocks - route.equilibration) * route.block_steps * route.walkers
    if known.get("system_version") == route.system.version and known.get("production_steps", 0) > steps:
        raise UserError(
            f"{destination} has a certificate of {known['production_steps']:.1e} steps, more than the {steps:.1e} of "
            f"{blocks} blocks: build more blocks (--blocks), or remove it first"
        )


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failure to write to a folder into one line for the user."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror or error}") from error


def _on_cpu(value: Any) -> Any:
    """Return nested dictionaries and lists with their tensors moved to the CPU."""
    if isinstance(value, Mapping):
        return {key: _on_cpu(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_on_cpu(inner) for inner in value]
    return value.cpu() if isinstance(value, torch.Tensor) else value
