"""Names, files, and plugins that are broken."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import cgbench
from cgbench.cli.main import main
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


# ---- modules beside a plugin's file, and plugins that fail ----------------------------------------------

SYSTEM = """
import torch
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.system import System

class Flat(System):
    name = "flat"
    version = "1"

    def __init__(self, *, engine=None, device="cpu"):
        super().__init__(engine=engine, device=device)
        self.temperature = 1.0
        self.cvs = CollectiveVariables(("x",), (0.0,), (1.0,), (True,), (10,))
        self.traits = frozenset({"gradient"})

    def initial_configuration(self):
        return torch.zeros(1, dtype=torch.float64)

    def reduced_energy_and_gradient(self, x):
        return torch.zeros_like(x[:, 0]), torch.zeros_like(x)

    def collective_variables(self, x):
        return torch.remainder(x, 1.0)

    def reference(self):
        raise RuntimeError("none")
"""
TRAITS = 'self.traits = frozenset({"gradient"})'
CVS = 'self.cvs = CollectiveVariables(("x",), (0.0,), (1.0,), (True,), (10,))'


def written(folder: Path, source: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(source)
    return f"{folder / 'mine.py'}:Flat"


@pytest.fixture(autouse=True)
def clean_path() -> Iterator[None]:
    """Forget the folders and modules of a test's plugins."""
    path, folders, modules = list(sys.path), list(registry._folders), set(sys.modules)
    yield
    sys.path[:], registry._folders[:] = path, folders
    for name in ("helper", "late", "parts", "parts.one", "json_parts"):
        if name not in modules:
            sys.modules.pop(name, None)


def test_a_module_beside_the_file_is_imported(tmp_path: Path) -> None:
    name = written(tmp_path, f"from helper import WIDTH\nfrom parts.one import ONE\n{SYSTEM}", {})
    (tmp_path / "helper.py").write_text("WIDTH = 3.0\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "one.py").write_text("ONE = 1\n")
    assert registry.build_system(name).name == "flat"
    assert cgbench.load_system(name).name == "flat"


def test_a_module_beside_the_file_is_imported_later(tmp_path: Path) -> None:
    late = "        import late\n        return late.ENERGY + torch.zeros_like(x[:, 0]), torch.zeros_like(x)\n"
    name = written(tmp_path, SYSTEM, {"        return torch.zeros_like(x[:, 0]), torch.zeros_like(x)\n": late})
    (tmp_path / "late.py").write_text("ENERGY = 2.0\n")
    system = registry.build_system(name)
    energy, _ = system.reduced_energy_and_gradient(system.initial_configuration()[None])
    assert energy.tolist() == [2.0]


def test_files_in_two_folders_have_neighbours_of_the_same_name(tmp_path: Path) -> None:
    classes = []
    for number, folder in enumerate(("a", "b", "c")):
        name = written(
            tmp_path / folder, f"from helper import VERSION\n{SYSTEM}", {'version = "1"': "version = VERSION"}
        )
        (tmp_path / folder / "helper.py").write_text(f"VERSION = 'v{number}'\n")
        classes.append(registry.load("system", name))
    assert [cls.version for cls in classes] == ["v0", "v1", "v2"]


def test_neighbours_hide_no_installed_module(tmp_path: Path) -> None:
    for other in ("json", "torch", "cgbench", "colorsys"):
        (tmp_path / f"{other}.py").write_text("raise RuntimeError('hidden')\n")
    sys.modules.pop("colorsys", None)
    name = written(tmp_path, f"import colorsys\nimport json\nimport torch\n{SYSTEM}", {})
    assert registry.build_system(name).name == "flat"
    import colorsys

    assert str(tmp_path) not in str(colorsys.__file__)


def test_a_file_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    before = list(sys.path)
    name = written(tmp_path, "import sys\nsys.exit(3)\n", {})
    with pytest.raises(UserError, match=r"mine.py cannot be imported: SystemExit: 3"):
        registry.load("system", name)
    assert sys.path == before
    (tmp_path / "mine.py").write_text(SYSTEM)
    assert registry.load("system", name).name == "flat"


QUANTITY = {"self.temperature = 1.0": "from openmm import unit; self.temperature = 300.0 * unit.kelvin"}
BROKEN_SYSTEMS = {
    "constructor": (
        {TRAITS: "raise OSError('no such table')"},
        "cannot be built: OSError: no such table (mine.py, line",
    ),
    "exit": ({TRAITS: "raise SystemExit(0)"}, "cannot be built: SystemExit: 0 (mine.py, line"),
    "arguments": ({'self, *, engine=None, device="cpu"': "self", "engine=engine, device=device": ""}, "TypeError"),
    "quantity": (QUANTITY, "temperature is 300.0 K, with a unit; it must be a number in kelvin: use .value_in_unit("),
    "temperature text": ({"self.temperature = 1.0": "self.temperature = '300'"}, "temperature is '300'; it must be a"),
    "no temperature": ({"self.temperature = 1.0": "pass"}, "has no attribute 'temperature'"),
    "no cvs": ({CVS: "pass"}, "has no attribute 'cvs'"),
    "cvs": ({CVS: "self.cvs = ('x',)"}, "cvs is ('x',); it must be a cgbench.contracts.cvs.CollectiveVariables"),
    "cvs raise": (
        {CVS: "pass", "    def reference": "    cvs = property(lambda self: 1 / 0)\n\n    def reference"},
        "cvs cannot be read: ZeroDivisionError: division by zero (mine.py, line",
    ),
    "traits": ({TRAITS: 'self.traits = ["gradient"]'}, "traits is ['gradient']; it must be a frozenset of strings"),
    "trait text": ({TRAITS: 'self.traits = "gradient"'}, "traits is 'gradient'; it must be a frozenset of strings"),
    "basins": ({TRAITS: 'self.basins = ("left",)'}, "basins is ('left',); it must be a tuple of"),
    "coordinates": ({TRAITS: 'self.traits = frozenset({"coordinates"})'}, "has no attribute 'coordinates'"),
    "no super": ({"super().__init__(engine=engine, device=device)": "pass"}, "call super().__init__(engine=engine"),
    "name": ({'name = "flat"': "name = 5"}, "Flat.name is 5; it must be text that can name a folder"),
    "name of a path": ({'name = "flat"': 'name = "../flat"'}, "Flat.name is '../flat'; it must be text"),
    "version": ({'version = "1"': "version = 1.0"}, "Flat.version is 1.0; it must be a string"),
    "no version": ({'    version = "1"\n': ""}, "Flat.version is None; it must be a string"),
    "engines": ({'version = "1"': 'version = "1"; engines = "torch"'}, "Flat.engines is 'torch'; it must be a tuple"),
    "abstract": ({"    def reference(self)": "    def other(self)"}, "Flat is abstract: it must implement reference"),
}
BROKEN_METHODS = {
    "constructor": (
        {"    def estimates": "    def __init__(self, *all):\n        raise KeyError('steps')\n\n    def estimates"},
        "method flat cannot be built: KeyError: 'steps' (mine.py, line",
    ),
    "config": (
        {'name = "flat"': 'name = "flat"; Config = dict'},
        "Flat.Config is <class 'dict'>; it must be a pydantic",
    ),
    "given": (
        {'name = "flat"': 'name = "flat"; given = {"gradient": "yes"}'},
        "Flat.given is {'gradient': 'yes'}; it must be a tuple of cgbench",
    ),
    "requires": ({'name = "flat"': 'name = "flat"; requires = "gradient"'}, "Flat.requires is 'gradient'; it must be"),
    "phases": (
        {'name = "flat"': 'name = "flat"; uncounted_in_publication = ["x"]'},
        "Flat.uncounted_in_publication is ['x']; it must be a frozenset of strings",
    ),
    "name": ({'name = "flat"': "name = ('flat',)"}, "Flat.name is ('flat',); it must be text"),
    "abstract": ({"    def state_dict": "    def other"}, "Flat is abstract: it must implement state_dict"),
}


@pytest.mark.parametrize("name", BROKEN_SYSTEMS)
def test_a_broken_system_is_one_line_and_exit_code_2(name: str, tmp_path: Path, capsys) -> None:
    changes, words = BROKEN_SYSTEMS[name]
    system = written(tmp_path, SYSTEM, changes)
    assert main(["run", "--system", system, "--method", "md", "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert words in err and err.count("\n") == 1 and not out and not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=re.escape(words)):
        cgbench.load_system(system)


@pytest.mark.parametrize("name", BROKEN_METHODS)
def test_a_broken_method_is_one_line_and_exit_code_2(name: str, tmp_path: Path, capsys) -> None:
    changes, words = BROKEN_METHODS[name]
    method = written(tmp_path, METHOD.partition("class NoName")[0], changes)
    assert main(["run", "--system", "muller_brown", "--method", method, "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert words in err and err.count("\n") == 1 and not out and not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "reference", "sweep", "check"])
def test_every_command_reports_a_broken_system_in_one_line(command: str, tmp_path: Path, capsys) -> None:
    system = written(tmp_path, SYSTEM, QUANTITY)
    arguments = {
        "run": ["run", "--system", system, "--method", "md"],
        "reference": ["reference", "show", system],
        "sweep": ["sweep", str(tmp_path / "sweep.yaml")],
        "check": ["check", "--system", system, "--method", "md"],
    }
    (tmp_path / "sweep.yaml").write_text(f"include: [{{systems: '{system}', methods: md}}]\n")
    assert main(arguments[command]) == 2
    out, err = capsys.readouterr()
    assert "temperature is 300.0 K, with a unit" in err and err.count("\n") == 1 and not out


@pytest.mark.parametrize("error", [ValueError("two\nlines"), MemoryError(), KeyError("C")])
def test_a_molecule_file_that_fails_is_one_line(error: Exception, tmp_path: Path, monkeypatch, capsys) -> None:
    from cgbench_systems.molecule import system as molecule

    def failing(*arguments: object, **options: object) -> None:
        raise error

    path = tmp_path / "my.yaml"
    path.write_text("sequence: ALA\nforce_field: [amber96.xml]\ncvs: [phi 1, psi 1]\n")
    monkeypatch.setattr(molecule, "build_peptide", failing)
    for arguments in (["run", "--system", str(path), "--method", "md"], ["system", "show", str(path)]):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert f"my.yaml cannot be built: {type(error).__name__}" in err and err.count("\n") == 1 and not out
    monkeypatch.setattr(molecule, "read_definition", failing)
    assert main(["run", "--system", str(path), "--method", "md"]) == 2
    assert f"my.yaml cannot be loaded: {type(error).__name__}" in capsys.readouterr().err
