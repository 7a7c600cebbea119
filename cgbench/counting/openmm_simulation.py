"""An OpenMM simulation that charges every step to the ledger before it is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import openmm
from openmm import app

from cgbench.counting.openmm_integrators import (
    check_system,
    evaluations_of_a_start,
    evaluations_of_steps,
    evaluations_of_velocities,
)

__all__ = ["CountedSimulation"]

QUANTITIES = ("energy", "forces", "parameterDerivatives")  # arguments of getState that cost an evaluation
EVALUATES = (*QUANTITIES, *(f"get{name[0].upper()}{name[1:]}" for name in QUANTITIES))  # with the older spelling


class CountedSimulation(app.Simulation):  # type: ignore[misc]
    """An ``openmm.app.Simulation`` with counted steps, for use with OpenMM classes such as ``app.Metadynamics``.

    A step costs the evaluations that its integrator makes (`cgbench.counting.openmm_integrators`), also if the
    integrator itself is called. A `CustomIntegrator` that keeps forces from one step to the next cannot keep them
    where a reporter has changed the state. With reporters, each of the pieces of at most ten steps in which OpenMM
    advances is therefore charged as if they were lost. A state of the context with the molecule's energy or forces
    costs one, also if a reporter asks for it. So do velocities drawn by the context, if OpenMM shifts them with
    forces. A state restricted to the force groups of added forces is free.

    Parameters
    ----------
    topology, system
        The molecule, including all forces that a method adds.
    integrator
        An OpenMM integrator.
    platform, properties
        Name and properties of the OpenMM platform.
    own_groups
        Force groups of the molecule.
    charge
        Called with the number of evaluations before they are made; raises if they would exceed the budget.

    Raises
    ------
    TypeError
        If the evaluations of the integrator, or of a force, cannot be known.
    """

    def __init__(
        self,
        topology: app.Topology,
        system: openmm.System,
        integrator: openmm.Integrator,
        platform: str,
        properties: Mapping[str, str],
        own_groups: set[int],
        charge: Callable[[int], None],
    ) -> None:
        check_system(system)
        evaluations_of_steps(integrator, 1, own_groups)
        super().__init__(topology, system, integrator, openmm.Platform.getPlatformByName(platform), dict(properties))
        self._charge = charge
        self._own_groups = own_groups
        self._get_state = self.context.getState
        self.context.getState = self._counted_state
        self._set_velocities = self.context.setVelocitiesToTemperature
        self.context.setVelocitiesToTemperature = self._counted_velocities
        self._advance = self.integrator.step
        self._charged = False  # whether the steps under way have been charged
        self._pieces = 0  # calls of the integrator in these steps
        self.integrator.step = self._counted_steps
        self.integrator.stepTo = _refuse_step_to  # of integrators with variable steps
        if isinstance(self.integrator, openmm.CompoundIntegrator):
            self._member = self.integrator.getIntegrator
            self.integrator.getIntegrator = self._member_without_steps
        self.context.getIntegrator = lambda: self.integrator  # OpenMM's own returns another object of Python

    def step(self, steps: int) -> None:
        """Charge the evaluations of so many steps, then advance the simulation.

        Raises
        ------
        BudgetExhausted
            If the steps would exceed the budget; nothing is evaluated then. Steps with reporters may also be stopped
            between two pieces, by what is charged for forces that may be lost.
        """
        self._charge(evaluations_of_steps(self.integrator, steps, self._own_groups))
        self._charged, self._pieces = True, 0
        try:
            super().step(steps)
        finally:
            self._charged = False

    def _counted_steps(self, steps: int) -> None:
        if not self._charged:  # the user calls the integrator
            self._charge(evaluations_of_steps(self.integrator, steps, self._own_groups))
        elif self.reporters and self._pieces and steps:
            self._charge(evaluations_of_a_start(self.integrator, self._own_groups))
        self._pieces += 1
        self._advance(steps)

    def _member_without_steps(self, index: int) -> openmm.Integrator:
        """Return a member of a compound integrator, for its settings alone."""
        member = self._member(index)
        member.step = member.stepTo = _refuse_steps_of_a_member
        return member

    def _counted_state(self, *args: Any, **options: Any) -> Any:
        arguments = inspect.signature(openmm.Context.getState).bind(self.context, *args, **options).arguments
        groups = arguments.get("groups", -1)
        if isinstance(groups, int):
            groups = {group for group in range(32) if groups >> group & 1}
        evaluates = any(arguments.get(name) for name in EVALUATES)
        if evaluates and self._own_groups & set(groups):
            self._charge(1)
        return self._get_state(*args, **options)

    def _counted_velocities(self, *args: Any) -> None:
        self._charge(evaluations_of_velocities(self.integrator))
        self._set_velocities(*args)

    def minimizeEnergy(self, *args: Any, **options: Any) -> NoReturn:  # noqa: N802 - OpenMM's name
        """Raise TypeError: the evaluations of a minimisation cannot be counted."""
        raise TypeError("a counted simulation cannot minimise: OpenMM does not report how many evaluations it takes")

    def runForClockTime(self, *args: Any, **options: Any) -> NoReturn:  # noqa: N802 - OpenMM's name
        """Raise TypeError: the number of steps is not known in advance."""
        raise TypeError("a counted simulation runs for a given number of steps, not for a given time")


def _refuse_step_to(*args: Any) -> NoReturn:
    raise TypeError("a counted simulation makes a given number of steps: those of stepTo are not known in advance")


def _refuse_steps_of_a_member(*args: Any) -> NoReturn:
    raise TypeError(
        "a counted simulation makes steps of the compound integrator: choose a member by setCurrentIntegrator"
    )
