"""Records to a ranking."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cgbench.cli.main import main
from cgbench.errors import UserError
from cgbench.leaderboard import FoundRun, evaluations_to, find_runs, leaderboard, show_kld
from cgbench.record import Evaluations, Record


def made_up(method: str, seed: int, curve: list[tuple[float, float]], floor: float = 1e-4) -> FoundRun:
    evaluations, kld = (np.array(column, dtype=float) for column in zip(*curve, strict=True))
    record = Record(
        system="aldp",
        system_version="1",
        method=method,
        preset="default",
        seed=seed,
        config={},
        config_hash="0",
        engine="torch",
        device="cpu",
        threads=1,
        budget=None,
        status="finished",
        evaluations=Evaluations(total=int(evaluations[-1]), by_phase={}, publication_convention=int(evaluations[-1])),
        metrics={"forward_kld": float(kld[-1]), "delta_f_error/a": -0.2, "delta_f_error/b": 0.1},
        reference={"noise_floor": floor},
        provenance={"cpu": "abacus"},
    )
    return FoundRun(record, evaluations, kld)


def power_law(seed: int, factor: float = 1.0) -> FoundRun:
    """MD whose forward KLD is ``1e4 / n``, times a factor."""
    return made_up("md", seed, [(n, factor * 1e4 / n) for n in (1e4, 1e5, 1e6, 1e7)])


def test_speedup_is_that_of_the_power_law() -> None:
    runs = [power_law(s, f) for s, f in enumerate((0.9, 1.0, 1.1))]
    runs += [made_up("fast", s, [(1e3, 1.0), (5e3, 1e-2), (1e4, 2e-3)]) for s in range(3)]
    row = leaderboard(runs).set_index("method").loc["fast"]
    assert row["speedup_vs_md"] == pytest.approx(1e4 / 2e-3 / 1e4, rel=0.1)
    assert row["speedup_lo"] <= row["speedup_vs_md"] <= row["speedup_hi"]
    assert not row["extrapolated"]
    assert row["evaluations_to_kld_1e-2"] == 5e3 and row["evaluations_to_kld_1e-3"] == math.inf
    assert row["n_seeds"] == 3 and row["basin_df_error_kT"] == pytest.approx(0.2) and row["hardware"] == "abacus"


def test_beyond_the_md_curve_it_says_extrapolated() -> None:
    runs = [power_law(0), power_law(1), made_up("fast", 0, [(1e3, 5e-4)])]
    assert leaderboard(runs).set_index("method").loc["fast", "extrapolated"]


def test_below_the_noise_floor_is_a_bound() -> None:
    runs = [power_law(0), made_up("lucky", 0, [(1e3, 1e-6)], floor=1e-3)]
    row = leaderboard(runs).set_index("method").loc["lucky"]
    assert row["shown_kld"] == "<= 1.0e-03"
    assert row["speedup_vs_md"] == pytest.approx(1e4 / 1e-3 / 1e3, rel=0.1)  # not 1e4 / 1e-6 / 1e3
    assert show_kld(1e-6, 1e-3) == "<= 1.0e-03" and show_kld(2e-3, 1e-3) == "2.00e-03"


def test_a_target_must_be_held() -> None:
    """A curve that dips below the target and rises again has not reached it."""
    dips = made_up("x", 0, [(1, 1.0), (2, 5e-3), (3, 5e-2), (4, 5e-3), (5, 4e-3)])
    assert evaluations_to(dips, 1e-2) == 4
    assert evaluations_to(dips, 1e-3) == math.inf
    assert evaluations_to(made_up("x", 0, [(7, 1e-4)]), 1e-2) == 7


def test_best_first_and_versions_apart() -> None:
    runs = [made_up("b", 0, [(1, 2e-2)]), made_up("a", 0, [(1, 1e-2)])]
    table = leaderboard(runs)
    assert table["method"].tolist() == ["a", "b"]
    newer = FoundRun(
        runs[0].record.model_copy(update={"system_version": "2"}), runs[0].evaluations, runs[0].forward_kld
    )
    assert leaderboard([*runs, newer])["version"].tolist() == ["1", "1", "2"]


def test_empty_leaderboard_has_its_columns(tmp_path) -> None:
    table = leaderboard(find_runs([tmp_path]))
    assert len(table) == 0 and "speedup_vs_md" in table.columns


def test_from_runs_to_csv(tmp_path: Path, capsys) -> None:
    for seed in (0, 1):
        assert (
            main(
                ["run", "--method", "md", "--system", "muller_brown", "--preset", "smoke", "--seed", str(seed)]
                + ["--threads", "1", "--out", str(tmp_path / "runs")]
            )
            == 0
        )
    capsys.readouterr()
    assert main(["leaderboard", "--runs", str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv(io.StringIO(printed))
    assert table.loc[0, "n_seeds"] == 2 and table.loc[0, "evaluations"] == 3552
    assert main(["leaderboard", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "board.csv")]) == 0
    assert (tmp_path / "board.csv").read_text() == printed
    assert main(["leaderboard", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "no" / "board.csv")]) == 2


def test_unfinished_runs_are_left_out_and_broken_ones_named(tmp_path: Path, capsys) -> None:
    main(
        ["run", "--method", "md", "--system", "muller_brown", "--preset", "smoke", "--threads", "1"]
        + ["--out", str(tmp_path)]
    )
    (record,) = tmp_path.rglob("record.json")
    facts = json.loads(record.read_text())
    record.write_text(json.dumps(facts | {"status": "running"}))
    assert find_runs([tmp_path]) == []
    record.write_text(json.dumps(facts))
    record.with_name("curve.csv").write_text("nonsense\n1\n")
    with pytest.raises(UserError, match="curve .* cannot be read"):
        find_runs([tmp_path])
