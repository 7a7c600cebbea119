"""Provenance: the commit is that of this project's checkout, and of no other."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

import cgbench
from cgbench.running import provenance


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
