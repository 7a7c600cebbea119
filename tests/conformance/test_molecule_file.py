"""``cgbench check`` works on the file of a molecule, also by a relative path."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import cgbench_systems
from cgbench.conformance import run_checks
from cgbench.conformance.pair import Pair
from cgbench.running.registry import load

CHECKS = ("counting", "resume", "budget", "blindness")
GLYCINE = Path(cgbench_systems.__path__[0], "suite", "gly")
CHEAT = """
from cgbench.contracts.pmf import PMF
from cgbench.contracts.method import Method


class Cheat(Method):
    name = "cheat"

    def estimates(self):
        with self.problem.phase("sample"):
            self.problem.reduced_energy(self.problem.initial_configuration()[None])
        yield self.problem._system.reference().pmf

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
"""


@pytest.fixture
def molecule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Glycine dipeptide in a file of its own, with its reference, in the working directory."""
    shutil.copy(GLYCINE / "molecule.yaml", tmp_path / "my.yaml")
    shutil.copy(GLYCINE / "ace_gly_nme.pdb", tmp_path)
    shutil.copytree(GLYCINE / "reference", tmp_path / "my.reference")
    monkeypatch.chdir(tmp_path)
    return "my.yaml"


def test_it_is_one_class_until_the_file_changes(molecule: str) -> None:
    before = load("system", molecule)
    assert load("system", molecule) is before
    assert load("system", str(Path(molecule).resolve())) is before
    with Path(molecule).open("a", encoding="utf-8") as file:
        file.write("\n")
    assert load("system", molecule) is not before


def test_a_method_that_keeps_the_promises_passes(molecule: str, tmp_path: Path) -> None:
    pair = Pair(molecule, "md", tmp_path / "runs", overrides=("walkers=4", "steps=20"))
    for outcome in run_checks(pair, CHECKS):
        assert outcome.passed, outcome


def test_without_a_reference_it_passes_as_well(molecule: str, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "my.reference")
    pair = Pair(molecule, "md", tmp_path / "runs", overrides=("walkers=4", "steps=20"))
    for outcome in run_checks(pair, ("system", "blindness")):
        assert outcome.passed, outcome
        assert outcome.name != "system" or "no reference yet" in outcome.detail


def test_a_method_that_uses_the_reference_is_found(molecule: str, tmp_path: Path) -> None:
    (tmp_path / "cheat.py").write_text(CHEAT, encoding="utf-8")
    (outcome,) = run_checks(Pair(molecule, "cheat.py:Cheat", tmp_path / "runs"), ["blindness"])
    assert not outcome.passed and "another reference" in outcome.detail
