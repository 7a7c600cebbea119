"""Provenance: the commit is that of this project's checkout, and of no other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest
import torch

import cgbench
from cgbench.cli.sweep import _executor
from cgbench.running import provenance
from cgbench.running.run import use_hardware


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
    call = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that looks like this project's, with one commit."""
    root = tmp_path / "checkout"
    for name in ("cgbench", "systems", "methods", "docs"):
        (root / name).mkdir(parents=True)
        (root / name / "file.py").write_text("")
    git(tmp_path, "init", "--quiet", str(root))
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "first")
    return root


def test_commit_of_the_checkout(checkout: Path) -> None:
    found = provenance._git(checkout / "cgbench")
    assert found == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}


@pytest.mark.parametrize(
    ("folder", "dirty"), [("cgbench", True), ("systems", True), ("methods", True), ("docs", False)]
)
def test_only_changes_to_sources_count(checkout: Path, folder: str, dirty: bool) -> None:
    (checkout / folder / "file.py").write_text("changed\n")
    assert provenance._git(checkout / "cgbench")["dirty"] is dirty
    git(checkout, "checkout", "--quiet", ".")
    (checkout / folder / "new.py").write_text("")
    assert provenance._git(checkout / "cgbench")["dirty"] is dirty


def test_the_checkout_is_not_locked(checkout: Path) -> None:
    """A plain "git status" rewrites the index under a lock, which a killed process would leave behind."""
    index = checkout / ".git" / "index"
    os.utime(checkout / "cgbench" / "file.py", (1e9, 1e9))  # status would note the new time
    before = index.read_bytes()
    assert provenance._git(checkout / "cgbench")["dirty"] is False
    assert index.read_bytes() == before
    git(checkout, "status")
    assert index.read_bytes() != before


def test_a_worktree_is_a_checkout(checkout: Path, tmp_path: Path) -> None:
    """Its ``.git`` is a file."""
    git(checkout, "worktree", "add", "--quiet", str(tmp_path / "other"))
    assert provenance._git(tmp_path / "other" / "cgbench")["commit"] == git(checkout, "rev-parse", "HEAD")


def test_a_package_inside_the_checkout_of_another_project_has_no_commit(checkout: Path) -> None:
    """Installed in a virtual environment there, even if that project has a folder of this name."""
    installed = checkout / ".venv" / "lib" / "site-packages" / "cgbench"
    installed.mkdir(parents=True)
    assert provenance._git(installed) is None


def test_a_package_outside_any_checkout_has_no_commit(tmp_path: Path) -> None:
    (tmp_path / "cgbench").mkdir()
    assert provenance._git(tmp_path / "cgbench") is None


def test_this_package() -> None:
    found = provenance.collect("cpu", 1)
    root = Path(cgbench.__file__).parents[1]
    assert provenance.PACKAGE_FOLDER == root / "cgbench"
    if (root / ".git").exists():  # not if it is installed from a wheel
        assert found["git"]["commit"] == git(root, "rev-parse", "HEAD")
    assert found["cgbench"] == metadata.version("cgbench")
    assert json.loads(json.dumps(found)) == found


# ---- cores and threads ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000", 1.5),
        ("max 100000\n", None),
        ("-1\n 100000\n", None),
        ("0 0", None),
        ("100000", None),
        ("", None),
    ],
)
def test_a_quota_is_read(text: str, cores: float | None) -> None:
    assert provenance.parse_quota(text) == cores


V1 = {"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),  # a container sees its group as the root
        ("0::/user/job\n", {"user/job/cpu.max": "max 100000\n", "user/cpu.max": "400000 100000\n"}, 4.0),
        ("0::/user/job\n", {"user/job/cpu.max": "50000 100000\n", "user/cpu.max": "400000 100000\n"}, 0.5),
        ("0::/user\n", {"user/cpu.max": "max 100000\n", "other/cpu.max": "100000 100000\n"}, None),
        ("4:cpu,cpuacct:/docker/1\n", {f"cpu,cpuacct/docker/1/{name}": text for name, text in V1.items()}, 3.0),
        ("4:cpu,cpuacct:/docker/1\n", {f"cpu,cpuacct/{name}": text for name, text in V1.items()}, 3.0),
        ("4:memory:/docker/1\n", {f"memory/docker/1/{name}": text for name, text in V1.items()}, None),
        ("1:cpu:/a\n0::/\n", {f"cpu/a/{name}": text for name, text in V1.items()}, 3.0),  # both versions at once
        ("no group\n", {}, None),
        (None, {}, None),
    ],
)
def test_the_quota_of_the_control_groups(tmp_path: Path, groups: str | None, files: dict, cores: float | None) -> None:
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert provenance.cpu_quota(tmp_path) == cores


@pytest.mark.parametrize(
    ("affinity", "quota", "cores"), [(8, None, 8), (8, 2.0, 2), (8, 1.5, 2), (8, 0.1, 1), (2, 16.0, 2)]
)
def test_cores_are_limited_by_affinity_and_quota(monkeypatch, affinity: int, quota: float | None, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    monkeypatch.setattr(provenance, "cpu_quota", lambda: quota)
    assert provenance.physical_cores() == cores


@pytest.mark.parametrize(
    ("setting", "workers", "threads"),
    [
        (None, 1, 8),
        ("3", 1, 3),
        (" 16 ", 1, 16),
        ("3,2", 1, 3),
        ("0", 1, 8),
        ("many", 1, 8),
        ("", 1, 8),
        (None, 4, 2),
        ("1", 4, 1),
        ("16", 4, 2),
        (None, 32, 1),
    ],
)
def test_default_number_of_threads(monkeypatch, setting: str | None, workers: int, threads: int) -> None:
    monkeypatch.setattr(provenance, "physical_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if setting is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert provenance.default_threads(workers) == threads


def test_runs_and_sweeps_use_the_default_and_an_option_overrides_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(provenance, "physical_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = torch.get_num_threads()
    try:
        assert use_hardware("cpu", None) == 3 == torch.get_num_threads() and use_hardware("cpu", 2) == 2
    finally:
        torch.set_num_threads(before)
    options = {"executor": "local", "workers": None, "threads": None}
    assert _executor(tmp_path, options)[1] == 3 and _executor(tmp_path, options | {"workers": 8})[1] == 1
    assert _executor(tmp_path, options | {"threads": 5})[1] == 5


def test_the_counting_of_openmm_steps_is_code_of_methods_that_make_them(tmp_path: Path) -> None:
    """Other methods keep their fingerprint when it changes; both have that of `Problem`."""
    shutil.copytree(provenance.PACKAGE_FOLDER, tmp_path / "cgbench", ignore=shutil.ignore_patterns("__pycache__"))
    places = {"cgbench": tmp_path / "cgbench"}
    for name, call in (("steps", "openmm_simulation(None).step(1)"), ("plain", "reduced_energy(None)")):
        places[name] = tmp_path / f"{name}.py"
        places[name].write_text(
            "from cgbench.contracts.method import Method\n\n\nclass Mine(Method):\n    def estimates(self):\n"
            f"        yield self.problem.{call}\n"
        )

    def changed_by(file: str) -> set[str]:
        before = {name: provenance.fingerprint_of([name], places) for name in ("steps", "plain")}
        with open(tmp_path / "cgbench" / file, "a") as module:
            module.write("new = 1\n")
        return {name for name, code in before.items() if provenance.fingerprint_of([name], places) != code}

    assert changed_by("counting/openmm_simulation.py") == changed_by("counting/openmm_integrators.py") == {"steps"}
    assert changed_by("contracts/problem.py") == {"steps", "plain"}


PLUGIN = """
from helpers import FACTOR
from cgbench.contracts.method import Method, MethodConfig


class Mine(Method):
    name = "mine"
    Config = MethodConfig

    def estimates(self):
        yield FACTOR

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
"""


def code_in_another_process(folders: Sequence[Path], hash_seed: int) -> str:
    """Return the fingerprint of the class Mine in the file of each folder."""
    names = [f"{folder / 'mine.py'}:Mine" for folder in folders]
    words = (
        "from cgbench.running import provenance, registry; "
        f"print(provenance.code_of(*[registry.load('method', name) for name in {names}]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    return subprocess.run(
        [sys.executable, "-c", words], env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_a_class_in_a_file_has_one_fingerprint_in_all_processes_and_places(tmp_path: Path) -> None:
    """The modules beside the file belong to it, also if two files have neighbours of the same name."""
    codes = []
    for number, factor in enumerate([1.0, 1.0, 2.0]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "mine.py").write_text(PLUGIN)
        (folder / "helpers.py").write_text(f"FACTOR = {factor}\n")
        codes.append(code_in_another_process([folder], number))
    assert len(codes[0].strip()) == 16 and codes[0] == codes[1] != codes[2]
    first, second, third = (tmp_path / str(number) for number in range(3))
    both = [code_in_another_process(pair, 0) for pair in ([first, second], [first, third], [second, third])]
    assert both[0] != both[1] == both[2]
