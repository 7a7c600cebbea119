"""Walkers that share one bias on OpenMM: ``app.Metadynamics`` drives a simulation whose steps are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import openmm
import torch
from numpy.typing import NDArray
from openmm import app, unit

from cgbench_methods.lib.sampling.chosen import chosen_axes
from cgbench_methods.lib.sampling.turns import Turns

if TYPE_CHECKING:
    from cgbench.contracts.problem import Problem
    from cgbench_methods.metadynamics.config import MetadynamicsConfig

__all__ = ["OpenMMSampler"]

Array = NDArray[np.float64]
FINENESS = 2  # points of the tabulated bias per bin; every second point is a bin centre
TEMPERATURE = unit.kelvin
ENERGY = unit.kilojoules_per_mole


class OpenMMSampler:
    """Walkers taking turns in one OpenMM simulation, with the bias tabulated by ``app.Metadynamics``.

    Every stretch between two estimates is a new simulation with a new seed that continues from exact positions and
    velocities. It therefore depends only on `state_dict` and the random stream, and resumed runs need no OpenMM
    checkpoint.

    Parameters
    ----------
    problem
        The system.
    config
        Settings; ``bias_order`` and ``step_size`` are not used.
    generator
        Source of all seeds.
    """

    def __init__(self, problem: Problem, config: MetadynamicsConfig, generator: torch.Generator) -> None:
        self.problem, self.config, self.generator = problem, config, generator
        self.kt = (unit.MOLAR_GAS_CONSTANT_R * problem.temperature * TEMPERATURE).value_in_unit(ENERGY)
        start = problem.initial_configuration().cpu().double().numpy()
        self.positions = np.repeat(start[None], config.walkers, axis=0)
        self.turns = Turns(problem, config.walkers)
        self.velocities: Array | None = None
        self.axes = chosen_axes(problem.cvs, config.cvs, "metadynamics")
        self.cvs = problem.cvs.subset(self.axes)
        self.bias = np.zeros(tuple(FINENESS * bins + 1 for bins in reversed(self.cvs.bins)))  # kJ/mol, last CV first
        self.simulation: app.Simulation | None = None
        self.metadynamics: _Metadynamics
        self._active = -1

    # ---- the simulation ---------------------------------------------------------------------------

    def begin(self) -> None:
        """Make a new simulation that continues from the walkers and the bias."""
        if self.simulation is not None:
            self._fetch()
        config = self.config
        integrator = openmm.LangevinMiddleIntegrator(self.problem.temperature, config.friction, config.time_step)
        integrator.setRandomNumberSeed(self._seed())
        self.simulation = self.problem.openmm_simulation(integrator, self._add_bias)
        context = self.simulation.context
        if self.velocities is None:
            self.velocities = np.zeros_like(self.positions)
            for walker, positions in enumerate(self.positions):
                context.setPositions(positions)
                with self.problem.phase("build_bias"):  # OpenMM evaluates forces, which shift velocities by half a step
                    context.setVelocitiesToTemperature(self.problem.temperature, self._seed())
                self.velocities[walker] = context.getState(velocities=True).getVelocities(asNumpy=True)._value
        self._active = -1
        self._restore_bias(self.bias)

    def _seed(self) -> int:
        return int(torch.randint(1, 2**31 - 1, (1,), generator=self.generator))

    def _add_bias(self, system: openmm.System, forces: Sequence[openmm.Force]) -> None:
        cvs, config = self.cvs, self.config
        chosen = [forces[axis] for axis in self.axes]
        domains = zip(chosen, cvs.lower, cvs.upper, config.widths(cvs), cvs.periodic, cvs.bins, strict=True)
        variables = [
            app.BiasVariable(force, lower, upper, width, periodic, FINENESS * bins + 1)
            for force, lower, upper, width, periodic, bins in domains
        ]
        height = config.height / config.walkers * self.kt * ENERGY
        settings = (self.problem.temperature * TEMPERATURE, config.bias_factor, height, config.pace)
        with _numpy_generator_restored():  # OpenMM draws a random number for files that are not written here
            self.metadynamics = _Metadynamics(self._usable, system, variables, *settings)
        self._group = system.getForce(system.getNumForces() - 1).getForceGroup()

    def _restore_bias(self, bias: Array) -> None:
        """Set the bias; ``app.Metadynamics`` itself can only read it from files."""
        assert self.simulation is not None
        for grid in (self.metadynamics._selfBias, self.metadynamics._totalBias):
            grid[:] = bias
        app.Metadynamics._addGaussian(self.metadynamics, self.cvs.lower, 0.0 * ENERGY, self.simulation.context)

    def _fetch(self) -> None:
        """Copy the active walker and the bias from the simulation."""
        assert self.simulation is not None and self.velocities is not None
        self.bias = self.metadynamics._totalBias.copy()
        if self._active >= 0:
            state = self.simulation.context.getState(positions=True, velocities=True)
            self.positions[self._active] = state.getPositions(asNumpy=True)._value
            self.velocities[self._active] = state.getVelocities(asNumpy=True)._value

    def _enter(self, walker: int) -> app.Simulation:
        """Make a walker the active one of the simulation."""
        if self.simulation is None:
            self.begin()
        assert self.simulation is not None and self.velocities is not None
        if walker != self._active:
            self._fetch()
            self.simulation.context.setPositions(self.positions[walker])
            self.simulation.context.setVelocities(self.velocities[walker])
            self._active = walker
        return self.simulation

    # ---- sampling ---------------------------------------------------------------------------------

    def deposit(self) -> None:
        """Advance each walker by the pace; ``app.Metadynamics`` adds its hill, unless it is outside the state space."""
        for walker in range(self.config.walkers):
            self.metadynamics.step(self._enter(walker), self.config.pace)
        self._note_turns(self.config.pace)

    def _note_turns(self, steps: int) -> None:
        self._fetch()
        self.turns.note(torch.from_numpy(self.positions).to(self.problem.device), steps)

    def advance(self, steps: int) -> None:
        """Advance each walker under the present bias."""
        for walker in range(self.config.walkers):
            self._enter(walker).step(steps)
        self._note_turns(steps)

    def sample(self) -> tuple[Array, Array]:
        """Collective variables ``[walkers, cvs]``, NaN outside the state space, and bias ``[walkers]`` in kT."""
        s, bias = [], []
        for walker in range(self.config.walkers):
            simulation = self._enter(walker)
            s.append(self.metadynamics.getCollectiveVariables(simulation))
            energy = simulation.context.getState(energy=True, groups={self._group}).getPotentialEnergy()
            bias.append(energy.value_in_unit(ENERGY) / self.kt)
        self._fetch()
        outside = self._outside(self.positions)
        found = np.array(s) if len(self.axes) == len(self.problem.cvs) else self._all_variables()
        return np.where(outside[:, None], np.nan, found), np.array(bias)

    def _all_variables(self) -> Array:
        """Collective variables of the system ``[walkers, cvs]``, of which some are biased."""
        x = torch.from_numpy(self.positions).to(self.problem.device)
        return np.asarray(self.problem.collective_variables(x).double().cpu().numpy())

    def _outside(self, positions: Array) -> NDArray[np.bool_]:
        """Tell which configurations ``[batch, atoms, 3]`` are outside the state space, and count them."""
        x = torch.from_numpy(positions).to(self.problem.device)
        return np.asarray(self.problem.report_state_space(x).cpu().numpy())

    def _usable(self, context: openmm.Context) -> bool:
        """Tell whether the walker in the context may add a hill."""
        positions = context.getState(positions=True).getPositions(asNumpy=True)._value
        return not self._outside(positions[None])[0]

    def bias_on_grid(self) -> Array:
        """Bias in kT at the bin centres of the biased CVs."""
        grid = self.bias if self.simulation is None else self.metadynamics._totalBias
        return np.asarray(grid[(slice(1, None, FINENESS),) * grid.ndim].T / self.kt)

    def state_dict(self) -> dict[str, Any]:
        """Return walkers and bias."""
        if self.simulation is not None:
            self._fetch()
        return {
            "positions": torch.from_numpy(self.positions),
            "velocities": None if self.velocities is None else torch.from_numpy(self.velocities),
            "bias": torch.from_numpy(self.bias),
            "turns": self.turns.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.simulation = None
        self.positions = state["positions"].numpy().copy()
        self.velocities = None if state["velocities"] is None else state["velocities"].numpy().copy()
        self.bias = state["bias"].numpy().copy()
        self.turns.load_state_dict(state["turns"])


class _Metadynamics(app.Metadynamics):  # type: ignore[misc]
    """``app.Metadynamics`` that adds hills only where `usable` is true of the context."""

    def __init__(self, usable: Callable[[openmm.Context], bool], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._is_usable = usable

    def _addGaussian(self, position: Any, height: Any, context: openmm.Context) -> None:  # noqa: N802 - OpenMM's name
        if self._is_usable(context):
            super()._addGaussian(position, height, context)


@contextmanager
def _numpy_generator_restored() -> Iterator[None]:
    before = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(before)
