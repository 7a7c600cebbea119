"""Names, files, and plugins that are broken."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import cgbench
from cgbench.errors import UserError
from cgbench.running import registry

METHOD = """
import numpy as np
from cgbench.contracts.method import Method
from cgbench.contracts.pmf import PMF

class Flat(Method):
    name = "flat"

    def estimates(self):
        yield PMF(self.problem.cvs, np.ones(self.problem.cvs.bins))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

class NoName(Method):
    pass

class Other:
    name = "other"
"""


def test_public_way_in() -> None:
    assert cgbench.load_system("muller_brown").name == "muller_brown"
    assert cgbench.load_method("md").name == "md"


@pytest.mark.parametrize("kind", ["system", "method"])
def test_unknown_names_list_the_choices(kind) -> None:
    with pytest.raises(UserError, match=f"unknown {kind} 'x': choose from") as caught:
        registry.load(kind, "x")
    for name in registry.names(kind):
        assert name in str(caught.value)


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(METHOD)
    return path


def test_class_in_a_file(plugin: Path) -> None:
    assert registry.load("method", f"{plugin}:Flat").name == "flat"
    assert registry.load("method", f"{plugin}:Flat") is registry.load("method", f"{plugin}:Flat")


@pytest.mark.parametrize(
    "name, message",
    [
        ("Missing", "has no class 'Missing': it has .*Flat"),
        ("Other", "is not a subclass of cgbench.contracts.method.Method"),
        ("NoName", "has no attribute 'name'"),
    ],
)
def test_wrong_class_in_a_file(plugin: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        registry.load("method", f"{plugin}:{name}")


def test_a_file_that_is_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        registry.load("method", f"{tmp_path}/none.py:Flat")
    (tmp_path / "broken.py").write_text("import not_installed_anywhere\n")
    with pytest.raises(UserError, match="cannot be imported: ModuleNotFoundError.*not_installed_anywhere"):
        registry.load("method", f"{tmp_path}/broken.py:Flat")


def test_a_broken_plugin_is_listed_with_its_reason_and_breaks_nothing(monkeypatch) -> None:
    broken = EntryPoint("hopeless", "not_installed_anywhere:Method", "cgbench.methods")
    real = registry._entries
    monkeypatch.setattr(
        registry, "_entries", lambda kind: real(kind) | ({"hopeless": broken} if kind == "method" else {})
    )
    listed = {plugin.name: plugin for plugin in registry.plugins("method")}
    assert "not_installed_anywhere" in listed["hopeless"].broken and listed["hopeless"].cls is None
    assert listed["md"].broken is None
    with pytest.raises(UserError, match="method 'hopeless' cannot be imported: ModuleNotFoundError"):
        registry.load("method", "hopeless")
