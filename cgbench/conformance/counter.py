"""An independent counter of evaluations, in the system's energy functions and in OpenMM itself.

It must share no code with the energy gate and the ledger, which it checks. It knows nothing of integrators either:
OpenMM itself calls a planted force, which is zero, whenever it evaluates a force group of the molecule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.conformance.failures import Failure
from cgbench.contracts.system import System

__all__ = ["EnergyCounter", "counting", "replaced"]

ENERGY_FUNCTIONS = ("reduced_energy_and_gradient", "reduced_energy")


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
        Configurations so far.
    minimised
        Whether OpenMM minimised an energy, which takes an unknown number of evaluations.
    approximate
        Whether a ``CustomIntegrator`` made steps, which may be charged more than OpenMM evaluates, never less.
    """

    def __init__(self) -> None:
        self.count = 0
        self.minimised = self.approximate = False
        self._models: list[tuple[Any, int]] = []  # OpenMM's systems, and the number of forces of the molecule
        self._inside = False
        self._last: bytes = b""
        self._evaluated: set[int] = set()  # force groups evaluated at these positions

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

    def noting_model(self, openmm_model: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `openmm_model` to plant a force in every force group of the molecule, before a method adds forces."""

        @functools.wraps(openmm_model)
        def noting(*args: Any, **options: Any) -> Any:
            model = openmm_model(*args, **options)
            self._models.append((model.system, model.system.getNumForces()))
            self._plant(model.system, {force.getForceGroup() for force in model.system.getForces()})
            return model

        return noting

    def planting(self, make_context: Callable[..., None]) -> Callable[..., None]:
        """Wrap the constructor of a context to plant a force in groups that the molecule's forces were moved to."""

        @functools.wraps(make_context)
        def planted(context: Any, system: Any, *args: Any) -> None:
            for own, number in self._models:
                if own is system:
                    forces = system.getForces()
                    groups = {force.getForceGroup() for force in forces[:number]}
                    planted = {force.getForceGroup() for force in forces if type(force).__name__ == "PythonForce"}
                    self._plant(system, groups - planted)
            make_context(context, system, *args)

        return planted

    def _plant(self, system: Any, groups: set[int]) -> None:
        import openmm

        if not hasattr(openmm, "PythonForce"):
            version = openmm.version.short_version
            raise Failure(f"evaluations of OpenMM {version} cannot be counted independently; install 8.4 or later")
        nothing = np.zeros((system.getNumParticles(), 3))

        def note(group: int, state: Any) -> tuple[float, NDArray[np.float64]]:
            positions = state.getPositions(asNumpy=True)._value.tobytes()
            if positions != self._last or group in self._evaluated:  # other groups at the same positions are one
                self.count += not self._inside
                self._evaluated = set()
            self._last = positions
            self._evaluated.add(group)
            return 0.0, nothing

        for group in groups:
            force = openmm.PythonForce(functools.partial(note, group))
            force.setForceGroup(group)
            system.addForce(force)

    def approximately(self, step: Callable[..., None]) -> Callable[..., None]:
        """Wrap the steps of an integrator to record that their charge is an upper bound."""

        @functools.wraps(step)
        def noting(*args: Any) -> None:
            self.approximate = True
            step(*args)

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
        Also count what OpenMM evaluates; for systems with the trait "openmm". A simulation on OpenMM raises `Failure`
        if its version has no ``PythonForce``, which came with 8.4.
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

    plant(cls, "openmm_model", counter.noting_model(cls.openmm_model))
    plant(openmm.Context, "__init__", counter.planting(openmm.Context.__init__))
    plant(openmm.LocalEnergyMinimizer, "minimize", staticmethod(counter.minimise(openmm.LocalEnergyMinimizer.minimize)))
    for integrator in (openmm.CustomIntegrator, openmm.CompoundIntegrator):
        plant(integrator, "step", counter.approximately(integrator.step))
