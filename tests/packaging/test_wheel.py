"""The wheel: what it installs, and whether it works in a folder whose files have tempting names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "cgbench": ROOT / "cgbench",
    "cgbench_methods": ROOT / "methods" / "cgbench_methods",
    "cgbench_systems": ROOT / "systems" / "cgbench_systems",
    "cgbench_paper": ROOT / "paper" / "cgbench_paper",
}
SYSTEMS = set("aldp asn asp cys gly leu muller_brown phe ser tetra thr tyr val val_chi".split())
METHODS = {
    "cgflow_al",
    "cgflow_grid",
    "cmt",
    "flow_ais_bootstrap",
    "md",
    "metadynamics",
    "opes",
    "parallel_tempering",
    "ta_bg",
    "umbrella",
}
# folders of this repository, names that a user's project is likely to have, and modules that cgbench imports
HOSTILE = ("methods", "systems", "paper", "studies", "tests", "runs")
SHADOWS = (*HOSTILE, "numpy", "torch", "yaml", "openmm", "click")
SWEEP = """
defaults: {systems: muller_brown, methods: md, presets: smoke, seeds: 0-1}
include:
  - overrides: {walkers: 4, steps: 20}
"""
WHERE = """
import json
from importlib.metadata import entry_points
from importlib.util import find_spec
packages = {f"{group}.{entry.name}": entry.module.partition(".")[0]
            for group in ("systems", "methods") for entry in entry_points(group=f"cgbench.{group}")}
packages |= {"cgbench": "cgbench", "cgbench_paper": "cgbench_paper"}
print(json.dumps({name: find_spec(package).origin for name, package in packages.items()}))
"""
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")

pytestmark = pytest.mark.xdist_group("wheel")


def _done(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)  # type: ignore
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this working tree, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    flags = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder))
    _done(*PIP, "wheel", *flags, str(ROOT))
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed in."""
    folder = tmp_path_factory.mktemp("site") / "packages"
    _done(*PIP, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel))
    return folder


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[PurePosixPath]:
    """The files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return [PurePosixPath(name) for name in archive.namelist()]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A working directory of packages and modules that cannot be imported."""
    folder = tmp_path / "work"
    for name in HOSTILE:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('imported the wrong {name}')\n")
        (folder / f"{name}.py").write_text(f"raise SystemExit('imported the wrong {name}')\n")
    return folder


@pytest.fixture
def python(site: Path, hostile: Path) -> Callable[..., str]:
    """Runs Python in the hostile folder, with the installed wheel and no other copy of cgbench; returns its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}

    def run(*arguments: str) -> str:
        return _done(sys.executable, *arguments, cwd=hostile, env=environment).stdout

    return run


def test_nothing_but_cgbench_is_at_the_top(names: list[PurePosixPath]) -> None:
    top = {name.parts[0] for name in names}
    (information,) = (name for name in top if name.endswith(".dist-info"))
    assert top - {information} == set(PACKAGES)


def test_every_file_of_the_packages_is_in_the_wheel(names: list[PurePosixPath]) -> None:
    """Modules, presets, references, C++ sources, the report's page, py.typed: all of them, and nothing else."""
    expected = {
        PurePosixPath(package, path.relative_to(folder).as_posix())
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.parts[0] in PACKAGES} == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= {str(name) for name in names}
    assert {name.suffix for name in expected} >= {
        ".yaml",
        ".npz",
        ".json",
        ".pdb",
        ".cpp",
        ".hpp",
        ".js",
        ".css",
        ".html",
    }


def test_systems_and_methods_are_found_through_their_entry_points(python, site: Path) -> None:
    found = json.loads(python("-P", "-c", WHERE))
    plugins = {f"systems.{name}" for name in SYSTEMS} | {f"methods.{name}" for name in METHODS}
    assert set(found) == plugins | {"cgbench", "cgbench_paper"}
    assert all(Path(path).is_relative_to(site) for path in found.values()), found


def test_list_in_a_hostile_folder(python) -> None:
    """``python -m`` puts the working directory first, and none of its names is ours."""
    shown = python("-m", "cgbench", "list")
    assert {name for name in SYSTEMS | METHODS if f"\n  {name} " in shown} == SYSTEMS | METHODS
    assert "BROKEN" not in shown


def test_run_in_a_hostile_folder(python, hostile: Path) -> None:
    python("-m", "cgbench", "run", "--method", "md", "--system", "muller_brown", "--preset", "smoke", "--out", "out")
    record = json.loads((hostile / "out/muller_brown/md/smoke/seed-0/record.json").read_text())
    assert record["status"] == "finished"
    assert record["metrics"]["forward_kld"] is not None


def test_sweep_in_a_hostile_folder(python, site: Path, hostile: Path) -> None:
    """Its child processes do not look into the working directory at all, as the script itself does not."""
    for name in SHADOWS:
        (hostile / f"{name}.py").write_text(f"raise SystemExit('imported the wrong {name}')\n")
    (hostile / "sweep.yaml").write_text(SWEEP)
    shown = python(str(site / "bin" / "cgbench"), "sweep", "sweep.yaml", "--workers", "2", "--out", "out")
    assert "2 finished" in shown
    records = [json.loads(path.read_text()) for path in (hostile / "out").rglob("record.json")]
    assert sorted(record["seed"] for record in records) == [0, 1]
    assert {record["status"] for record in records} == {"finished"}
