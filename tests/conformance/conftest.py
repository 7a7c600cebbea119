"""Pairs of a method and a system that the checks are made on, and an independent count of their evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import openmm
import pytest
import torch

import cgbench.drawing.pmf
from cgbench.conformance import Outcome, Pair, run_checks
from cgbench.contracts.system import traits_of
from cgbench.running.configuration import preset_names
from cgbench.running.registry import build_system, load, names
from cgbench.running.run import Run
from cgbench_systems.molecular.forcefield import TorchForceField
from cgbench_systems.molecular.openmm_engine import OpenMMEngine
from cgbench_systems.molecular.system import MolecularSystem
from cgbench_systems.molecule import Molecule

CHEAPEST_METHOD, CHEAPEST_SYSTEM = "md", "muller_brown"


@dataclass(frozen=True)
class Settings:
    """A method on a system, and what is small about it.

    Attributes
    ----------
    every_check
        Whether all checks are made on it in the normal run, or one whole run alone.
    nightly
        Whether even that run is made at night alone.
    """

    method: str
    system: str
    every_check: bool
    options: dict[str, Any] = field(default_factory=dict)
    nightly: bool = False

    def __str__(self) -> str:
        preset, engine = self.options["preset"], self.options.get("engine")
        return "-".join([self.method, self.system, preset, *([engine] if engine else [])])


# molecules from files differ by data alone: the first of them stands for all in the normal run
FROM_FILES = [name for name in names("system") if issubclass(load("system", name), Molecule)]


def _nightly(method: str, system: str) -> bool:
    return system in FROM_FILES[1:] and method != CHEAPEST_METHOD


def _every_check(method: str, system: str) -> bool:
    """Every method on the cheapest system, every system with the cheapest method."""
    return system == CHEAPEST_SYSTEM or (method == CHEAPEST_METHOD and system not in FROM_FILES[1:])


def _serves(method: str, system: str) -> bool:
    """Whether the system has all traits that the method needs."""
    return load("method", method).requires <= TRAITS[system]


TRAITS = {name: traits_of(build_system(name)) for name in names("system")}
SMOKE = [
    Settings(method, system, _every_check(method, system), {"preset": "smoke"}, _nightly(method, system))
    for system in names("system")
    for method in names("method")
    if "smoke" in preset_names(load("method", method), system) and _serves(method, system)
]
# the published recipe, made small, and OpenMM's own engine
SMALL = ("recipe.by_energy.epochs_first=4", "recipe.by_energy.epochs_per_estimate=1", "recipe.by_energy.samples=4")
SMALL += ("recipe.seeding.steps=40", "recipe.by_example.epochs=1", "recipe.ensemble.epochs=3")
SMALL += ("recipe.walk.max_steps=60", "recipe.walk.max_iterations=2", "recipe.by_energy.epochs=2")
FLOW = ("recipe.flow.num_couplings=2", "recipe.flow.hidden_features=8", "recipe.ensemble.hidden=[8]")
SHORT = ("steps=12", "production_estimates=2")
TWO = {"preset": "smoke", "engine": "openmm"}
PAPER = {"preset": "paper"}
VARIANTS = [
    Settings("cgflow_al", "muller_brown", True, PAPER | {"overrides": SMALL}),
    Settings("cgflow_grid", "muller_brown", False, PAPER | {"overrides": (*SMALL, "recipe.grid=20")}),
    Settings("cgflow_al", "aldp", False, PAPER | {"overrides": (*SMALL, *FLOW, "recipe.seeding.stride=2")}),
    Settings("md", "aldp", False, TWO | {"overrides": ("walkers=2", "steps=8")}),
    Settings("metadynamics", "tetra", False, {"preset": "smoke", "overrides": ("cvs=['phi *']",)}, nightly=True),
    Settings("opes", "tetra", False, {"preset": "smoke", "overrides": ("cvs=['phi *']",)}, nightly=True),
    Settings("metadynamics", "aldp", True, TWO | {"overrides": ("walkers=2", "deposits=2", *SHORT)}),
]
PAIRS = {str(settings): settings for settings in SMOKE + VARIANTS}
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

    def plant_velocities(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count drawn velocities, which OpenMM shifts by half a step with the forces."""
        original = openmm.Context.setVelocitiesToTemperature

        def counting(context: openmm.Context, *given: Any) -> None:
            self.count += 1
            original(context, *given)

        monkeypatch.setattr(openmm.Context, "setVelocitiesToTemperature", counting)


class Checked:
    """A pair whose runs serve all checks, and the evaluations of its whole run by another count."""

    def __init__(self, settings: Settings, root: Path) -> None:
        self.settings = settings
        self.pair = Pair(settings.system, settings.method, root, seed=3, **settings.options)

    @cached_property
    def _counted(self) -> tuple[Any, int]:
        with self.counter() as counter:
            return self.pair.whole, counter.count

    @property
    def whole(self) -> Any:
        """The whole run."""
        return self._counted[0]

    @property
    def evaluations(self) -> int:
        """Evaluations of the whole run, counted in the potential."""
        return self._counted[1]

    @contextmanager
    def counter(self) -> Iterator[Counter]:
        """Count in the deepest functions of the system that compute an energy."""
        planted = Counter()
        with pytest.MonkeyPatch.context() as patch:
            if issubclass(load("system", self.settings.system), MolecularSystem):
                planted.plant(patch, TorchForceField, "energy_and_gradient")
                planted.plant(patch, OpenMMEngine, "energy_and_gradient")
                planted.plant_steps(patch, openmm.LangevinMiddleIntegrator)
                planted.plant_velocities(patch)
            else:
                planted.plant(patch, load("system", self.settings.system), "reduced_energy_and_gradient")
            yield planted

    def prepare(self, folder: str, **options: Any) -> Run:
        """Prepare a run of the pair in a folder of that name."""
        return self.pair.prepare(folder, **options)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test every pair; one that asks for `checked` makes further runs, and on most pairs those are nightly.

    The tests of a pair share its runs, and so run in one process.
    """
    for fixture in {"checked", "ended"} & set(metafunc.fixturenames):
        pairs = []
        for name, settings in PAIRS.items():
            nightly = settings.nightly or (fixture == "checked" and not settings.every_check)
            marks = [pytest.mark.xdist_group(name), *([pytest.mark.nightly] if nightly else [])]
            pairs.append(pytest.param(name, marks=marks))
        metafunc.parametrize(fixture, pairs, indirect=True)


@pytest.fixture(scope="session")
def all_checked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checked]:
    """Return the pair of a name, always the same one."""

    @cache
    def made(name: str) -> Checked:
        return Checked(PAIRS[name], tmp_path_factory.mktemp("checked"))

    return made


@pytest.fixture
def checked(request: pytest.FixtureRequest, all_checked: Callable[[str], Checked]) -> Checked:
    """A pair that every check is made on."""
    return all_checked(request.param)


@pytest.fixture
def ended(request: pytest.FixtureRequest, all_checked: Callable[[str], Checked]) -> Checked:
    """A pair of which one whole run is made."""
    return all_checked(request.param)


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
def check_example(example_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Puts that pair through one check, without the picture, which takes longer than the runs."""
    monkeypatch.setattr(cgbench.drawing.pmf, "draw_pmf", lambda *arguments: None)

    def checked(name: str, changes: dict[str, str], *overrides: Sequence[str]) -> Outcome:
        (outcome,) = run_checks(example_pair(changes, *overrides), [name])
        return outcome

    return checked
