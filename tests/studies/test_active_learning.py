"""The table of stages of active learning, from a published run and from a stored PMF of known error."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cgbench.contracts.pmf import basin_mask
from cgbench.errors import UserError
from cgbench.running.record import parse_record, record_bytes
from cgbench.running.registry import build_system
from studies import active_learning

RUNS = Path(__file__).parents[2] / "runs"
PAPER = RUNS / "aldp" / "cgflow_al" / "paper"


def test_published_table_follows_from_the_published_run(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    result = CliRunner().invoke(active_learning.command, [str(PAPER), "--table", str(table)])
    assert result.exit_code == 0 and "part_of_kld" in result.output
    assert table.read_bytes() == (PAPER / "active_learning.csv").read_bytes()


def test_a_basin_that_is_too_high(tmp_path: Path) -> None:
    """One stage is the reference with phi > 0 raised by 1 kT; all of the divergence is there."""
    run = tmp_path / "run"
    shutil.copytree(PAPER / "seed-0", run)
    with np.load(run / "pmf.npz") as stored:
        arrays = dict(stored)
    system = build_system("aldp")
    p = system.reference().pmf.probability
    raised = next(basin_mask(system.cvs, basin.contains) for basin in system.basins if basin.name == "phi>0")
    arrays["stage_free_energy"] = (-np.log(np.maximum(p, 1e-300)) + raised)[None]
    arrays["stage_evaluations"], arrays["stage_of_point"] = np.array([7]), np.zeros(2, dtype=int)
    arrays["stage_points"] = np.array([[1.0, 1.0], [-1.5, 2.0]])
    np.savez(run / "pmf.npz", **arrays)
    rows = {row["basin"]: row for row in active_learning.table_of(run)}
    high = float(p[raised].sum())
    parts = {name: float(row["part_of_kld"]) for name, row in rows.items()}
    normal = np.log(1 - high + high / np.e)
    assert parts["phi>0"] == pytest.approx(high * (1 + normal), abs=6e-4)
    assert sum(parts.values()) == pytest.approx(high + normal, abs=1.1e-3)
    assert float(rows["phi>0"]["error_below_1kT"]) == pytest.approx(1 - high, abs=0.006)
    assert float(rows["alphaR"]["error_below_1kT"]) == pytest.approx(-high, abs=0.006)
    assert float(rows["phi>0"]["estimate"]) == pytest.approx(high / np.e / np.exp(normal), abs=6e-5)
    assert [rows[name]["new_points"] for name in ("phi>0", "C5/PPII", "alphaR")] == [1, 1, 0]


def test_what_it_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 0 runs"):
        active_learning.table_of(tmp_path)
    with pytest.raises(UserError, match="no stages"):
        active_learning.table_of(RUNS / "aldp" / "opes" / "default" / "seed-0")
    older = tmp_path / "older"
    shutil.copytree(PAPER / "seed-0", older)
    record = parse_record((older / "record.json").read_bytes())
    (older / "record.json").write_bytes(record_bytes(record.model_copy(update={"system_version": "0"})))
    with pytest.raises(UserError, match=f"a run of version 0 of aldp, not {record.system_version}"):
        active_learning.table_of(older)
    result = CliRunner().invoke(active_learning.command, [str(PAPER), "--table", "."])
    assert result.exit_code == 2 and "is a directory" in result.output
