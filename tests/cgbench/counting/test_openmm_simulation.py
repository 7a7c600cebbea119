"""The gate that counts the steps of OpenMM's own simulations."""

from __future__ import annotations

import io

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import BudgetExhausted, Ledger
from cgbench.counting.openmm_simulation import CountedSimulation
from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.muller_brown import MullerBrown

NEEDS_PYTHON_FORCE = pytest.mark.skipif(
    not hasattr(openmm, "PythonForce"), reason="OpenMM before 8.4 cannot count evaluations itself"
)


def problem(budget: int | None = None) -> Problem:
    return Problem(AlanineDipeptide(engine="openmm"), Ledger(budget))


def simulation(given: Problem) -> app.Simulation:
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.001)
    made = given.openmm_simulation(integrator)
    made.context.setPositions(given.initial_configuration().numpy())
    return made


def test_steps_and_energies_are_charged_before_they_are_made() -> None:
    given = problem(budget=40)
    made = simulation(given)
    made.step(25)
    assert given.evaluations == 25
    made.context.getState(positions=True)
    assert given.evaluations == 25
    made.context.getState(energy=True)
    made.context.getState(getForces=True, groups={0})
    assert given.evaluations == 27
    made.context.getState(parameterDerivatives=True)  # OpenMM computes the energy for them
    assert given.evaluations == 28
    before = made.context.getState(positions=True).getPositions(asNumpy=True)._value
    with pytest.raises(BudgetExhausted):
        made.step(13)
    after = made.context.getState(positions=True).getPositions(asNumpy=True)._value
    assert given.evaluations == 28 and np.array_equal(before, after) and made.currentStep == 25
    with pytest.raises(TypeError, match="cannot minimise"):
        made.minimizeEnergy()
    with pytest.raises(TypeError, match="number of steps"):
        made.runForClockTime(1.0)
    assert given.evaluations == 28


@pytest.mark.parametrize("integrator", [lambda made: made.integrator, lambda made: made.context.getIntegrator()])
def test_steps_of_the_integrator_itself_are_charged_once(integrator) -> None:
    given = problem(budget=40)
    made = simulation(given)
    integrator(made).step(25)
    made.step(10)
    assert given.evaluations == 35
    with pytest.raises(BudgetExhausted):
        integrator(made).step(6)
    assert given.evaluations == 35
    integrator(made).step(5)
    assert given.evaluations == 40


def test_a_system_without_an_openmm_model_says_so() -> None:
    with pytest.raises(TypeError, match="muller_brown has no OpenMM model"):
        Problem(MullerBrown(), Ledger()).openmm_simulation(openmm.VerletIntegrator(0.001))


def test_openmm_measures_the_same_collective_variables(aldp, varied_configurations) -> None:
    found = []

    def watch(system: openmm.System, angles) -> None:
        for group, angle in enumerate(angles, start=20):
            angle.setForceGroup(group)
            system.addForce(angle)

    given = problem()
    made = given.openmm_simulation(openmm.VerletIntegrator(0.001), watch)
    for x in varied_configurations[::40]:
        made.context.setPositions(x.double().numpy())
        states = [made.context.getState(energy=True, groups={group}) for group in (20, 21)]
        found.append([state.getPotentialEnergy()._value for state in states])
    expected = aldp.collective_variables(varied_configurations[::40].double()).numpy()
    error = np.angle(np.exp(1j * (np.array(found) - expected)))
    assert np.abs(error).max() < 1e-4  # OpenMM's CPU platform is in single precision
    assert given.evaluations == 0  # groups of their own are free


# ---- integrators against OpenMM's own count --------------------------------------------------------


def velocity_verlet() -> openmm.CustomIntegrator:
    made = openmm.CustomIntegrator(0.001)
    for variable, expression in (("v", "v + 0.5 * dt * f / m"), ("x", "x + dt * v"), ("v", "v + 0.5 * dt * f / m")):
        made.addComputePerDof(variable, expression)
    return made


def metropolised() -> openmm.CustomIntegrator:
    """Needs the energy before and after a move, and forces at both ends."""
    made = openmm.CustomIntegrator(0.001)
    made.addGlobalVariable("before", 0.0)
    made.addGlobalVariable("after", 0.0)
    made.addComputeGlobal("before", "energy")
    made.addComputePerDof("v", "v + 0.5 * dt * f / m")
    made.addComputePerDof("x", "x + dt * v")
    made.addComputePerDof("v", "v + 0.5 * dt * f / m")
    made.addComputeGlobal("after", "energy")
    return made


def twenty() -> openmm.CustomIntegrator:
    made = openmm.CustomIntegrator(0.0001)
    for _ in range(20):
        made.addComputePerDof("v", "v + dt * f / m")
        made.addComputePerDof("x", "x + dt * v")
    return made


def bias_alone() -> openmm.Integrator:
    made = openmm.VerletIntegrator(0.001)
    made.setIntegrationForceGroups({1})
    return made


def compound() -> openmm.CompoundIntegrator:
    made = openmm.CompoundIntegrator()
    made.addIntegrator(openmm.VerletIntegrator(0.001))
    made.addIntegrator(twenty())
    made.setCurrentIntegrator(1)
    return made


def counted(integrator: openmm.Integrator, *more: openmm.Force) -> tuple[CountedSimulation, list[int], list[int]]:
    """Return a simulation of two atoms, the evaluations that it charges, and those that OpenMM makes."""
    system, topology, charged, made = openmm.System(), app.Topology(), [], []
    residue = topology.addResidue("X", topology.addChain())
    for mass in (12.0, 16.0):
        system.addParticle(mass)
        topology.addAtom("C", app.element.carbon, residue)
    bond = openmm.HarmonicBondForce()
    bond.addBond(0, 1, 0.1, 1000.0)
    bias = openmm.CustomExternalForce("0.1 * x^2")
    bias.addParticle(0, [])
    bias.setForceGroup(1)

    def evaluate(state: openmm.State) -> tuple[float, np.ndarray]:
        made.append(1)
        return 0.0, np.zeros((2, 3))

    for force in (bond, openmm.PythonForce(evaluate), bias, *more):
        system.addForce(force)
    simulation = CountedSimulation(topology, system, integrator, "Reference", {}, {0}, charged.append)
    simulation.context.setPositions(np.array([[0.0, 0.0, 0.0], [0.11, 0.0, 0.0]]))
    return simulation, charged, made


@NEEDS_PYTHON_FORCE
@pytest.mark.parametrize(
    ("make", "per_step", "beginning"),
    [
        (lambda: openmm.LangevinMiddleIntegrator(300, 1, 0.001), 1, 0),
        (lambda: openmm.LangevinIntegrator(300, 1, 0.001), 1, 0),
        (lambda: openmm.VerletIntegrator(0.001), 1, 0),
        (lambda: openmm.BrownianIntegrator(300, 100, 0.0001), 1, 0),
        (lambda: openmm.VariableVerletIntegrator(0.001), 1, 0),
        (lambda: openmm.VariableLangevinIntegrator(300, 1, 0.001), 1, 0),
        (lambda: openmm.NoseHooverIntegrator(300, 1, 0.001), 1, 0),
        (lambda: openmm.MTSIntegrator(0.001, [(0, 4), (1, 1)]), 5, 0),  # half kicks at both ends
        (lambda: openmm.MTSIntegrator(0.001, [(0, 1), (1, 4)]), 1, 1),
        (lambda: openmm.MTSLangevinIntegrator(300, 1, 0.001, [(0, 1), (1, 2)]), 1, 1),
        (lambda: openmm.AMDIntegrator(0.001, 1.0, 1.0), 1, 0),
        (velocity_verlet, 1, 1),
        (metropolised, 2, 0),
        (twenty, 20, 0),
        (compound, 20, 0),
        (bias_alone, 0, 0),
    ],
)
def test_steps_of_an_integrator_cost_what_openmm_evaluates(make, per_step: int, beginning: int) -> None:
    simulation, charged, made = counted(make())
    simulation.step(10)
    assert sum(charged) == len(made) == 10 * per_step + beginning
    simulation.context.setVelocitiesToTemperature(300.0, 1)
    assert sum(charged) == len(made)
    simulation.step(1)
    assert 0 <= sum(charged) - len(made) <= beginning


def parameter_setter() -> openmm.CustomIntegrator:
    """Sets a parameter of the bias three times in a step: OpenMM forgets the forces."""
    made = openmm.CustomIntegrator(0.001)
    for value in (1, 2, 3):
        made.addComputePerDof("v", "v + dt * f / m")
        made.addComputeGlobal("strength", str(value))
    made.addComputePerDof("x", "x + dt * v")
    return made


def strength() -> openmm.Force:
    bias = openmm.CustomExternalForce("strength * x^2")
    bias.addGlobalParameter("strength", 1.0)
    bias.addParticle(0, [])
    bias.setForceGroup(1)
    return bias


@NEEDS_PYTHON_FORCE
def test_parameters_that_an_integrator_sets_cost_evaluations() -> None:
    simulation, charged, made = counted(parameter_setter(), strength())
    simulation.step(10)
    assert sum(charged) == len(made) == 30


class Changing:
    """A reporter that changes the state after every step."""

    def __init__(self, change) -> None:
        self.change = change

    def describeNextReport(self, simulation):  # noqa: N802 - OpenMM's name
        return {"steps": 1, "periodic": None, "include": []}

    def report(self, simulation, state) -> None:
        self.change(simulation.context, simulation.system.getForce(3))


@NEEDS_PYTHON_FORCE
@pytest.mark.parametrize(
    "change",
    [
        lambda context, force: context.setParameter("strength", 2.0),
        lambda context, force: context.setPositions(context.getState(positions=True).getPositions()),
        lambda context, force: context.setVelocities(context.getState(velocities=True).getVelocities()),
        lambda context, force: context.reinitialize(preserveState=True),
        lambda context, force: force.updateParametersInContext(context),
    ],
)
def test_forces_that_a_reporter_makes_invalid_are_charged(change) -> None:
    simulation, charged, made = counted(velocity_verlet(), strength())
    simulation.reporters.append(Changing(change))
    simulation.step(30)
    assert sum(charged) == len(made) == 60


@NEEDS_PYTHON_FORCE
def test_a_reporter_that_changes_nothing_costs_at_most_one_evaluation_in_ten_steps() -> None:
    simulation, charged, made = counted(velocity_verlet(), strength())
    simulation.reporters.append(app.StateDataReporter(io.StringIO(), 50, step=True))
    simulation.step(100)
    assert len(made) == 101 and len(made) <= sum(charged) <= 110


@NEEDS_PYTHON_FORCE
def test_steps_that_cannot_be_counted_are_refused() -> None:
    simulation, charged, made = counted(openmm.VariableVerletIntegrator(0.001))
    for integrator in (simulation.integrator, simulation.context.getIntegrator()):
        with pytest.raises(TypeError, match="stepTo are not known in advance"):
            integrator.stepTo(0.5)
    simulation, more, also = counted(compound())
    for number in (0, 1):
        with pytest.raises(TypeError, match="steps of the compound integrator"):
            simulation.integrator.getIntegrator(number).step(100)
    simulation.integrator.getIntegrator(0).setStepSize(0.002)
    simulation.step(2)
    assert charged == made == [] and sum(more) == len(also) == 40


@NEEDS_PYTHON_FORCE
def test_reported_energies_are_charged(tmp_path) -> None:
    simulation, charged, made = counted(openmm.VerletIntegrator(0.001))
    simulation.reporters.append(app.StateDataReporter(str(tmp_path / "report"), 2, step=True, potentialEnergy=True))
    simulation.step(10)
    assert sum(charged) == len(made) == 10 + 5
    simulation.context.getState(forces=True, groups={1})
    simulation.context.getState(getForces=True)
    assert sum(charged) == len(made) == 16


class Repeated(openmm.VerletIntegrator):
    """Makes many steps, and calls them one."""

    def step(self, steps: int) -> None:
        super().step(20 * steps)


def looped() -> openmm.CustomIntegrator:
    made = openmm.CustomIntegrator(0.001)
    made.addGlobalVariable("n", 0.0)
    made.beginWhileBlock("n < 5")
    made.addComputePerDof("v", "v + dt * f / m")
    made.addComputeGlobal("n", "n + 1")
    made.endBlock()
    return made


@NEEDS_PYTHON_FORCE
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Repeated(0.001), "cannot count the evaluations of a Repeated: use a CustomIntegrator"),
        (lambda: openmm.RPMDIntegrator(4, 300, 1, 0.001), "cannot count the evaluations of a RPMDIntegrator"),
        (looped, "must be outside conditions and loops"),
    ],
)
def test_integrators_that_cannot_be_counted_are_refused(make, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        counted(make())


@NEEDS_PYTHON_FORCE
def test_forces_that_evaluate_between_steps_are_refused() -> None:
    barostat = openmm.MonteCarloBarostat(1.0 * unit.bar, 300.0 * unit.kelvin)
    with pytest.raises(TypeError, match="cannot have a MonteCarloBarostat"):
        counted(openmm.VerletIntegrator(0.001), barostat)


def test_a_simulation_repeats_to_the_bit_with_any_number_of_threads() -> None:
    """2,000 steps: with two threads of OpenMM, runs differ after five."""

    def positions() -> np.ndarray:
        given = problem()
        integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.001)
        integrator.setRandomNumberSeed(7)
        made = given.openmm_simulation(integrator)
        made.context.setPositions(given.initial_configuration().numpy())
        made.step(2_000)
        return np.asarray(made.context.getState(positions=True).getPositions(asNumpy=True)._value)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        first, second = positions(), positions()
        torch.set_num_threads(1)
        third = positions()
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(first, second) and np.array_equal(first, third)
