"""How many evaluations the steps of an OpenMM integrator cost.

Integrators of OpenMM that evaluate once per step are known by their class. The computations of a ``CustomIntegrator``
(OpenMM derives its multiple-time-step and accelerated integrators from it) are followed as OpenMM follows them. Others
are refused. The numbers hold for OpenMM 8.2 to 8.6; `cgbench check` and the tests compare them with the number of times
that OpenMM evaluates a planted force.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, NamedTuple

import openmm

__all__ = ["check_system", "evaluations_of_a_start", "evaluations_of_steps", "evaluations_of_velocities"]

# each evaluates once per step; True where velocities are half a step late, and forces are needed to set them
ONCE_PER_STEP = {
    "BrownianIntegrator": False,
    "DPDIntegrator": True,
    "LangevinIntegrator": True,
    "LangevinMiddleIntegrator": True,
    "NoseHooverIntegrator": False,
    "QTBIntegrator": True,
    "VariableLangevinIntegrator": False,
    "VariableVerletIntegrator": False,
    "VerletIntegrator": True,
}
EVALUATED = re.compile(r"\b(energy|f)(\d*)\b")
KNOWN = f"use a CustomIntegrator, a CompoundIntegrator, or one of {', '.join(sorted(ONCE_PER_STEP))}"


def evaluations_of_steps(integrator: openmm.Integrator, steps: int, own_groups: Collection[int]) -> int:
    """Return the evaluations of consecutive steps of an integrator.

    In a ``CustomIntegrator``, the molecule is evaluated wherever energies or forces of a force group of its own are
    needed, and those of the same groups at the same positions are not at hand. The count is never too small. It may be
    too large by one per call, because what OpenMM kept from before the first step is not known, and by more if an
    integrator uses several force groups at the same positions, which OpenMM may evaluate together.

    Parameters
    ----------
    integrator
        An integrator.
    steps
        Number of steps.
    own_groups
        Force groups of the molecule.

    Raises
    ------
    TypeError
        If the evaluations of the integrator cannot be known.
    """
    integrator = _current(integrator)
    if isinstance(integrator, openmm.CustomIntegrator):
        first, later = _first_and_later(integrator, own_groups)
        return first + (steps - 1) * later if steps > 0 else 0
    _known(integrator)
    return steps if _integrated(integrator) & _mask(own_groups) else 0


def evaluations_of_a_start(integrator: openmm.Integrator, own_groups: Collection[int]) -> int:
    """Return what a step costs more if OpenMM has not kept the forces from the step before."""
    integrator = _current(integrator)
    if not isinstance(integrator, openmm.CustomIntegrator):
        return 0
    first, later = _first_and_later(integrator, own_groups)
    return first - later


def evaluations_of_velocities(integrator: openmm.Integrator) -> int:
    """Return the evaluations of ``Context.setVelocitiesToTemperature``: all forces shift velocities by half a step."""
    if type(integrator) is openmm.CompoundIntegrator:
        integrator = integrator.getIntegrator(0)  # OpenMM asks the first one
    if isinstance(integrator, openmm.CustomIntegrator):
        return 0
    return int(ONCE_PER_STEP[_known(integrator)])


def check_system(system: openmm.System) -> None:
    """Check that no force of a system evaluates the molecule on its own, as Monte Carlo barostats do.

    Raises
    ------
    TypeError
        If there is one.
    """
    for force in system.getForces():
        name = type(force).__name__
        if name.startswith("MonteCarlo") or name == "ATMForce":
            raise TypeError(f"a counted simulation cannot have a {name}: it evaluates the molecule between steps")


def _current(integrator: openmm.Integrator) -> openmm.Integrator:
    if type(integrator) is openmm.CompoundIntegrator:
        return integrator.getIntegrator(integrator.getCurrentIntegrator())
    return integrator


def _known(integrator: openmm.Integrator) -> str:
    """Return the name of the class of OpenMM that makes the steps, which must be known."""
    classes: tuple[Any, ...] = type(integrator).__mro__
    for cls in classes:
        if cls.__module__ == "openmm.openmm" and cls.__name__ in ONCE_PER_STEP and type(integrator).step is cls.step:
            return str(cls.__name__)
    raise TypeError(f"a counted simulation cannot count the evaluations of a {type(integrator).__name__}: {KNOWN}")


def _mask(groups: Collection[int]) -> int:
    return sum(1 << group for group in set(groups))


def _integrated(integrator: openmm.Integrator) -> int:
    """Return the force groups that the integrator uses, as a bit mask."""
    return int(integrator.getIntegrationForceGroups()) & 0xFFFFFFFF


def _first_and_later(integrator: openmm.CustomIntegrator, own_groups: Collection[int]) -> tuple[int, int]:
    """Return the evaluations of a step without forces from before, and of one that follows it."""
    first, valid = _evaluations_of_computations(integrator, own_groups, None)
    later, _ = _evaluations_of_computations(integrator, own_groups, valid)
    return first, later


def _evaluations_of_computations(
    integrator: openmm.CustomIntegrator, own_groups: Collection[int], valid: int | None
) -> tuple[int, int | None]:
    """Follow the computations of one step.

    Parameters
    ----------
    valid
        Force groups, as a bit mask, whose forces OpenMM has at the present positions; None if it has none.

    Returns
    -------
    evaluations, valid
        Evaluations of the molecule, and `valid` after the step.
    """
    custom = openmm.CustomIntegrator
    if type(integrator).step is not custom.step:
        raise TypeError(f"a counted simulation cannot count the evaluations of {type(integrator).__name__}.step")
    found, own, depth = 0, _mask(own_groups), 0
    with_energy = False  # the energy does not outlast a step
    program = _program(integrator)
    for number, (kind, groups, moves) in enumerate(program):
        depth += int(kind in (custom.IfBlockStart, custom.WhileBlockStart)) - int(kind == custom.BlockEnd)
        if depth and (groups is not None or moves):
            raise TypeError(
                f"a counted simulation cannot count the evaluations of {integrator.getComputationStep(number)[2]!r}: "
                "energies, forces, moves and changes of parameters must be outside conditions and loops"
            )
        if groups is not None:
            needs_energy = groups.energy or _energy_follows(program[number + 1 :], groups.mask)
            if groups.mask != valid or (needs_energy and not with_energy):
                found += bool(groups.mask & own)
                valid, with_energy = groups.mask, needs_energy
        if moves:
            valid, with_energy = None, False
    return found, valid


class _Needed(NamedTuple):
    """Force groups, as a bit mask, whose energy or forces a computation needs."""

    mask: int
    energy: bool


def _program(integrator: openmm.CustomIntegrator) -> list[tuple[int, _Needed | None, bool]]:
    """Return the kind of each computation, what it needs, and whether forces change by it.

    They change where particles move, and where a parameter of a force is set.
    """
    found = []
    own = {"dt", *(integrator.getGlobalVariableName(number) for number in range(integrator.getNumGlobalVariables()))}
    for number in range(integrator.getNumComputations()):
        kind, variable, expression = integrator.getComputationStep(number)
        moves = kind == openmm.CustomIntegrator.ConstrainPositions or variable == "x"
        moves |= kind in (openmm.CustomIntegrator.ComputeGlobal, openmm.CustomIntegrator.ComputeSum) and (
            variable not in own
        )
        found.append((kind, _needed(expression, _integrated(integrator)), moves))
    return found


def _energy_follows(program: list[tuple[int, _Needed | None, bool]], mask: int) -> bool:
    """Tell whether the energy of the same groups is needed before particles move, and is computed with the forces."""
    for _, needed, moves in program:
        if needed is not None and needed.mask != mask:
            return False
        if needed is not None and needed.energy:
            return True
        if moves:
            return False
    return False


def _needed(expression: str, integrated: int) -> _Needed | None:
    """Return what an expression needs; OpenMM allows one force group, or all of them, in an expression."""
    names = EVALUATED.findall(expression)
    if not names:
        return None
    group = names[0][1]
    return _Needed(1 << int(group) if group else integrated, any(name == "energy" for name, _ in names))
