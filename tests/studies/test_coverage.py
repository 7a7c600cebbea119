"""The table of coverage: pooled over runs, by height, and for PMFs of known error."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cgbench.running.record import parse_record, record_bytes
from studies import coverage

PUBLISHED = Path(__file__).parents[2] / "runs" / "muller_brown" / "metadynamics"


def test_coverage_of_known_errors() -> None:
    random = np.random.default_rng(0)
    height = np.linspace(0.0, 7.99, 4000)
    claim = np.full(4000, 0.1)
    right = height, 0.1 * random.normal(size=4000), claim
    wrong = height, np.where(height < 4, 0.0, 0.3) + 0.0 * claim, claim
    row = coverage.row_of([right])
    assert row["coverage"] == pytest.approx(0.95, abs=0.015) and row["ratio"] == pytest.approx(1.0, abs=0.04)
    row = coverage.row_of([right, wrong])
    assert row["pmfs"] == 2 and row["lowest"] == pytest.approx(0.5, abs=0.01) and row["highest"] > 0.93
    assert row["from_6"] == pytest.approx(0.475, abs=0.02) and row["from_2"] > 0.96 and row["mean"] > 0.7


def test_table_of_stored_runs(tmp_path) -> None:
    table = tmp_path / "table.csv"
    result = CliRunner().invoke(coverage.command, [str(PUBLISHED), "--table", str(table)])
    assert result.exit_code == 0 and "metadynamics" in result.output
    header, *lines = table.read_text().splitlines()
    rows = coverage.table_of([PUBLISHED])
    assert header.split(",") == list(rows[0]) and len(lines) == len(rows) == 2
    assert rows[0]["pmfs"] == 5 and 0.5 < rows[0]["coverage"] < 1.0
    assert rows[0]["coverage"] == pytest.approx(rows[1]["coverage"])


def test_runs_that_call_themselves_not_reliable_are_pooled_apart(tmp_path) -> None:
    folders = []
    for seed, reliable in ((0, True), (1, False)):
        folders.append(tmp_path / f"seed-{seed}")
        shutil.copytree(PUBLISHED / f"default/seed-{seed}", folders[-1])
        file = folders[-1] / "record.json"
        record = parse_record(file.read_bytes())
        record.diagnostics["reliable"] = reliable
        file.write_bytes(record_bytes(record))
    rows = {row["preset"]: row for row in coverage.table_of(folders)}
    assert list(rows) == ["default", "all", "reliable"]
    assert rows["all"]["pmfs"] == 2 and rows["reliable"]["pmfs"] == 1
    assert rows["reliable"]["coverage"] == coverage.table_of(folders[:1])[0]["coverage"]


def test_runs_of_another_version_of_their_system_are_left_out_and_named(tmp_path) -> None:
    for seed in (0, 1):
        shutil.copytree(PUBLISHED / f"default/seed-{seed}", tmp_path / f"seed-{seed}")
    file = tmp_path / "seed-1" / "record.json"
    record = parse_record(file.read_bytes())
    file.write_bytes(record_bytes(record.model_copy(update={"system_version": "0"})))
    result = CliRunner().invoke(coverage.command, [str(tmp_path), "--table", str(tmp_path / "table.csv")])
    words = f"left out: {file.parent}: of version 0 of muller_brown, not {record.system_version}"
    assert result.exit_code == 0 and words in result.output
    assert [row["pmfs"] for row in coverage.table_of([tmp_path])] == [1, 1]
