"""The referee, and that no other code reads the reference."""

from __future__ import annotations

import ast
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import Reference
from cgbench.errors import UserError
from cgbench.scoring.referee import Referee
from cgbench_systems.muller_brown import BETA, SCALE, MullerBrown, potential


@pytest.fixture(scope="module")
def referee() -> Referee:
    return Referee(MullerBrown())


def test_the_truth_scores_zero(referee: Referee) -> None:
    scores = referee.score(referee.reference.pmf)
    assert set(scores) == set(referee.metric_names)
    assert all(abs(value) < 1e-12 for name, value in scores.items() if not name.startswith("coverage"))
    assert scores["coverage_68"] is None  # it claims no errors


def test_basin_errors_have_the_sign_of_the_estimate(referee: Referee) -> None:
    """A basin whose population is halved lies ln 2 too high, relative to the deepest."""
    system = MullerBrown()
    s = system.cvs.centers(0)
    product = np.asarray(system.basins[2].contains([s]))
    wrong = PMF(system.cvs, np.where(product, 0.5, 1.0) * referee.reference.pmf.probability)
    scores = referee.score(wrong)
    assert scores["delta_f_error/product (lower right)"] == pytest.approx(math.log(2), abs=1e-9)
    assert scores["delta_f_error/intermediate"] == pytest.approx(0.0, abs=1e-9)
    assert scores["forward_kld"] > 0


def test_missing_basin_is_infinite(referee: Referee) -> None:
    system = MullerBrown()
    s = system.cvs.centers(0)
    blind = np.where(np.asarray(system.basins[2].contains([s])), 0.0, referee.reference.pmf.probability)
    scores = referee.score(PMF(system.cvs, blind))
    assert scores["forward_kld"] == math.inf
    assert scores["delta_f_error/product (lower right)"] == math.inf


def test_without_a_reference_scores_are_none_and_say_why() -> None:
    class Lost(MullerBrown):
        def reference(self):
            raise UserError("reference in nowhere cannot be read")

    referee = Referee(Lost())
    assert "nowhere" in referee.problem and referee.facts() is None
    assert set(referee.score(PMF(Lost().cvs, np.ones(100))).values()) == {None}


@pytest.mark.parametrize("error", [PermissionError("not yours"), ValueError("no archive"), KeyError("probability")])
def test_a_reference_damaged_in_any_way_breaks_no_run(error: Exception) -> None:
    class Damaged(MullerBrown):
        def reference(self):
            raise error

    referee = Referee(Damaged())
    assert referee.reference is None and referee.problem.startswith(
        f"the reference cannot be read: {type(error).__name__}"
    )
    assert set(referee.score(PMF(Damaged().cvs, np.ones(100))).values()) == {None}


def test_a_reference_on_another_grid_is_none() -> None:
    class Coarse(MullerBrown):
        def reference(self):
            cvs = dataclasses.replace(self.cvs, bins=(50,))
            return dataclasses.replace(super().reference(), pmf=PMF(cvs, np.ones(50)))

    referee = Referee(Coarse())
    assert referee.reference is None
    assert referee.problem == "the reference of muller_brown has shape (50,), the grid is (100,)"


def test_only_the_referee_calls_reference() -> None:
    """Only the referee calls ``.reference()``, and the builders that confirm one; only systems read reference files."""
    allowed = ("cgbench/scoring/referee.py", "systems/cgbench_systems/molecular/reference/confirming/frozen.py")
    root = Path(__file__).parents[3]
    offenders = []
    for path in [*root.glob("cgbench/**/*.py"), *root.glob("methods/**/*.py"), *root.glob("systems/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                where = path.relative_to(root).as_posix()
                if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "super()":
                    continue  # a system that extends what it inherits
                if name in ("reference", "reference_samples") and where not in allowed:
                    offenders.append(f"{where}:{node.lineno}")
                if name == "load_reference" and not where.startswith("systems/"):
                    offenders.append(f"{where}:{node.lineno}")
    assert offenders == []
    assert list(root.glob("methods/**/*.py"))  # the search has found files


def test_coverage_of_claimed_errors() -> None:
    """Errors as large as claimed are covered as often as they should be; half as large claims are not."""
    referee = Referee(MullerBrown())
    assert referee.reference is not None
    true = referee.reference.pmf
    low = true.free_energy < 12.0
    noise = np.random.default_rng(0).normal(size=(200, *true.cvs.bins))
    covered = {}
    for claim in (1.0, 0.5):
        scores = []
        for one in noise:
            free_energy = true.free_energy + 0.1 * one + 3.0  # the constant does not matter
            std = np.full(true.cvs.bins, 0.1 * claim)
            scores.append(referee.score(PMF(true.cvs, np.exp(-free_energy), std)))
        covered[claim] = np.mean([[score["coverage_68"], score["coverage_95"]] for score in scores], axis=0)
    assert low.sum() > 50
    np.testing.assert_allclose(covered[1.0], [0.68, 0.95], atol=0.03)
    assert covered[0.5][0] < 0.45 and covered[0.5][1] < 0.75


def test_coverage_knows_the_errors_of_the_reference() -> None:
    """An estimate without error of its own, against a reference that has some, and says so."""

    class Measured(MullerBrown):
        noise = 0

        def reference(self) -> Reference:
            exact = super().reference()
            p = exact.pmf.probability
            noisy = np.exp(np.log(p) + 0.1 * np.random.default_rng(self.noise).normal(size=p.shape))
            return dataclasses.replace(exact, pmf=PMF(self.cvs, noisy / noisy.sum()), standard_error=0.1 * noisy)

    exact = MullerBrown().reference().pmf
    estimate = PMF(exact.cvs, exact.probability, np.full(exact.cvs.bins, 1e-3))
    covered = []
    for noise in range(50):
        system = Measured()
        system.noise = noise
        scores = Referee(system).score(estimate)
        covered.append([scores["coverage_68"], scores["coverage_95"]])
    np.testing.assert_allclose(np.mean(covered, axis=0), [0.68, 0.95], atol=0.05)


class Generative:
    """Stands for a method with a density: the exact one of Müller-Brown, but for a constant."""

    def __init__(self, offset: float = 0.0, blind: bool = False) -> None:
        self.offset, self.blind, self.system = offset, blind, MullerBrown()

    def log_density(self, x: torch.Tensor) -> torch.Tensor | None:
        if self.offset == math.inf:
            return None
        energy = self.system.reduced_energy_and_gradient(x)[0]
        return torch.where((x[:, 0] > 0) & self.blind, -math.inf, -energy - self.offset)


def test_densities_are_scored_on_configurations_in_scaled_coordinates(referee: Referee) -> None:
    """The mean of minus the energy, by quadrature, and the Jacobian of (s, y'): ln(2 / 0.1) less in volume."""
    system = MullerBrown()
    axis = np.linspace(-2.0, 2.5, 2001)
    energy = potential(axis[:, None] - 0.5, axis[None]) * BETA
    inside = np.abs(axis[:, None] - 0.5 - axis[None] + 0.7) <= 1.8
    p = np.where(inside, np.exp(-(energy - energy.min())), 0.0)
    expected = -float((p * energy).sum() / p.sum()) + math.log(SCALE / 2)
    score = referee.score_density(Generative())
    assert score["log_likelihood"] == pytest.approx(expected, abs=4 * score["standard_error"])
    assert score["samples"] == 2000 and score["impossible"] == 0 and score["coordinates"] == "default"
    worse = referee.score_density(Generative(offset=1.5))
    assert worse["log_likelihood"] == pytest.approx(score["log_likelihood"] - 1.5)
    blind = referee.score_density(Generative(blind=True))
    x = system.reference_samples()
    assert blind["impossible"] == int((x[:, 0] > 0).sum()) > 10


def test_a_density_of_zero_at_one_configuration_is_an_infinitely_bad_one(referee: Referee) -> None:
    """Also if it misses all of them; the mean over the others would be better than that of the exact density."""

    class Misses(Generative):
        def __init__(self, count: int, value: float) -> None:
            super().__init__()
            self.count, self.value = count, value

        def log_density(self, x: torch.Tensor) -> torch.Tensor | None:
            density = super().log_density(x)
            first, self.count = min(self.count, len(x)), max(self.count - len(x), 0)
            density[:first] = self.value
            return density

    for count in (1, 2000):
        for value in (-math.inf, math.nan):
            score = referee.score_density(Misses(count, value))
            assert score["impossible"] == count and score["samples"] == 2000
            assert score["log_likelihood"] == -math.inf and score["standard_error"] == math.inf
    known = Generative().log_density(MullerBrown().reference_samples()).numpy()
    assert referee.score_log_density(known)["log_likelihood"] == referee.score_density(Generative())["log_likelihood"]
    known[7] = -math.inf
    assert referee.score_log_density(known)["log_likelihood"] == -math.inf


def test_methods_and_systems_without_densities_have_no_such_score(referee: Referee) -> None:
    assert referee.score_density(Generative(offset=math.inf)) is None

    class Lost(MullerBrown):
        def reference_samples(self):
            raise UserError("samples.npz is gone")

    lost = Referee(Lost())
    assert lost.score_density(Generative()) is None and "gone" in lost.problem
