"""The code of stored runs: from the record, or from the sources of its commit."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from cgbench.cli.main import main
from cgbench.running.provenance import code_of
from cgbench.running.record import parse_record, record_bytes
from cgbench.running.registry import load

code = pytest.importorskip("studies.code")
ROOT = Path(__file__).parents[2]
CLASSES = load("method", "md"), load("system", "muller_brown")
MODULES = tuple(cls.__module__ for cls in CLASSES)


def test_the_code_of_this_tree_is_that_of_the_installed_packages(tmp_path: Path) -> None:
    assert code.code_at(ROOT, MODULES) == code_of(*CLASSES)
    for place in ("cgbench", "methods/cgbench_methods", "systems/cgbench_systems"):
        shutil.copytree(ROOT / place, tmp_path / place, ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
    assert code.code_at(tmp_path, MODULES) == code_of(*CLASSES)
    changed = tmp_path / "methods" / "cgbench_methods" / "md" / "method.py"
    changed.write_text(changed.read_text() + "new = 1\n")
    assert code.code_at(tmp_path, MODULES) != code_of(*CLASSES)
    changed.unlink()
    assert code.code_at(tmp_path, MODULES) is None


def test_a_record_without_a_fingerprint_gets_that_of_its_commit(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout

    if not (ROOT / ".git").exists() or git("rev-parse", "--is-shallow-repository").strip() != "false":
        pytest.skip("the history is not here")
    runs = tmp_path / "runs"
    words = ["--system", "muller_brown", "--method", "md", "--preset", "smoke", "--threads", "1", "--out", str(runs)]
    assert main(["run", *words]) == 0
    path = runs / "muller_brown/md/smoke/seed-0/record.json"
    record = parse_record(path.read_bytes())
    facts = {name: value for name, value in record.provenance.items() if name != "code"}
    commit = git("rev-parse", "HEAD").strip()
    older = record.model_copy(update={"provenance": facts | {"git": {"commit": commit, "dirty": False}}})
    path.write_bytes(record_bytes(older))

    def table(*options: str) -> list[str]:
        result = CliRunner().invoke(code.command, [str(runs), *options])
        assert result.exit_code == 0, result.output
        return [cell.strip() for cell in result.output.splitlines()[2].split("|")[1:-1]]

    clean = not git("status", "--porcelain", "--", "cgbench", "methods", "systems").strip()
    shown = table()
    assert shown[:4] == ["muller_brown", "md", "smoke", "1"] and parse_record(path.read_bytes()) == older
    assert (shown[4] == "1") or not clean
    assert table("--write") == shown
    found = json.loads(path.read_text())["provenance"]["code"]
    assert found.startswith(shown[5]) and (found == code_of(*CLASSES) or not clean)
    unknown = older.provenance | {"git": {"commit": "0" * 40, "dirty": False}}
    path.write_bytes(record_bytes(older.model_copy(update={"provenance": unknown})))
    failed = CliRunner().invoke(code.command, [str(runs)])
    assert failed.exit_code and "commit 000000000000 cannot be read from git" in str(failed.exception)
