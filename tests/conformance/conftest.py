"""What every registered pair of a method and a system is put through, at its smoke preset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import openmm
import pytest
import torch

from cgbench.conformance import Outcome, Pair, run_checks
from cgbench.running.configuration import preset_names
from cgbench.running.registry import load, names
from cgbench.running.run import Run, prepare

SMOKE = [
    (system, method, {"preset": "smoke"})
    for system in names("system")
    for method in names("method")
    if "smoke" in preset_names(load("method", method), system)
]
# the published recipe, made small, and OpenMM's own engine
SMALL = ("recipe.by_energy.epochs_first=4", "recipe.by_energy.epochs_per_estimate=1", "recipe.by_energy.samples=4")
SMALL += ("recipe.seeding.steps=40", "recipe.by_example.epochs=1", "recipe.ensemble.epochs=3")
SMALL += ("recipe.walk.max_steps=60", "recipe.walk.max_iterations=2", "recipe.by_energy.epochs=2")
FLOW = ("recipe.flow.num_couplings=2", "recipe.flow.hidden_features=8", "recipe.ensemble.hidden=[8]")
SHORT = ("steps=12", "production_estimates=2")
VARIANTS = [
    ("muller_brown", "cgflow_al", {"preset": "paper", "overrides": SMALL}),
    ("muller_brown", "cgflow_grid", {"preset": "paper", "overrides": (*SMALL, "recipe.grid=20")}),
    ("aldp", "cgflow_al", {"preset": "paper", "overrides": (*SMALL, *FLOW, "recipe.seeding.stride=2")}),
    ("aldp", "md", {"preset": "smoke", "engine": "openmm", "overrides": ("walkers=2", "steps=8")}),
    (
        "aldp",
        "metadynamics",
        {"preset": "smoke", "engine": "openmm", "overrides": ("walkers=2", "deposits=2", *SHORT)},
    ),
]
PAIRS = SMOKE + VARIANTS
EXAMPLE = Path(__file__).parent.parent / "examples" / "prior_sampling.py"


class Counter:
    """Counts configurations inside the potentials themselves, beneath every gate."""

    def __init__(self) -> None:
        self.count = 0

    def plant(self, monkeypatch: pytest.MonkeyPatch, cls: type, name: str) -> None:
        """Count what passes through a function ``(self, x) -> ...``."""
        original = getattr(cls, name)

        def counting(owner: Any, x: torch.Tensor, *rest: Any) -> Any:
            self.count += len(x)
            return original(owner, x, *rest)

        monkeypatch.setattr(cls, name, counting)

    def plant_steps(self, monkeypatch: pytest.MonkeyPatch, cls: type) -> None:
        """Count the steps of an integrator of OpenMM."""
        original = cls.step

        def counting(owner: Any, steps: int) -> None:
            self.count += steps
            original(owner, steps)

        monkeypatch.setattr(cls, "step", counting)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Counter:
    """A counter in the deepest function of each system that computes an energy."""
    from cgbench_systems.molecular.forcefield import TorchForceField
    from cgbench_systems.molecular.openmm_engine import OpenMMEngine

    planted = Counter()
    system = request.node.callspec.params["pair"][0]
    cls = load("system", system)
    if system == "aldp":
        planted.plant(monkeypatch, TorchForceField, "energy_and_gradient")
        planted.plant(monkeypatch, OpenMMEngine, "energy_and_gradient")
        planted.plant_steps(monkeypatch, openmm.LangevinMiddleIntegrator)
    else:
        planted.plant(monkeypatch, cls, "reduced_energy_and_gradient")
    return planted


def _name(pair: tuple[str, str, dict[str, Any]]) -> str:
    return "-".join([pair[1], pair[0], pair[2]["preset"], *([pair[2]["engine"]] if "engine" in pair[2] else [])])


@pytest.fixture(scope="module", params=PAIRS, ids=map(_name, PAIRS))
def pair(request: pytest.FixtureRequest) -> tuple[str, str, dict[str, Any]]:
    return request.param


@pytest.fixture(scope="module")
def checked(pair: tuple[str, str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The pair as ``cgbench check`` has it; its runs serve all checks."""
    system, method, settings = pair
    return Pair(system, method, tmp_path_factory.mktemp("checked"), **{"seed": 3, **settings})


@pytest.fixture
def start(pair: tuple[str, str, dict[str, Any]], tmp_path: Path) -> Iterator[Any]:
    """Prepares a run of the pair in a folder of its own."""

    def prepared(folder: str = "first", **options: Any) -> Run:
        system, method, settings = pair
        options = {"threads": 1, "seed": 3, "out": tmp_path / folder} | settings | options
        return prepare(system, method, **options)

    yield prepared


@pytest.fixture
def example_pair(tmp_path: Path) -> Callable[..., Pair]:
    """Makes a pair of the example method, its source changed, and Müller-Brown."""

    def made(changes: dict[str, str], overrides: Sequence[str] = ("width=8", "rounds=3", "samples_per_bin=2")) -> Pair:
        source = EXAMPLE.read_text(encoding="utf-8")
        for old, new in changes.items():
            assert source.count(old) == 1, old
            source = source.replace(old, new)
        path = tmp_path / "broken.py"
        path.write_text(source, encoding="utf-8")
        return Pair("muller_brown", f"{path}:PriorSampling", tmp_path / "runs", overrides=overrides)

    return made


@pytest.fixture
def check_example(example_pair: Callable[..., Pair]) -> Callable[..., Outcome]:
    """Puts that pair through one check."""

    def checked(name: str, changes: dict[str, str], *overrides: Sequence[str]) -> Outcome:
        (outcome,) = run_checks(example_pair(changes, *overrides), [name])
        return outcome

    return checked
