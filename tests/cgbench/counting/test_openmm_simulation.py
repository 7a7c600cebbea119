"""The gate that counts the steps of OpenMM's own simulations."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from openmm import app

from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import BudgetExhausted, Ledger
from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.muller_brown import MullerBrown


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
