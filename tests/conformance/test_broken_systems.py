"""The check of systems fails on each fault of a system; counting sees what OpenMM evaluates on its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

import cgbench_systems.muller_brown.system
from cgbench.conformance import Outcome, Pair, run_checks
from cgbench.errors import PluginError

SOURCE = Path(cgbench_systems.muller_brown.system.__file__)
EXAMPLES = Path(__file__).parent.parent / "examples"
ENERGY = "        return energy, gradient\n"
SYSTEM = "    def reference(self)"
CVS = '"""Return ``s = x - y`` ``[batch, 1]``."""\n        return x[:, :1] - x[:, 1:]'
TO_CARTESIAN = "x.new_full((len(x),), self._log_det)"
TO_INTERNAL = "x.new_full((len(x),), -self._log_det)"
Y = "(x[:, :1] + x[:, 1:]) / SCALE"
REFERENCE = '"""Return the exact PMF."""\n'


def energy(*lines: str) -> dict[str, str]:
    return {ENERGY: "".join(f"        {line}\n" for line in lines) + ENERGY}


def system(code: str) -> dict[str, str]:
    """A further method of the class."""
    return {SYSTEM: f"    {code}\n\n{SYSTEM}"}


def check(
    name: str,
    tmp_path: Path,
    changes: dict[str, str],
    method: str = "md",
    overrides: Sequence[str] = ("walkers=4", "steps=20"),
) -> Outcome:
    source = SOURCE.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    path = tmp_path / "broken.py"
    path.write_text(source, encoding="utf-8")
    try:
        pair = Pair(f"{path}:MullerBrown", method, tmp_path / "runs", overrides=overrides)
    except PluginError as error:  # without these attributes nothing can be checked
        return Outcome(name, False, str(error))
    (outcome,) = run_checks(pair, [name])
    return outcome


BROKEN = {
    "version": ({'version = "1"': "version = 1"}, "version is 1; it must be a string"),
    "no-cvs": (
        {"self.coordinates = _Rotated()": "self.cvs = ('s',)"},
        "must be a cgbench.contracts.cvs.CollectiveVariables",
    ),
    "domain": ({"lower=(-2.5,)": "lower=(2.5,)"}, "the domain of s is from 2.5 to 1.1"),
    "temperature": (
        {"self.temperature = 1.0 / BETA": "self.temperature = 0.0"},
        "temperature is 0.0; it must be positive",
    ),
    "single-precision-start": (
        {"torch.tensor(MINIMUM, dtype=torch.float64": "torch.tensor(MINIMUM, dtype=torch.float32"},
        "must be finite float64 of shape [atoms, 3] or [dims], not float32 [2]",
    ),
    "no-minimum": (energy("energy = 1e14 * energy"), "the energy rises or falls without bound"),
    "no-gradient": ({ENERGY: "        return energy\n"}, "returns Tensor, not (energy, gradient)"),
    "energy-shape": (
        {ENERGY: "        return energy[:, None], gradient\n"},
        "returns energies float64 [1, 1]; they must have shape [1]",
    ),
    "gradient-shape": (
        {ENERGY: "        return energy, gradient[:, :1]\n"},
        "returns gradients float64 [1, 1]; they must have shape [1, 2]",
    ),
    "precision": (energy("energy = energy.double()"), "of float32 [6, 2] returns energies float64 [6]"),
    "argument": ({"        x = x.detach()\n": "        x = x.detach().clamp_(max=1.4)\n"}, "changes its argument"),
    "history": (
        energy("self.calls = getattr(self, 'calls', 0) + 1", "energy = energy + 1e-6 * self.calls"),
        "a second evaluation of the same configurations differs by",
    ),
    "batch": (energy("energy = energy - 1e-4 * energy.mean()"), "energies of a batch differ from those of its rows"),
    "gradient": ({"2 * a * dx + b * dy,": "2.01 * a * dx + b * dy,"}, "the gradient differs from finite differences"),
    "sign": (energy("gradient = -gradient"), "the gradient differs from finite differences of the energy by 2.0e+00"),
    "steps": (energy("energy = torch.round(10 * energy) / 10"), "disagree among themselves"),
    "no-autograd": (
        system("def reduced_energy(self, x): return self.reduced_energy_and_gradient(x)[0]"),
        "reduced_energy(x) is not differentiable",
    ),
    "offset": (
        system("def reduced_energy(self, x): return super().reduced_energy(x) + 1.0"),
        "reduced_energy and reduced_energy_and_gradient differ by",
    ),
    "nan-by-autograd": (
        system("def reduced_energy(self, x): return super().reduced_energy(x) + torch.sqrt(0.0 * x.sum(1))"),
        "reduced_energy and reduced_energy_and_gradient differ by nan",
    ),
    "exception": (energy("raise ZeroDivisionError('here')"), "ZeroDivisionError: here (broken.py, line "),
    "cvs-shape": ({CVS: "return x[:, 0] - x[:, 1]"}, "must be finite and [6, 1], not float64 [6]"),
    "cvs-domain": ({CVS: "return x[:, :1] - x[:, 1:] + 5.0"}, "s is 3.00005, outside its domain from -2.5 to 1.1"),
    "cvs-period": (
        {"lower=(-2.5,), upper=(1.1,), periodic=(False,)": "lower=(-2.01,), upper=(-1.99,), periodic=(True,)"},
        "outside its domain from -2.01 to -1.99",
    ),
    "jacobian": (
        {TO_CARTESIAN: f"{TO_CARTESIAN} + 0.1 * s[:, 0]", TO_INTERNAL: f"{TO_INTERNAL} - 0.1 * s[:, 0]"},
        "coordinates 'default': log_abs_det_jacobian differs from automatic differentiation",
    ),
    "jacobian-sign": ({TO_INTERNAL: TO_CARTESIAN}, "log_abs_det_jacobian of the map and of its inverse do not cancel"),
    "no-bijection": ({Y: f"2.0 * {Y}"}, "the round trip changes y"),
    "other-s": (
        {"s, y = x[:, :1] - x[:, 1:], ": "s, y = x[:, 1:] - x[:, :1], "},
        "s differs from collective_variables",
    ),
    "s-shape": ({"s, y = x[:, :1] - x[:, 1:], ": "s, y = x[:, 0] - x[:, 1], "}, "gives s of shape [6], not [6, 1]"),
    "names": ({'names = ("x + y",)': 'names = ("x", "y")'}, "to_internal gives y of shape [6, 1], not [6, 2]"),
    "bounds": (
        {"self.periodic = torch.tensor([False])": "self.periodic = torch.tensor([False, True])"},
        "periodic has shape [2], not [1] as names",
    ),
    "fine-domain": ({"torch.tensor([math.inf]": "torch.tensor([-1e3]"}, "is outside the bounds lower and upper"),
    "state-space": (
        {"return (s >= -2.5) & (s <= 1.1)": "return s > 0"},
        "in_state_space rejects the initial configuration",
    ),
    "masses": (
        {'frozenset({"gradient", "coordinates"})': 'frozenset({"molecular"})'},
        "masses must be positive and [2]",
    ),
    "openmm": (
        {'frozenset({"gradient", "coordinates"})': 'frozenset({"openmm"})'},
        "muller_brown has no OpenMM model",
    ),
    "lost-reference": (
        {REFERENCE: f"{REFERENCE}        open('/nowhere/at-all')\n"},
        "the reference cannot be used: the reference cannot be read: FileNotFoundError",
    ),
    "other-grid": (
        {
            "pmf=PMF(self.cvs, self._exact)": "pmf=PMF(CollectiveVariables(('s',), (0.0,), (1.0,), (False,), (7,)), "
            "np.ones(7))"
        },
        "the reference of muller_brown has shape (7,), the grid is (100,)",
    ),
}


@pytest.mark.parametrize(("changes", "words"), BROKEN.values(), ids=BROKEN)
def test_a_fault_is_found_and_told(changes: dict[str, str], words: str, tmp_path) -> None:
    outcome = check("system", tmp_path, changes)
    assert not outcome.passed
    assert words in outcome.detail
    assert "\n" not in outcome.detail


def test_the_system_itself_has_no_fault(tmp_path) -> None:
    outcome = check("system", tmp_path, {})
    assert outcome.passed, outcome.detail


def test_an_energy_with_a_hidden_way_in_is_counted_once(tmp_path) -> None:
    """A system whose `reduced_energy` computes on its own is counted there, and not twice where it does not."""
    own = system("def reduced_energy(self, x): return super().reduced_energy(x) + 0.0 * x.sum(1)")
    outcome = check("counting", tmp_path, own, f"{EXAMPLES / 'prior_sampling.py'}:PriorSampling", ("width=8",))
    assert outcome.passed, outcome.detail


STEPS = """
import openmm
import torch

from cgbench.contracts.method import Method
from cgbench.contracts.pmf import PMF


class Steps(Method):
    name = "steps"
    requires = frozenset({"openmm"})

    def estimates(self):
        self.integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.001)
        simulation = self.problem.openmm_simulation(self.integrator)
        simulation.context.setPositions(self.problem.initial_configuration().numpy())
        with self.problem.phase("sample"):
            simulation.step(5)
            simulation.context.getState(energy=True)
            ...
        s = self.problem.collective_variables(self.problem.initial_configuration()[None])
        yield PMF.from_counts(self.problem.cvs, self.problem.cvs.histogram(s.numpy()))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
"""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", None),
        ("self.integrator.step(3)", None),
        ("openmm.Integrator.step(self.integrator, 3)", "has 6 evaluations, but 9 were made: 3 bypassed self.problem"),
        ("openmm.Context.getState(simulation.context, forces=True)", "has 6 evaluations, but 7 were made"),
        ("openmm.LocalEnergyMinimizer.minimize(simulation.context, 10.0, 2)", "OpenMM minimised an energy"),
    ],
)
def test_what_openmm_evaluates_is_counted(line: str, words: str | None, tmp_path) -> None:
    path = tmp_path / "steps.py"
    path.write_text(STEPS.replace("            ...\n", f"            {line}\n"), encoding="utf-8")
    pair = Pair("aldp", f"{path}:Steps", tmp_path / "runs", engine="openmm")
    (outcome,) = run_checks(pair, ["counting"])
    assert outcome.passed == (words is None), outcome.detail
    assert words is None or words in outcome.detail


TWENTY = """
        self.integrator = openmm.CustomIntegrator(0.00005)
        for _ in range(20):
            self.integrator.addComputePerDof("v", "v + dt * f / m")
            self.integrator.addComputePerDof("x", "x + dt * v")
"""


@pytest.mark.parametrize("table", ["right", "wrong"])
def test_an_integrator_that_evaluates_twenty_times_a_step(table: str, tmp_path, monkeypatch) -> None:
    """The counter of the check is OpenMM's own: it notices a step that is charged as one evaluation."""
    first, rest = STEPS.split("        self.integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.001)\n")
    path = tmp_path / "steps.py"
    path.write_text(first + TWENTY.lstrip("\n") + rest, encoding="utf-8")
    if table == "wrong":
        monkeypatch.setattr("cgbench.counting.openmm_simulation.evaluations_of_steps", lambda one, steps, groups: steps)
    (outcome,) = run_checks(Pair("aldp", f"{path}:Steps", tmp_path / "runs", engine="openmm"), ["counting"])
    assert outcome.passed == (table == "right"), outcome.detail
    assert ("101 evaluations" if table == "right" else "has 6 evaluations, but 101 were made") in outcome.detail


def test_forces_of_the_molecule_in_another_group_are_counted(tmp_path, monkeypatch) -> None:
    """A method may move the molecule's forces to other groups, as multiple time steps need it; none is free."""
    move = "lambda system, cvs: [force.setForceGroup(7) for force in system.getForces() if 'GB' in force.getName()]"
    text = STEPS.replace("openmm_simulation(self.integrator)", f"openmm_simulation(self.integrator, {move})")
    path = tmp_path / "steps.py"
    line = "simulation.context.getState(energy=True, groups={7})"
    path.write_text(text.replace("            ...\n", f"            {line}\n"), encoding="utf-8")
    (outcome,) = run_checks(Pair("aldp", f"{path}:Steps", tmp_path / "runs", engine="openmm"), ["counting"])
    assert outcome.passed and "7 evaluations" in outcome.detail, outcome.detail
