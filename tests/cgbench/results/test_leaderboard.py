"""The leaderboard."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cgbench.cli.main import main
from cgbench.errors import UserError
from cgbench.results.leaderboard import leaderboard
from cgbench.results.numbers import show_kld
from cgbench.results.rows import differences
from cgbench.results.runs import FoundRun, find_runs, first_held
from cgbench.results.tables import leaderboard_markdown, markdown
from cgbench.running.record import Evaluations, Record
from cgbench.running.run_folder import RunFolder


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
    assert row["speedup_vs_md_lo"] <= row["speedup_vs_md"] <= row["speedup_vs_md_hi"]
    assert row["speedup_vs_md_bound"] == "" and not row["assumed_scatter"]
    assert row["speedup_to_kld_1e-2"] == pytest.approx(1e6 / 5e3, rel=0.1) and math.isnan(row["speedup_to_kld_1e-3"])
    assert row["evaluations_to_kld_1e-2"] == 5e3 and row["evaluations_to_kld_1e-3"] == math.inf
    assert row["n_seeds"] == 3 and row["basin_df_error_kT"] == pytest.approx(0.2) and row["hardware"] == "abacus"


def test_beyond_the_md_curve_there_are_bounds_and_no_extrapolation() -> None:
    runs = [power_law(0), power_law(1), made_up("fast", 0, [(1e3, 5e-4)]), made_up("poor", 0, [(1e3, 5.0)])]
    table = leaderboard(runs).set_index("method")
    assert table.loc["fast", "speedup_vs_md_bound"] == "at least" and table.loc["fast", "speedup_vs_md_hi"] == math.inf
    assert table.loc["fast", "speedup_vs_md"] == pytest.approx(1e7 / 1e3)
    assert table.loc["poor", "speedup_vs_md_bound"] == "at most" and table.loc["poor", "speedup_vs_md_lo"] == 0
    assert table.loc["poor", "speedup_vs_md"] == pytest.approx(1e4 / 1e3)


def test_md_has_no_speedup_over_itself() -> None:
    table = leaderboard([power_law(0), power_law(1), made_up("fast", 0, [(1e3, 5e-3)])]).set_index("method")
    columns = [name for name in table.columns if "speedup" in name and not name.endswith("bound")]
    assert len(columns) > 20 and table.loc["md", columns].isna().all() and not table.loc["fast", columns].isna().all()


def test_below_the_noise_floor_is_a_bound() -> None:
    runs = [power_law(0), made_up("lucky", 0, [(1e3, 1e-6)], floor=1e-3)]
    row = leaderboard(runs).set_index("method").loc["lucky"]
    assert row["shown_kld"] == "<= 1.0e-03"
    assert row["speedup_vs_md"] == pytest.approx(1e4 / 1e-3 / 1e3, rel=0.1)  # not 1e4 / 1e-6 / 1e3
    assert row["speedup_vs_md_bound"] == "at least" and row["speedup_vs_md_hi"] == math.inf
    assert show_kld(1e-6, 1e-3) == "<= 1.0e-03" and show_kld(2e-3, 1e-3) == "2.00e-03"


def test_the_algorithm_is_that_of_the_installed_preset() -> None:
    def preset_of(method: str, preset: str, **changes: object) -> FoundRun:
        run = made_up(method, 0, [(1e3, 1e-2)])
        record = run.record.model_copy(update={"preset": preset} | changes)
        return FoundRun(record, run.evaluations, run.forward_kld)

    runs = [preset_of("cgflow_al", "paper"), preset_of("cgflow_al", "default"), preset_of("opes", "default")]
    runs += [preset_of("md", "default"), preset_of("cgflow_al", "default-1a2b3c4d"), preset_of("unheard_of", "default")]
    runs += [preset_of("md", "self-reported", origin="external")]
    found = leaderboard(runs).set_index(["method", "preset"])["algorithm"].to_dict()
    assert found == {
        ("cgflow_al", "paper"): "published",
        ("cgflow_al", "default"): "ours",
        ("opes", "default"): "published, our settings",
        ("md", "default"): "standard",
        ("cgflow_al", "default-1a2b3c4d"): "",
        ("unheard_of", "default"): "",
        ("md", "self-reported"): "",
    }
    shown = leaderboard_markdown(leaderboard(runs))
    assert "| preset           | algorithm               |" in shown and "| published, our settings |" in shown
    assert "| unheard_of | default          | –  " in shown


def test_evaluations_with_a_gradient_are_known_if_all_seeds_have_them() -> None:
    def counting(method: str, counts: list[int | None]) -> list[FoundRun]:
        runs = [made_up(method, seed, [(1e3, 1e-2)]) for seed in range(len(counts))]
        for run, count in zip(runs, counts, strict=True):
            run.record.evaluations.with_gradient = count
        return runs

    runs = counting("new", [10, 30, 20]) + counting("old", [None, None]) + counting("mixed", [10, None])
    found = leaderboard(runs).set_index("method")["evaluations_with_gradient"]
    assert found["new"] == 20 and math.isnan(found["old"]) and math.isnan(found["mixed"])


def test_a_target_must_be_held() -> None:
    """A curve that dips below the target and rises again has not reached it."""
    dips = made_up("x", 0, [(1, 1.0), (2, 5e-3), (3, 5e-2), (4, 5e-3), (5, 4e-3)])
    assert dips.evaluations_to(1e-2) == 4
    assert dips.evaluations_to(1e-3) == math.inf
    assert made_up("x", 0, [(7, 1e-4)]).evaluations_to(1e-2) == 7


def test_estimates_without_a_score_reach_no_target() -> None:
    assert first_held(np.array([1e-4, math.nan, 1e-4]), 1e-2) == 2
    assert first_held(np.array([1e-4, 1e-4, math.nan]), 1e-2) is None
    assert first_held(np.empty(0), 1e-2) is None


def test_without_a_reference_nothing_is_said_about_targets_and_speedups() -> None:
    scored = [made_up(name, seed, [(10, math.nan), (20, math.nan)]) for name in ("md", "fast") for seed in range(2)]
    table = leaderboard([replace(run, record=run.record.model_copy(update={"reference": None})) for run in scored])
    assert table["evaluations_to_kld_1e-2"].isna().all() and table["seconds_to_kld_1e-2"].isna().all()
    text = leaderboard_markdown(table)
    assert "not reached" not in text and "no speedup in time" not in text and "fewer than three seeds" not in text


def test_a_target_is_reached_at_the_first_point_from_which_no_score_is_above_it() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        kld = random.integers(1, 4, size=7).astype(float)
        held = [i for i in range(7) if all(k <= 2.0 for k in kld[i:])]
        assert first_held(kld, 2.0) == min(held, default=None)


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
    for folder in (".", "/", str(tmp_path)):
        capsys.readouterr()
        assert main(["leaderboard", "--runs", str(tmp_path / "runs"), "--out", folder]) == 2
        assert capsys.readouterr().err.endswith(
            f"cgbench: cannot write {folder}: it is a folder; give the name of a file with --out\n"
        )


def test_unfinished_runs_are_left_out_and_broken_ones_named(tmp_path: Path, capsys) -> None:
    main(
        ["run", "--method", "md", "--system", "muller_brown", "--preset", "smoke", "--threads", "1"]
        + ["--out", str(tmp_path)]
    )
    (path,) = tmp_path.rglob("record.json")
    folder = RunFolder(path.parent)
    record = folder.read_record()
    folder.write_record(record.model_copy(update={"status": "running"}))
    assert find_runs([tmp_path]) == []
    folder.write_record(record)
    (folder.path / "curve.csv").write_text("nonsense\n1\n")
    with pytest.raises(UserError, match="curve .* cannot be read"):
        find_runs([tmp_path])


def written(folder: Path, run: FoundRun) -> Path:
    """Put a made-up run where `cgbench run` would have left it."""
    r = run.record
    out = RunFolder(folder / r.system / r.method / r.preset / f"seed-{r.seed}")
    out.path.mkdir(parents=True)
    out.write_record(r)
    rows = [{"evaluations": n, "forward_kld": d} for n, d in zip(run.evaluations, run.forward_kld, strict=True)]
    out.write_table("curve.csv", ["evaluations", "forward_kld"], rows)
    return out.path


SIDE = "name,replicate,evaluations,forward_kld\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "cannot be read: No columns"),
        ("a,b\n1,2\n", "has no column 'name': its columns must be name, replicate, evaluations, forward_kld"),
        (
            SIDE + "histogram/8,0,10,0.5\nhistogram,0,20,0.5\n",
            "row 2 has 'histogram' in the column 'name', which must be",
        ),
        (SIDE + "histogram/0,0,10,0.5\n", "row 1 has 'histogram/0' in the column 'name'"),
        (SIDE + ",0,10,0.5\n", "row 1 has 'nan' in the column 'name'"),
        (
            SIDE + "histogram/8,0,many,0.5\n",
            "row 1 has 'many' in the column 'evaluations', which must be a number above 0",
        ),
        (SIDE + "histogram/8,0,0,0.5\n", "row 1 has '0' in the column 'evaluations'"),
        (SIDE + "histogram/8,x,10,0.5\n", "row 1 has 'x' in the column 'replicate', which must be a number"),
        (SIDE + "histogram/8,0,10,low\n", "row 1 has 'low' in the column 'forward_kld'"),
        (SIDE, None),
        (SIDE + "histogram/8,0,10,\nhistogram/8,0,20,inf\n", None),
    ],
)
def test_a_damaged_table_of_auxiliary_estimates_is_named(
    content: str, reason: str | None, tmp_path: Path, capsys
) -> None:
    path = written(tmp_path, power_law(0)) / "side_estimates.csv"
    path.write_text(content)
    assert main(["leaderboard", "--runs", str(tmp_path)]) == (0 if reason is None else 2)
    err = capsys.readouterr().err
    assert reason is None or (err.startswith(f"cgbench: {path} {reason}") or f"{path}: {reason}" in err), err
    assert err.count("\n") == (reason is not None)


def test_estimators_of_other_methods_may_have_any_name(tmp_path: Path) -> None:
    path = written(tmp_path, made_up("fast", 0, [(1e3, 1e-2)])) / "side_estimates.csv"
    path.write_text(SIDE + "flow without reweighting,0,10,0.5\n")
    (run,) = find_runs([tmp_path])
    assert run.auxiliary is not None and run.auxiliary["name"].tolist() == ["flow without reweighting"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reference": {"noise_floor": "abc"}}, "reference.noise_floor is 'abc', not a number"),
        ({"reference": {"noise_floor": None}}, "reference.noise_floor is 'None', not a number"),
        ({"config": {"walkers": "x"}}, "config.walkers is 'x', not a whole number above 0"),
        ({"config": {"walkers": 0}}, "config.walkers is '0', not a whole number above 0"),
        ({"provenance": {"git": "abc"}}, "provenance.git is 'abc', not an object"),
    ],
)
def test_a_record_edited_by_hand_is_named(changes: dict[str, object], reason: str, tmp_path: Path, capsys) -> None:
    run = power_law(0)
    path = written(tmp_path, FoundRun(run.record.model_copy(update=changes), run.evaluations, run.forward_kld))
    assert main(["leaderboard", "--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"cgbench: {path / 'record.json'}: {reason}\n"


@pytest.mark.parametrize("content", ['evaluations,forward_kld\n1,"' + 140_000 * "0", "evaluations,forward_kld\n,0.5\n"])
def test_a_damaged_curve_is_named(content: str, tmp_path: Path) -> None:
    path = written(tmp_path, power_law(0)) / "curve.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=f"curve {path} cannot be read"):
        find_runs([tmp_path])


def varied(seed: int, factor: float, **changes: object) -> FoundRun:
    run = made_up("fast", seed, [(1e3, 0.5 * factor), (1e4, 2e-3 * factor)])
    return FoundRun(run.record.model_copy(update=changes), run.evaluations, run.forward_kld)


def test_the_interval_covers_the_spread_of_seeds() -> None:
    """Seeds that score differently make the speedup uncertain even where MD's curve is exact."""
    md = [made_up("md", s, [(n, 1e4 / n) for n in (1e4, 1e5, 1e6, 1e7, 1e8)]) for s in range(4)]
    alike = leaderboard([*md, *(varied(s, 1.0) for s in range(5))]).set_index("method").loc["fast"]
    apart = leaderboard([*md, *(varied(s, 2.0 ** (s - 2)) for s in range(5))]).set_index("method").loc["fast"]
    assert alike["speedup_vs_md_hi"] == pytest.approx(alike["speedup_vs_md_lo"], rel=1e-6)
    assert apart["speedup_vs_md"] == pytest.approx(alike["speedup_vs_md"])
    # medians of five factors 1/4 ... 4 drawn with replacement are 1/4 or 4 with 5.8 % on each side
    assert apart["speedup_vs_md_lo"] == pytest.approx(alike["speedup_vs_md_lo"] / 4, rel=0.05)
    assert apart["speedup_vs_md_hi"] == pytest.approx(alike["speedup_vs_md_hi"] * 4, rel=0.05)


def test_medians_and_their_intervals_are_order_statistics() -> None:
    row = leaderboard([varied(s, 2.0 ** (s - 2)) for s in range(5)]).iloc[0]
    assert row["forward_kld"] == 2e-3 and (row["forward_kld_lo"], row["forward_kld_hi"]) == (5e-4, 8e-3)
    assert row["confidence"] == pytest.approx(15 / 16)
    assert row["evaluations_to_kld_1e-2_hi"] == 1e4 and row["evaluations_to_kld_1e-3_hi"] == math.inf
    two = leaderboard([varied(s, 1.0) for s in range(2)]).iloc[0]
    assert math.isnan(two["forward_kld_lo"]) and math.isnan(two["confidence"])


def timed(run: FoundRun, per_evaluation: float, **changes: object) -> FoundRun:
    """A run that takes as long for each evaluation, on one thread of an abacus with compiled kernels."""
    total = per_evaluation * run.record.evaluations.total
    record = run.record.model_copy(
        update={
            "seconds": {"work": {"wall": 2 * total, "cpu": total}},
            "provenance": {"cpu": "abacus", "native": "c++"},
            **changes,
        }
    )
    wall = 2 * per_evaluation * run.evaluations  # twice the CPU seconds: the machine does other things
    return FoundRun(record, run.evaluations, run.forward_kld, wall=wall)


def test_times_and_speedups_in_time() -> None:
    """MD needs 1e6 evaluations of 1 ms to 1e-2; the method 1e4 of 10 ms: ten times as fast."""
    md = timed(power_law(0), 1e-3)
    fast = timed(made_up("fast", 0, [(1e3, 0.5), (1e4, 5e-3)]), 1e-2)
    row = leaderboard([md, fast]).set_index("method").loc["fast"]
    assert row["seconds"] == pytest.approx(100) and row["seconds_to_kld_1e-2"] == pytest.approx(100)
    assert row["seconds_to_kld_1e-3"] == math.inf and row["scaled_seconds"] and pd.isna(row["time_note"])
    assert row["speedup_to_kld_1e-2"] == pytest.approx(100, rel=0.1)
    assert row["time_speedup_to_kld_1e-2"] == pytest.approx(10, rel=0.1)
    stored = FoundRun(fast.record, fast.evaluations, fast.forward_kld, wall=fast.wall, cpu=np.array([1.0, 50.0]))
    row = leaderboard([md, stored]).set_index("method").loc["fast"]
    assert row["seconds_to_kld_1e-2"] == 50 and not row["scaled_seconds"]
    on_gpu = timed(fast, 1e-2, device="cuda:0", provenance={"accelerator": "a GPU"})
    row = leaderboard([md, on_gpu]).set_index("method").loc["fast"]
    assert row["seconds"] == pytest.approx(200) and math.isnan(row["time_speedup_to_kld_1e-2"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"threads": 2}, "no run of MD on abacus with 2 threads, engine torch and compiled kernels"),
        ({"engine": "openmm"}, "engine openmm"),
        ({"provenance": {"cpu": "abacus"}}, "no compiled kernels"),
        ({"provenance": {"cpu": "slide rule", "native": "c++"}}, "on slide rule"),
    ],
)
def test_no_speedup_in_time_without_md_on_the_same_machine(changes: dict[str, object], reason: str) -> None:
    runs = [timed(power_law(0), 1e-3), timed(made_up("fast", 0, [(1e4, 5e-3)]), 1e-2, **changes)]
    row = leaderboard(runs).set_index("method").loc["fast"]
    assert math.isnan(row["time_speedup_vs_md"]) and reason in row["time_note"]
    assert not math.isnan(row["speedup_vs_md"])


@pytest.mark.parametrize(("speeds", "comparable"), [((70, 80), True), ((70, 100), False), ((None, 100), True)])
def test_machines_of_one_name_may_differ_in_speed(speeds: tuple[float | None, float], comparable: bool) -> None:
    machines = [{"cpu": "abacus", "native": "c++"} | ({} if speed is None else {"speed": speed}) for speed in speeds]
    runs = [
        timed(power_law(0), 1e-3, provenance=machines[0]),
        timed(made_up("fast", 0, [(1e4, 5e-3)]), 1e-2, provenance=machines[1]),
    ]
    row = leaderboard(runs).set_index("method").loc["fast"]
    assert math.isnan(row["time_speedup_vs_md"]) != comparable
    assert comparable or "differ in measured speed" in row["time_note"]
    seeds = [varied(seed, 1.0, provenance=machine) for seed, machine in enumerate(machines)]
    assert differences(seeds) == ({} if comparable else {"speed": ["100", "70"]})


def test_rows_that_mix_commits_or_machines_say_so(tmp_path: Path, capsys) -> None:
    ours = {"cpu": "abacus", "git": {"commit": "a" * 40, "dirty": False}}
    mixed = [
        varied(0, 1.0, provenance=ours, metrics_version=1),
        varied(1, 1.0, provenance=ours | {"git": {"commit": "b" * 40, "dirty": True}}, metrics_version=2),
        varied(2, 1.0, provenance=ours | {"cpu": "slide rule"}, metrics_version=1),
    ]
    found = differences(mixed)
    assert found == {
        "commit": ["aaaaaaaa", "bbbbbbbb-dirty"],
        "metrics version": ["1", "2"],
        "hardware": ["abacus", "slide rule"],
    }
    assert differences(mixed[:1] * 2) == {}
    coded = [varied(seed, 1.0, provenance=run.record.provenance | {"code": "c0de"}) for seed, run in enumerate(mixed)]
    assert differences(coded) == {"hardware": ["abacus", "slide rule"]}  # commits with the same code are no difference
    coded[1].record.provenance["code"] = "other"
    assert differences(coded)["code"] == ["c0de", "other"]
    del coded[2].record.provenance["code"]
    assert "code" not in differences(coded) and differences(coded)["commit"] == found["commit"]
    for run in mixed:
        written(tmp_path, run)
    _, out, err = board(tmp_path, capsys)
    assert "warning: the seeds of fast on aldp, preset default, differ in commit (aaaaaaaa, bbbbbbbb-dirty)" in err
    assert err.count("\n") == 1 and "commit: aaaaaaaa, bbbbbbbb-dirty" in out
    assert "the seeds differ in commit" in board(tmp_path, capsys, "--format", "markdown")[1]


def test_logarithms_and_seeds_that_reached_a_target() -> None:
    row = leaderboard(
        [
            varied(
                s,
                f,
            )
            for s, f in enumerate((0.2, 1.0, 5.0))
        ]
    ).iloc[0]
    logs = np.log(2e-3 * np.array([0.2, 1.0, 5.0]))
    assert row["ln_kld_mean"] == pytest.approx(logs.mean())
    assert row["ln_kld_se"] == pytest.approx(logs.std(ddof=1) / math.sqrt(3))
    assert row["evaluations_to_kld_1e-2_seeds"] == 3 and row["evaluations_to_kld_1e-3_seeds"] == 1
    assert row["ln_evaluations_to_kld_1e-2_mean"] == pytest.approx(math.log(1e4))
    assert row["ln_evaluations_to_kld_1e-2_se"] == 0 and math.isnan(row["ln_evaluations_to_kld_1e-3_se"])
    assert row["basin_df_errors_kT"] == "a -0.200; b +0.100"


def test_configurations_and_engines_are_not_averaged() -> None:
    runs = [varied(0, 1.0), varied(1, 1.0, config_hash="abcdef123"), varied(2, 1.0, config_hash="abcdef123")]
    table = leaderboard(runs)
    assert dict(zip(table["preset"], table["n_seeds"], strict=True)) == {"default-0": 1, "default-abcdef12": 2}
    table = leaderboard([varied(0, 1.0), varied(1, 1.0, engine="openmm")])
    assert sorted(table["preset"]) == ["default-openmm", "default-torch"]


def test_a_run_found_twice_counts_once_and_two_different_ones_are_an_error(tmp_path: Path) -> None:
    written(tmp_path / "a", varied(0, 1.0))
    written(tmp_path / "b", varied(0, 1.0))
    found = find_runs([tmp_path / "a", tmp_path / "a", tmp_path])
    assert len(found) == 2  # two copies, each read once
    assert leaderboard(found)["n_seeds"].tolist() == [1]
    written(tmp_path / "c", varied(0, 2.0))
    with pytest.raises(
        UserError, match="two different runs of fast on aldp, preset default, seed 0: .*/a/.* and .*/c/"
    ):
        leaderboard(find_runs([tmp_path]))


@pytest.mark.parametrize(
    ("changes", "copy"),
    [
        ({}, True),
        ({"provenance": {"cpu": "abacus", "code": "c0de"}}, True),  # added to the record later
        ({"metrics_version": 2, "reference": {"noise_floor": 1e-4, "sha256": "00"}}, True),  # rescored
        ({"seconds": {"train": {"wall": 1.1, "cpu": 1.0}}}, False),
        ({"provenance": {"cpu": "slide rule"}}, False),
        ({"origin": "external"}, False),
    ],
)
def test_runs_without_scores_are_copies_only_if_they_took_the_same_seconds(
    changes: dict[str, object], copy: bool, tmp_path: Path
) -> None:
    unscored = {"metrics": {"forward_kld": None}, "seconds": {"train": {"wall": 1.2, "cpu": 1.0}}}
    written(tmp_path / "a", varied(0, 1.0, **unscored))
    written(tmp_path / "b", varied(0, 1.0, **unscored | changes))
    if copy:
        assert leaderboard(find_runs([tmp_path]))["n_seeds"].tolist() == [1]
        return
    with pytest.raises(UserError, match="two different runs of fast on aldp, preset default, seed 0"):
        leaderboard(find_runs([tmp_path]))


@pytest.mark.parametrize(("sha256", "copy"), [("aa", True), ("bb", False)])
def test_external_results_are_copies_if_their_files_are(sha256: str, copy: bool) -> None:
    """Their provenance is where they were scored."""

    def scored(digest: str, speed: float) -> FoundRun:
        files = [{"name": "fes.dat", "sha256": digest, "evaluations": 10_000}]
        facts = {"diagnostics": {"files": files}, "provenance": {"speed": speed}}
        return varied(0, 1.0, origin="external", preset="self-reported", **facts)

    if copy:
        assert leaderboard([scored("aa", 200.0), scored(sha256, 300.0)])["n_seeds"].tolist() == [1]
        return
    with pytest.raises(UserError, match="two different runs"):
        leaderboard([scored("aa", 200.0), scored(sha256, 300.0)])


def board(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    code = main(["leaderboard", "--runs", str(folder), *more])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """MD, and methods a to c in two presets, of which c has the best score and the highest cost."""
    for seed in range(4):
        written(tmp_path, power_law(seed))
    for speed, method in enumerate("abc", 1):
        for preset in ("default", "long"):
            for seed in range(2):
                run = made_up(method, seed, [(10.0 ** (2 + speed), 10.0 ** -(speed + 1))])
                run.record.preset = preset
                written(tmp_path, run)
    return tmp_path


def test_filters_choose_rows_and_change_none(several: Path, capsys) -> None:
    whole = board(several, capsys)[1].splitlines()
    _, out, _ = board(several, capsys, "--method", "a", "--method", "c", "--preset", "long")
    kept = out.splitlines()
    assert kept[0] == whole[0] and set(kept) < set(whole)
    assert [line.split(",")[2:4] for line in kept[1:]] == [["c", "long"], ["a", "long"]]
    for option, value in (("--method", "d"), ("--system", "x"), ("--preset", "y")):
        code, out, err = board(several, capsys, option, value)
        assert code == 2 and out == "" and f"{value!r} ({option}): choose from" in err and err.count("\n") == 1


def test_sorting(several: Path, capsys) -> None:
    def order(*more: str) -> list[str]:
        text = board(several, capsys, "--preset", "long", *more)[1]
        return pd.read_csv(io.StringIO(text))["method"].tolist()

    assert order() == ["c", "b", "a"]
    assert order("--sort", "evaluations") == ["a", "b", "c"]
    assert order("--sort", "evaluations", "--descending") == ["c", "b", "a"]
    assert order("--sort", "evaluations_to_kld_1e-3")[-1] == "a"  # never reached it
    code, _, err = board(several, capsys, "--sort", "speed")
    assert code == 2 and "no column 'speed' (--sort): choose from algorithm, assumed_scatter, basin_df_error_kT" in err
    code, _, err = board(several, capsys, "--descending")
    assert code == 2 and "--descending needs --sort" in err


def test_the_table_is_the_same_whatever_the_order_of_the_folders(several: Path, capsys) -> None:
    parts = sorted(path for path in (several / "aldp").iterdir())
    outputs = []
    for order in (parts, parts[::-1]):
        assert main(["leaderboard", *(word for part in order for word in ("--runs", str(part)))]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == board(several, capsys)[1]


def test_every_file_is_read_once(several: Path, monkeypatch) -> None:
    """What ranking costs is reading: one pass over each file, whatever the number of rows."""
    opened: list[str] = []
    original = io.open

    def counting(file: object, mode: str = "r", *rest: object, **options: object) -> object:
        opened.append(str(file))
        return original(file, mode, *rest, **options)

    monkeypatch.setattr(io, "open", counting)
    monkeypatch.setattr("builtins.open", counting)
    leaderboard(find_runs([several]))
    ours = sorted(name for name in opened if name.startswith(str(several)))
    assert ours == sorted(str(path) for path in several.rglob("*") if path.suffix in (".json", ".csv"))


def test_markdown(several: Path, capsys) -> None:
    code, out, _ = board(several, capsys, "--format", "markdown", "--preset", "default")
    assert code == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    assert lines[0][:6] == ["system", "method", "preset", "algorithm", "seeds", "evaluations"]
    a = dict(zip(lines[0], lines[[line[1] for line in lines].index("a")], strict=True))
    assert a["seeds"] == "2" and a["evaluations"] == "1,000" and a["forward KLD"] == "0.010"
    assert a["evaluations to 1e-2"] == "1,000" and a["evaluations to 1e-3"] == "not reached"
    assert a["basin error / kT"] == "0.200" and a["time / s"] == "–"
    second = next(n for n, line in enumerate(lines) if "over MD (95 %)" in line)
    assert "md" in [line[1] for line in lines[:second]] and "md" not in [line[1] for line in lines[second:]]
    a = dict(zip(lines[second], next(line for line in lines[second:] if line[1] == "a"), strict=True))
    assert a["preset"] == "default \\*" and "fewer than three seeds" in out  # two seeds
    assert a["over MD (95 %)"].startswith("1,000 (") and a["to 1e-2"].startswith("1,000 (") and a["to 1e-3"] == "–"


def test_markdown_shows_bounds_extensions_and_versions() -> None:
    lucky, beyond = made_up("lucky", 0, [(1e3, 1e-6)], floor=1e-3), made_up("beyond", 0, [(1e3, 5e-4)])
    newer = FoundRun(beyond.record.model_copy(update={"system_version": "2"}), beyond.evaluations, beyond.forward_kld)
    text = leaderboard_markdown(leaderboard([power_law(0), power_law(1), lucky, beyond, newer]))
    row = {line.split("|")[2].strip(): line for line in text.splitlines() if line.startswith("| aldp (version 1)")}
    assert "≥ 10,000" in row["lucky"] and "below the noise floor" in text and "≤ 1.0e-3" in text
    assert "≥ 10,000 (at least" in row["beyond"] and "Nothing is extrapolated" in text
    (other,) = [line for line in text.splitlines() if line.startswith("| aldp (version 2)")]
    assert "–" in other  # no MD of that version to compare with
    assert "aldp: one long run" not in text  # two


def test_bars_in_names_do_not_break_the_table() -> None:
    assert "a\\|b" in markdown(["name"], [["a|b"]], 1)


def test_the_readme_agrees_with_the_published_runs(capsys) -> None:
    """Every number in a row of README's tables begins a cell of the same row of the leaderboard."""
    root = Path(__file__).parents[3]
    assert main(["leaderboard", "--format", "markdown", "--runs", str(root / "runs")]) == 0

    def rows(text: str) -> list[list[str]]:
        return [[cell.strip(" *\\") for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]

    ranking: dict[tuple[str, ...], list[str]] = {}
    for row in rows(capsys.readouterr().out):  # a row in each of two tables
        if row[0] == "system":
            continue
        ranking.setdefault((row[0], row[1], row[2].rstrip(" *\\")), []).extend(row[3:])
    shown = [row for row in rows((root / "README.md").read_text(encoding="utf-8")) if tuple(row[:3]) in ranking]
    assert len(shown) >= 5
    for row in shown:
        for cell in row[3:]:
            known = any(other.startswith(cell) for other in ranking[tuple(row[:3])])
            assert known or not any(letter.isdigit() for letter in cell), f"{row[:3]}: {cell}"


def test_runs_that_are_not_ranked_are_counted(several: Path, capsys) -> None:
    _, ranking, err = board(several, capsys)
    assert err == ""
    for seed, status in ((7, "running"), (8, "running"), (9, "failed")):
        written(several, varied(seed, 1.0, method="a", status=status))
    code, again, err = board(several, capsys)
    counts = "cgbench: 3 runs are not ranked (2 unfinished, 1 failed)\n"
    failed = "cgbench: warning: 1 of 3 runs of a on aldp, preset default, failed; the medians are those of the others\n"
    assert code == 0 and err == counts + failed
    rows, before = (pd.read_csv(io.StringIO(text)).set_index("method") for text in (again, ranking))
    assert rows.query("n_failed == 1")[["system", "preset"]].to_dict("index") == {
        "a": {"system": "aldp", "preset": "default"}
    }
    assert (rows["n_failed"].sum(), before["n_failed"].sum()) == (1, 0)
    pd.testing.assert_frame_equal(rows.drop(columns="n_failed"), before.drop(columns="n_failed"))
    code, again, _ = board(several, capsys, "--format", "markdown")
    assert "| 2 of 3 |" in again and "1 of 3 runs of a on aldp" in again
    assert board(several, capsys, "--method", "b")[2] == ""
    (several / "aldp" / "a" / "default" / "seed-9" / "curve.csv").unlink()
    folder = several / "aldp" / "a" / "default" / "seed-9"
    assert board(folder, capsys) == (1, "", "cgbench: no finished runs to rank (1 failed)\n")


def test_without_any_finished_run_there_is_no_table(tmp_path: Path, capsys) -> None:
    assert board(tmp_path, capsys) == (1, "", f"cgbench: no runs to rank in {tmp_path} (--runs)\n")
    for seed, status in ((0, "running"), (1, "running"), (2, "failed")):
        written(tmp_path, varied(seed, 1.0, method="a", status=status))
    left_out = "cgbench: no finished runs to rank (2 unfinished, 1 failed)\n"
    for form in ("csv", "markdown"):
        out = tmp_path / f"table.{form}"
        assert main(["leaderboard", "--runs", str(tmp_path), "--format", form, "--out", str(out)]) == 1
        assert capsys.readouterr() == ("", left_out) and not out.exists()
    written(tmp_path, varied(3, 1.0, method="b"))
    assert board(tmp_path, capsys)[0] == 0
    assert board(tmp_path, capsys, "--method", "a") == (1, "", left_out)
    code, _, err = board(tmp_path, capsys, "--method", "c")
    assert code == 2 and err == "cgbench: no runs of method 'c' (--method): choose from b\n"
