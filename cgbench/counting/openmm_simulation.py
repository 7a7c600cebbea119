"""An OpenMM simulation that charges every step to the ledger before it is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import openmm
from openmm import app

__all__ = ["CountedSimulation"]

QUANTITIES = ("energy", "forces", "parameterDerivatives")  # arguments of getState that cost an evaluation
EVALUATES = (*QUANTITIES, *(f"get{name[0].upper()}{name[1:]}" for name in QUANTITIES))  # with the older spelling


class CountedSimulation(app.Simulation):  # type: ignore[misc]
    """An ``openmm.app.Simulation`` with counted steps, for use with OpenMM classes such as ``app.Metadynamics``.

    A step costs one evaluation. So does a state of the context with the molecule's energy or forces. A state
    restricted to the force groups of added forces is free.

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
        super().__init__(topology, system, integrator, openmm.Platform.getPlatformByName(platform), dict(properties))
        self._charge = charge
        self._own_groups = own_groups
        self._get_state = self.context.getState
        self.context.getState = self._counted_state

    def step(self, steps: int) -> None:
        """Charge `steps` evaluations, then advance the simulation.

        Raises
        ------
        BudgetExhausted
            If the steps would exceed the budget; nothing is evaluated then.
        """
        self._charge(steps)
        super().step(steps)

    def _counted_state(self, *args: Any, **options: Any) -> Any:
        arguments = inspect.signature(openmm.Context.getState).bind(self.context, *args, **options).arguments
        groups = arguments.get("groups", -1)
        if isinstance(groups, int):
            groups = {group for group in range(32) if groups >> group & 1}
        evaluates = any(arguments.get(name) for name in EVALUATES)
        if evaluates and self._own_groups & set(groups):
            self._charge(1)
        return self._get_state(*args, **options)

    def minimizeEnergy(self, *args: Any, **options: Any) -> NoReturn:  # noqa: N802 - OpenMM's name
        """Raise TypeError: the evaluations of a minimisation cannot be counted."""
        raise TypeError("a counted simulation cannot minimise: OpenMM does not report how many evaluations it takes")

    def runForClockTime(self, *args: Any, **options: Any) -> NoReturn:  # noqa: N802 - OpenMM's name
        """Raise TypeError: the number of steps is not known in advance."""
        raise TypeError("a counted simulation runs for a given number of steps, not for a given time")
