"""What every registered pair of a method and a system is put through, at its smoke preset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cgbench.config import preset_names
from cgbench.registry import load, names
from cgbench.run import Run, prepare

PAIRS = [
    (system, method)
    for system in names("system")
    for method in names("method")
    if "smoke" in preset_names(load("method", method), system)
]


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


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Counter:
    """A counter in the deepest function of each system that computes an energy."""
    from systems.molecular.forcefield import TorchForceField
    from systems.molecular.openmm_engine import OpenMMEngine

    planted = Counter()
    system = request.node.callspec.params["pair"][0]
    cls = load("system", system)
    if system == "aldp":
        planted.plant(monkeypatch, TorchForceField, "energy_and_gradient")
        planted.plant(monkeypatch, OpenMMEngine, "energy_and_gradient")
    else:
        planted.plant(monkeypatch, cls, "reduced_energy_and_gradient")
    return planted


@pytest.fixture(params=PAIRS, ids=["-".join(pair[::-1]) for pair in PAIRS])
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def start(pair: tuple[str, str], tmp_path: Path) -> Iterator[Any]:
    """Prepares a run of the pair in a folder of its own."""

    def prepared(folder: str = "first", **options: Any) -> Run:
        system, method = pair
        options = {"preset": "smoke", "threads": 1, "seed": 3, "out": tmp_path / folder} | options
        return prepare(system, method, **options)

    yield prepared
