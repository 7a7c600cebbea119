"""OpenMM's own simulation with every step charged to the ledger before it is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import openmm
from openmm import app

__all__ = ["CountedSimulation"]

ASKED = ("energy", "forces", "parameterDerivatives")  # of a context, at the price of an evaluation
EVALUATES = (*ASKED, *(f"get{name[0].upper()}{name[1:]}" for name in ASKED))  # the second is the older spelling


class CountedSimulation(app.Simulation):  # type: ignore[misc]
    """An ``openmm.app.Simulation`` that anything in OpenMM may drive, ``app.Metadynamics`` for one.

    A step is one evaluation. Energies and forces of the molecule that are asked of the context are one, too; those of
    added forces alone, in force groups of their own, are free.

    Parameters
    ----------
    topology, system
        The molecule, with all forces that a method adds.
    integrator
        OpenMM's.
    platform, properties
        Name of an OpenMM platform, and its properties.
    own_groups
        Force groups of the molecule.
    charge
        Called with a number of evaluations before they are made; it raises where the budget would be passed.
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
        """Charge so many evaluations, then advance.

        Raises
        ------
        BudgetExhausted
            Before anything is evaluated, if the budget would be passed.
        """
        self._charge(steps)
        super().step(steps)

    def _counted_state(self, *args: Any, **options: Any) -> Any:
        asked = inspect.signature(openmm.Context.getState).bind(self.context, *args, **options).arguments
        groups = asked.get("groups", -1)
        if isinstance(groups, int):
            groups = {group for group in range(32) if groups >> group & 1}
        wanted = any(asked.get(name) for name in EVALUATES)
        if wanted and self._own_groups & set(groups):
            self._charge(1)
        return self._get_state(*args, **options)

    def minimizeEnergy(self, *args: Any, **options: Any) -> NoReturn:  # noqa: N802 - OpenMM's name
        """Not offered: its evaluations cannot be counted."""
        raise TypeError("a counted simulation cannot minimise: OpenMM does not say how many evaluations that takes")

    def runForClockTime(self, *args: Any, **options: Any) -> NoReturn:  # noqa: N802 - OpenMM's name
        """Not offered: the number of steps would not be known beforehand."""
        raise TypeError("a counted simulation runs for a number of steps, not for a time")
