"""The table of runs that `cgbench.read_runs` returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import cgbench
from cgbench.errors import UserError
from cgbench.results.dataframe import COLUMNS

P = np.ones(6)


@pytest.fixture
def table(tmp_path: Path, write_run: Callable[..., Path]) -> pd.DataFrame:
    write_run(tmp_path / "runs", "maze", "walk", P, seed=1)
    write_run(tmp_path / "runs", "maze", "walk", P, seed=0, curve=[(10, 0.5), (20, 2e-3)])
    unscored: dict[str, Any] = {"metrics": {"forward_kld": None}, "reference": None, "provenance": {}, "seconds": {}}
    write_run(tmp_path / "more", "attic", "walk", P, status="budget", **unscored)
    return cgbench.read_runs(tmp_path / "runs", str(tmp_path / "more"))


def test_columns_and_their_types_are_those_documented(table: pd.DataFrame) -> None:
    metrics = ["delta_f_error/left"]
    assert list(table.columns) == [*COLUMNS, *metrics]
    assert table.dtypes.astype(str).to_dict() == COLUMNS | dict.fromkeys(metrics, "float64")
    documented = cgbench.read_runs.__doc__ or ""
    assert all(f"``{name}``" in documented for name in COLUMNS)


def test_rows_are_the_runs(table: pd.DataFrame, tmp_path: Path) -> None:
    assert table[["system", "seed"]].values.tolist() == [["attic", 0], ["maze", 0], ["maze", 1]]
    row = table.iloc[1]
    assert row["evaluations"] == 20 and row["evaluations_paper_convention"] == 12  # 8 of the seeding left out
    assert row["forward_kld"] == 2e-3 and row["delta_f_error/left"] == -0.25 and math.isinf(row["reverse_kld"])
    assert row["evaluations_to_kld_1e-2"] == 20 and row["evaluations_to_kld_1e-3"] == math.inf
    assert row["noise_floor"] == 1e-4 and (row["wall_s"], row["cpu_s"], row["threads"]) == (12.5, 11.0, 3)
    assert row["hardware"] == "abacus" and row["commit"] == "abc123-dirty" and row["status"] == "finished"
    assert row["path"] == str(tmp_path / "runs" / "maze" / "walk" / "default" / "seed-0")


def test_what_a_run_lacks_is_missing(table: pd.DataFrame) -> None:
    row = table.iloc[0]
    assert row["status"] == "budget" and row["hardware"] == "" and pd.isna(row["commit"])
    assert row[["forward_kld", "total_variation", "noise_floor", "delta_f_error/left"]].isna().all()
    assert (row["wall_s"], row["cpu_s"]) == (0.0, 0.0)


def test_unfinished_and_failed_runs_on_request(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    write_run(tmp_path, "maze", "walk", P)
    write_run(tmp_path, "maze", "walk", P, seed=1, status="failed")
    fresh = write_run(tmp_path, "maze", "walk", P, seed=2, status="running", metrics={"forward_kld": None})
    (fresh / "curve.csv").unlink()
    assert cgbench.read_runs(tmp_path)["seed"].tolist() == [0]
    table = cgbench.read_runs(tmp_path, unfinished=True)
    assert table["status"].tolist() == ["finished", "failed", "running"]
    assert table["evaluations_to_kld_1e-2"].tolist() == [10_000, 10_000, math.inf]


def test_an_empty_folder_gives_an_empty_table(tmp_path: Path) -> None:
    table = cgbench.read_runs(tmp_path)
    assert len(table) == 0 and table.dtypes.astype(str).to_dict() == COLUMNS


def test_a_missing_folder_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no folder of runs '.*nowhere'"):
        cgbench.read_runs(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no folder of runs 'runs'"):
        cgbench.read_runs()


def test_the_published_runs_agree_with_the_leaderboard() -> None:
    root = Path(__file__).parents[3]
    runs, ranking = cgbench.read_runs(root / "runs"), pd.read_csv(root / "runs" / "leaderboard.csv")
    for _, row in ranking.iterrows():
        same = runs[(runs["system"] == row["system"]) & (runs["method"] == row["method"])]
        same = same[same["preset"] == row["preset"]]
        assert len(same) == row["n_seeds"]
        for name in ("evaluations", "forward_kld", "evaluations_to_kld_1e-2", "wall_s"):
            assert same[name].median() == pytest.approx(row[name], rel=1e-5)
