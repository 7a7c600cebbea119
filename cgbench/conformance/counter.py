"""An independent counter of evaluations, in the system's energy functions and in OpenMM itself.

It must share no code with the energy gate and the ledger, which it checks.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from cgbench.contracts.system import System

__all__ = ["EnergyCounter", "counting", "replaced"]

ENERGY_FUNCTIONS = ("reduced_energy_and_gradient", "reduced_energy")
REQUESTS = ("energy", "forces", "parameterDerivatives")  # options of OpenMM's getState that need an evaluation
EVALUATES = (*REQUESTS, *(f"get{name[0].upper()}{name[1:]}" for name in REQUESTS))  # and their older spelling


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of a class or module temporarily; inherited attributes stay inherited."""
    missing = object()
    own = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


class EnergyCounter:
    """Counts the configurations whose energy was computed.

    Attributes
    ----------
    count
        Configurations so far; one step of OpenMM counts as one.
    minimised
        Whether OpenMM minimised an energy, which takes an unknown number of evaluations.
    """

    def __init__(self) -> None:
        self.count = 0
        self.minimised = False
        self._own_groups: set[int] = set()
        self._inside = False

    def counted(self, original: Callable[..., Any], cost: Callable[..., int]) -> Callable[..., Any]:
        """Wrap a function to add the cost of each call; nested calls of counted functions are not counted again."""

        @functools.wraps(original)
        def counting(*args: Any, **options: Any) -> Any:
            if self._inside:
                return original(*args, **options)
            self.count += cost(*args, **options)
            self._inside = True
            try:
                return original(*args, **options)
            finally:
                self._inside = False

        return counting

    def state_cost(self, get_state: Callable[..., Any]) -> Callable[..., int]:
        """Return the cost of `getState`: one for energy or forces of the molecule, none for those of a bias alone."""
        signature = inspect.signature(get_state)

        def cost(*args: Any, **options: Any) -> int:
            requested = signature.bind(*args, **options).arguments
            requested |= requested.get("kwargs", {})
            groups = requested.get("groups", -1)
            if isinstance(groups, int):
                groups = {group for group in range(32) if groups >> group & 1}
            own = not self._own_groups or bool(self._own_groups & set(groups))
            return int(own and any(requested.get(name) for name in EVALUATES))

        return cost

    def noting_groups(self, openmm_model: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `openmm_model` to store the force groups of the molecule, before a method adds forces."""

        @functools.wraps(openmm_model)
        def noting(*args: Any, **options: Any) -> Any:
            model = openmm_model(*args, **options)
            self._own_groups |= {force.getForceGroup() for force in model.system.getForces()}
            return model

        return noting

    def minimise(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a minimiser to record that an energy was minimised."""

        @functools.wraps(original)
        def noting(*args: Any, **options: Any) -> Any:
            self.minimised = True
            return original(*args, **options)

        return noting


@contextmanager
def counting(cls: type[System], openmm_too: bool) -> Iterator[EnergyCounter]:
    """Count evaluations in the energy functions of all instances of a system's class, and in OpenMM.

    The class is changed for the duration of the context, not an instance: a method may evaluate energies in its
    constructor.

    Parameters
    ----------
    cls
        The system.
    openmm_too
        Also count OpenMM's steps and states; for systems with the trait "openmm".
    """
    counter = EnergyCounter()
    with ExitStack() as stack:
        for name in ENERGY_FUNCTIONS:
            wrapped = counter.counted(getattr(cls, name), lambda system, x, *rest, **more: len(x))
            stack.enter_context(replaced(cls, name, wrapped))
        if openmm_too:
            _plant_in_openmm(counter, cls, stack)
        yield counter


def _plant_in_openmm(counter: EnergyCounter, cls: type[System], stack: ExitStack) -> None:
    import openmm

    def plant(owner: Any, name: str, value: Any) -> None:
        stack.enter_context(replaced(owner, name, value))

    plant(cls, "openmm_model", counter.noting_groups(cls.openmm_model))
    get_state = openmm.Context.getState
    plant(openmm.Context, "getState", counter.counted(get_state, counter.state_cost(get_state)))
    plant(openmm.LocalEnergyMinimizer, "minimize", staticmethod(counter.minimise(openmm.LocalEnergyMinimizer.minimize)))
    for integrator in openmm.Integrator.__subclasses__():
        if "step" in vars(integrator):
            plant(integrator, "step", counter.counted(integrator.step, lambda owner, steps: int(steps)))
