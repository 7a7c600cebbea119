"""The functions at the top of the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cgbench
from cgbench.contracts.method import Method
from cgbench.contracts.pmf import PMF
from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench.running.record import Record


def test_systems_and_methods_by_name() -> None:
    system = cgbench.load_system("muller_brown", engine="torch", device="cpu")
    assert isinstance(system, System) and system.name == "muller_brown"
    method = cgbench.load_method("md")
    assert issubclass(method, Method) and method.name == "md"
    with pytest.raises(UserError, match="unknown system 'maze': choose from"):
        cgbench.load_system("maze")
    with pytest.raises(UserError, match="unknown method 'walk': choose from"):
        cgbench.load_method("walk")
    with pytest.raises(UserError, match="has no engine 'abacus'"):
        cgbench.load_system("muller_brown", engine="abacus")


def test_a_run_its_table_and_its_pmf(tmp_path: Path) -> None:
    options = {"preset": "smoke", "seed": 3, "overrides": ["steps=20"], "out": tmp_path, "threads": 1}
    record = cgbench.run("muller_brown", "md", **options)
    assert isinstance(record, Record) and record.status == "finished" and record.config["steps"] == 20
    assert cgbench.run("muller_brown", "md", **options).model_dump() == record.model_dump()  # already complete
    (row,) = cgbench.read_runs(tmp_path).to_dict("records")
    assert row["evaluations"] == record.evaluations.total and row["forward_kld"] == record.metrics["forward_kld"]
    pmf = cgbench.PMF.load(Path(row["path"]) / "pmf.npz", cgbench.load_system("muller_brown").cvs)
    assert isinstance(pmf, PMF) and pmf.cvs.names == ("s",) and pmf.free_energy.min() == 0.0
    again = cgbench.run("muller_brown", "md", **options, restart=True)
    assert again.metrics == record.metrics


def test_an_invalid_request_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--budget must be at least 1"):
        cgbench.run("muller_brown", "md", preset="smoke", budget=0, out=tmp_path)
    with pytest.raises(UserError, match="did you mean 'steps'"):
        cgbench.run("muller_brown", "md", overrides=["stpes=1"], out=tmp_path)
    with pytest.raises(TypeError):
        cgbench.run("muller_brown", "md", sed=1)  # type: ignore[call-arg]
    assert not list(tmp_path.iterdir())


def test_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, cgbench; heavy = {'numpy', 'pandas', 'torch', 'openmm', 'pydantic', 'click', 'matplotlib'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'PMFs'"):
        _ = cgbench.PMFs  # type: ignore[attr-defined]
