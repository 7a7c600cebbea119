"""The lower bounds of the requirements are true: ``tox -e lowest`` runs these tests with exactly these versions."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement

import cgbench
from cgbench.cli import doctor
from cgbench.running.registry import names

ROOT = Path(__file__).parents[2]
NEWER = {"torch"}  # tested with a version above its bound; constraints-lowest.txt says why


def requirements() -> list[Requirement]:
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    texts = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    return [Requirement(text) for text in texts]


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    bounds = {}
    for requirement in requirements():
        (bound,) = requirement.specifier
        assert bound.operator == ">=", f"{requirement} has no lower bound"
        bounds[requirement.name] = bound.version
    assert pinned.keys() == bounds.keys()
    for name, version in pinned.items():
        lowest = requirement_of(name).specifier
        assert lowest.contains(version)
        assert name in NEWER or Requirement(f"{name}=={bounds[name]}").specifier.contains(version), name


def requirement_of(name: str) -> Requirement:
    return next(requirement for requirement in requirements() if requirement.name == name)


def test_all_bounds_of_a_package_are_the_same() -> None:
    """A test extra or the build must not allow what the other refuses."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    (build,) = (text for text in project["build-system"]["requires"] if text.startswith("hatchling"))
    assert build in project["project"]["optional-dependencies"]["test"]


@pytest.mark.parametrize(
    ("package", "version", "wrong"),
    [
        ("openmm", "8.1.1", "openmm 8.1.1, needs >=8.2"),
        ("click", "8.1.8", "click 8.1.8, needs >=8.2"),
        ("numpy", "1.25.2", "numpy 1.25.2, needs >=1.26"),
        ("torch", "2.10.0+cpu", "torch 2.10.0+cpu, needs >=2.11"),
        ("torch", "2.11.0+cu130", ""),
        ("openmm", "8.2.0", ""),
        ("pydantic", None, "pydantic not installed, needs >=2.6"),
    ],
)
def test_the_doctor_compares_versions_with_the_requirements(
    monkeypatch: pytest.MonkeyPatch, package: str, version: str | None, wrong: str
) -> None:
    real = metadata.version

    def found(name: str) -> str:
        if name != package:
            return real(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    texts = [str(requirement) for requirement in requirements()[1:]]
    monkeypatch.setattr(metadata, "requires", lambda name: [*texts, "absent>=1; extra == 'test'"])
    monkeypatch.setattr(metadata, "version", found)
    assert doctor._versions() == wrong


def test_what_is_used_of_click_and_openmm_is_there() -> None:
    """These names set the bounds."""
    assert issubclass(click.exceptions.NoArgsIsHelpError, click.UsageError)
    openmm = pytest.importorskip("openmm")
    system = openmm.System()
    system.addParticle(1.0)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions([[0.0, 0.0, 0.0]])
    state = context.getState(positions=True, energy=True, forces=True, groups={0})
    assert re.match(r"\d+\.\d+", openmm.Platform.getOpenMMVersion()) and len(state.getPositions()) == 1


@pytest.mark.nightly
@pytest.mark.parametrize("method", names("method"))
def test_smoke_run(method: str, tmp_path: Path) -> None:
    record = cgbench.run("muller_brown", method, preset="smoke", out=tmp_path, threads=1)
    assert record.status == "finished" and record.metrics["forward_kld"] >= 0
