"""What methods declare to be given in advance: each declares it, and reads from the problem what it declares."""

from __future__ import annotations

import collections
import functools
import sys
from typing import Any

import pytest

import cgbench.contracts.problem
from cgbench.contracts.declarations import Given
from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench.counting.streams import Streams
from cgbench.running.configuration import make_config
from cgbench.running.registry import build_system, load, names

WATCHED = {
    "coordinates": ("coordinates", "coordinate_sets", "coordinate_set"),
    "masses": ("masses",),
    "state_space": ("in_state_space", "report_state_space", "report_proposals"),
    "start": ("initial_configuration",),
}
PUBLISHED = ("recipe={kind: published}", "recipe.seeding.steps=40", "recipe.seeding.stride=2")
PUBLISHED += ("recipe.by_example.epochs=1",)
PUBLISHED += ("recipe.flow.num_couplings=2", "recipe.flow.hidden_features=8", "recipe.by_energy.samples=4")
PUBLISHED += ("recipe.by_energy.epochs_first=2", "recipe.by_energy.epochs_per_estimate=1")
SMALL = {
    ("cgflow_al", "published"): PUBLISHED,
    ("cgflow_grid", "published"): (*PUBLISHED, "recipe.grid=4"),
}
LARGER = {("cgflow_al", "harmonic, above three CVs"): "tetra"}  # all others are watched on `aldp`
HERE = cgbench.contracts.problem.__file__


DECLARED = [
    pytest.param(name, given, id=" ".join([name, given.variant]).strip())
    for name in names("method")
    for given in load("method", name).given
]


@pytest.mark.parametrize("name", names("method"))
def test_every_registered_method_declares_it(name: str) -> None:
    declared = load("method", name).given
    assert declared and len({one.variant for one in declared}) == len(declared)
    for one in declared:
        assert one.collective_variables and one.state_space and one.start


@pytest.fixture(scope="module")
def molecule() -> Any:
    return functools.cache(build_system)


class Watched(Problem):
    """Notes what the method reads, but not what `Problem` reads itself."""

    def __init__(self, *args: Any) -> None:
        object.__setattr__(self, "read", set())
        super().__init__(*args)

    def __getattribute__(self, name: str) -> Any:
        if sys._getframe(1).f_code.co_filename != HERE:
            object.__getattribute__(self, "read").add(name)
        return object.__getattribute__(self, name)


@pytest.mark.parametrize(("name", "given"), DECLARED)
def test_a_method_reads_what_it_declares_and_nothing_else(name: str, given: Given, molecule: Any) -> None:
    method = load("method", name)
    ledger = Ledger()
    system = LARGER.get((name, given.variant), "aldp")
    problem = Watched(molecule(system), ledger)
    config = make_config(method, system, "smoke", SMALL.get((name, given.variant), ()))
    estimates = method(problem, config, Streams(0)).estimates()
    next(estimates)
    if system != "aldp":
        collections.deque(estimates, maxlen=0)
    used = {what for what, attributes in WATCHED.items() if problem.read & set(attributes)}
    used |= {"gradient"} if ledger.with_gradient else set()
    assert used == {what for what in (*WATCHED, "gradient") if getattr(given, what)}
    assert "coordinates" not in used or "coordinates" in method.requires
