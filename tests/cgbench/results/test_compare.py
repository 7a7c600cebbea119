"""Comparison of two sets of results: correct tests, no verdict without evidence, few false alarms."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cgbench.cli.main import main
from cgbench.results.compare import QUANTITIES, Results, Sample, compare, holm, read_results
from cgbench.results.runs import find_runs
from cgbench.running.record import Evaluations, Record
from cgbench.running.run_folder import RunFolder

KEY = ("aldp", "1", "flow", "default")


def results(**values: Sequence[float]) -> Results:
    """One row; quantities that are not given have been reached by no seed."""
    seeds = len(next(iter(values.values())))
    return {KEY: {name: Sample.of(values.get(name, [math.inf] * seeds)) for name in QUANTITIES}}


def verdict(a: Sequence[float], b: Sequence[float], **options: float) -> pd.Series:
    table = compare(results(forward_kld=a), results(forward_kld=b), **options)
    return table.set_index("quantity").loc["forward_kld"]


def test_evaluations_with_a_gradient_are_shown_and_not_tested() -> None:
    a, b = (results(forward_kld=[1e-3, 2e-3, 3e-3]) for _ in range(2))
    assert "evaluations_with_gradient" not in set(compare(a, b)["quantity"])
    a[KEY]["evaluations_with_gradient"] = Sample.shown(3, 20.0)
    assert "evaluations_with_gradient" not in set(compare(a, b)["quantity"])  # older records do not have them
    b[KEY]["evaluations_with_gradient"] = Sample.shown(3, 0.0)
    table = compare(a, b)
    row = table.set_index("quantity").loc["evaluations_with_gradient"]
    assert (row["a"], row["b"], row["verdict"], row["test"]) == (20, 0, "not tested", "")
    assert math.isnan(row["p_holm"]) and table["p_holm"].notna().sum() == 1


def test_welch_on_logarithms_is_scipys() -> None:
    random = np.random.default_rng(0)
    a, b = np.exp(random.normal(0, 0.3, 5)), np.exp(random.normal(0.4, 0.6, 4))
    row = verdict(a, b)
    peer = stats.ttest_ind(np.log(b), np.log(a), equal_var=False)
    interval = peer.confidence_interval(0.95)
    assert row["test"] == "Welch" and row["p"] == pytest.approx(peer.pvalue, rel=1e-9)
    assert row["ratio"] == pytest.approx(np.exp(np.log(b).mean() - np.log(a).mean()))
    assert (row["ratio_lo"], row["ratio_hi"]) == pytest.approx((np.exp(interval.low), np.exp(interval.high)))


def test_ranks_with_misses_are_scipys_permutation_test() -> None:
    """Misses tie at the top; every arrangement of the seeds is counted."""
    a, b = [10.0, 12.0, 12.0, 15.0, 20.0], [12.0, 30.0, math.inf, math.inf, math.inf]
    row = verdict(a, b)
    ranks = stats.rankdata([*a, *b])

    def excess(x: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(x.sum(axis=axis) - 5 * ranks.mean())

    peer = stats.permutation_test(
        (ranks[:5], ranks[5:]), lambda x, y, axis: excess(x, axis), vectorized=True, alternative="greater"
    )
    assert row["test"] == "rank sum" and row["p"] == pytest.approx(peer.pvalue)
    assert row["verdict"] == "worse" and math.isnan(row["ratio"])


def test_many_misses_go_to_the_normal_approximation() -> None:
    a, b = [*range(1, 30), math.inf], [*range(20, 45), *[math.inf] * 5]
    assert verdict(a, b)["p"] == pytest.approx(stats.mannwhitneyu(a, b, method="asymptotic").pvalue)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, math.nan, 0.03, 0.005])[:2] == pytest.approx([0.03, 0.06])
    adjusted = holm([0.01, 0.04, math.nan, 0.03, 0.005])
    assert adjusted[3:] == pytest.approx([0.06, 0.02]) and math.isnan(adjusted[2])


def test_better_worse_and_too_small_to_matter() -> None:
    a = [1.0e-3, 1.1e-3, 0.9e-3, 1.05e-3]
    assert verdict(a, [3 * x for x in a])["verdict"] == "worse"
    assert verdict(a, [x / 3 for x in a])["verdict"] == "better"
    assert verdict(a, [1.02 * x for x in a])["verdict"] == "no difference"
    steady = [1.0, 1.0001, 0.9999]
    assert verdict(steady, [1.02 * x for x in steady])["verdict"] == "no difference"  # certain, but 2 %
    assert verdict(steady, [1.02 * x for x in steady], tolerance=0.01)["verdict"] == "worse"


def test_where_nothing_can_be_said_it_says_so() -> None:
    assert verdict([1e-3, 2e-3], [9e-3, 9e-3, 9.1e-3])["verdict"] == "not enough seeds"
    assert verdict([1.0, 1.0, 1.0], [2.0, 2.0, math.inf])["verdict"] == "not enough seeds"  # 3 and 3: p >= 0.1
    assert verdict([1.0] * 3, [2.0] * 3)["verdict"] == "not enough seeds"  # no spread to measure by, ranks: 0.1
    assert verdict([1.0] * 5, [2.0] * 5)["verdict"] == "worse"  # ranks: 2 / 252
    assert verdict([1.0] * 5, [1.0] * 5)["verdict"] == "no difference"
    assert verdict([math.inf] * 3, [math.inf] * 3)["verdict"] == "no value on either side"
    assert verdict([math.nan] * 3, [math.nan] * 3)["verdict"] == "no value on either side"  # never scored


def test_false_alarms_are_rare_and_true_ones_are_found() -> None:
    """Twelve comparisons of equal methods with five seeds: an alarm in at most 5 % of all (3 sigma)."""
    random = np.random.default_rng(1)
    trials, alarms, found = 300, 0, 0
    for _ in range(trials):
        scores = np.exp(random.normal(0, 0.5, (2, 4, 3, 5)))
        sides = [
            {
                ("aldp", "1", f"m{row}", "default"): {
                    name: Sample.of(side[row, k]) for k, name in enumerate(QUANTITIES)
                }
                for row in range(4)
            }
            for side in scores
        ]
        alarms += bool((compare(*sides)["verdict"] != "no difference").any())
        changed = sides[1] | {
            ("aldp", "1", "m0", "default"): {
                n: Sample.of(8 * s.values) for n, s in sides[1][("aldp", "1", "m0", "default")].items()
            }
        }
        table = compare(sides[0], changed)
        found += bool((table[table["method"] == "m0"]["verdict"] == "worse").any())
    assert alarms / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert found / trials > 0.8


def write(folder: Path, method: str, klds: Sequence[float], version: str = "1") -> None:
    """Runs whose KLD falls to `klds`, one seed each."""
    for seed, kld in enumerate(klds):
        out = RunFolder(folder / "aldp" / method / "default" / f"seed-{seed}")
        out.path.mkdir(parents=True)
        steps = np.unique(np.logspace(2, 5, 40).astype(int))
        rows = [{"evaluations": int(n), "forward_kld": kld * 1e5 / n} for n in steps]
        out.write_table("curve.csv", ["evaluations", "forward_kld"], rows)
        out.write_record(
            Record(
                system="aldp",
                system_version=version,
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
                evaluations=Evaluations(total=100_000, by_phase={}, publication_convention=100_000),
                metrics={"forward_kld": kld},
                reference={"noise_floor": 1e-5},
            )
        )


@pytest.fixture
def pair(tmp_path: Path, capsys) -> Path:
    """Folders and leaderboards a and b: "same" scatters alike, "slower" is four times as bad in b."""
    random = np.random.default_rng(2)
    for side, factor in (("a", 1.0), ("b", 4.0)):
        write(tmp_path / side, "same", 3e-4 * np.exp(random.normal(0, 0.3, 5)))
        write(tmp_path / side, "slower", factor * 2e-4 * np.exp(random.normal(0, 0.3, 5)))
        write(tmp_path / side, "lone", [factor * 1e-3])
        write(tmp_path / side, "noise", [1e-6 * factor * k for k in (1, 2, 3)])  # all below the noise floor
        assert main(["leaderboard", "--runs", str(tmp_path / side), "--out", str(tmp_path / f"{side}.csv")]) == 0
    write(tmp_path / "a", "gone", [1e-3])
    return tmp_path


def verdicts(capsys, *arguments: str) -> tuple[int, dict[tuple[str, str], str]]:
    code = main(["compare", *arguments, "--format", "csv"])
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    return code, dict(zip(zip(table["method"], table["quantity"], strict=True), table["verdict"], strict=True))


@pytest.mark.parametrize("sides", [("a", "b"), ("a.csv", "b.csv"), ("a.csv", "b")])
def test_folders_and_leaderboards_say_the_same(sides: tuple[str, str], pair: Path, capsys) -> None:
    code, found = verdicts(capsys, *(str(pair / side) for side in sides))
    assert code == 0
    assert found["slower", "forward_kld"] == "worse" and found["slower", "evaluations_to_kld_1e-2"] == "worse"
    assert found["same", "forward_kld"] == "no difference"
    assert found["lone", "forward_kld"] == "not enough seeds"
    assert found["noise", "forward_kld"] == "no difference"


def test_a_regression_fails_only_when_asked(pair: Path, capsys) -> None:
    a, b = str(pair / "a"), str(pair / "b")
    assert main(["compare", a, b]) == 0
    printed = capsys.readouterr().out
    assert "worse" in printed and f"only in {a}: gone on aldp, version 1, preset default" in printed
    assert "with a total false-alarm rate below 0.05 (Holm); the samples are seeds" in printed
    assert main(["compare", a, b, "--fail-on-regression"]) == 1
    assert main(["compare", b, a, "--fail-on-regression"]) == 0  # that way round it got better, and nothing is missing
    assert main(["compare", a, a, "--fail-on-regression"]) == 0


def test_what_failed_or_is_missing_is_a_regression(tmp_path: Path, capsys) -> None:
    """Otherwise a method that fails more often would look as good as before, judged by the seeds that survive."""
    write(tmp_path / "a", "flow", [1e-3] * 8)
    write(tmp_path / "b", "flow", [1e-3] * 8)
    for seed in range(8):
        folder = RunFolder(tmp_path / "b" / "aldp" / "flow" / "default" / f"seed-{seed}")
        record = folder.read_record()
        assert record is not None
        if seed < 7:
            folder.write_record(record.model_copy(update={"status": "failed"}))
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    code, found = verdicts(capsys, a, b, "--fail-on-regression")
    assert code == 1 and found["flow", "forward_kld"] == found["flow", "evaluations_to_kld_1e-2"] == "worse"
    assert main(["leaderboard", "--runs", b, "--out", f"{b}.csv"]) == 0
    capsys.readouterr()
    code, found = verdicts(capsys, a, f"{b}.csv", "--fail-on-regression")
    assert code == 1 and found["flow", "forward_kld"] == "worse"
    write(tmp_path / "a", "gone", [1e-3] * 8)
    assert main(["compare", a, a, "--fail-on-regression", "--format", "csv"]) == 0
    capsys.readouterr()
    write(tmp_path / "c", "flow", [1e-3] * 8)
    assert main(["compare", a, str(tmp_path / "c"), "--fail-on-regression", "--format", "csv"]) == 1
    out, err = capsys.readouterr()
    assert "gone" not in out and err == f"only in {a}: gone on aldp, version 1, preset default\n"


def test_scores_of_zero_are_compared(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for side, klds in (("a", [0.0, 0.0, 0.0]), ("b", [1e-3, 1.1e-3, 1.2e-3])):
        write(tmp_path / side, "flow", klds)
        for run in find_runs([tmp_path / side]):
            assert run.path is not None
            RunFolder(run.path).write_record(run.record.model_copy(update={"reference": {"noise_floor": 0.0}}))
    table = compare(read_results(tmp_path / "a"), read_results(tmp_path / "b"))
    assert table.set_index("quantity").loc["forward_kld", "verdict"] == "worse" and len(recwarn) == 0


def test_tables_hold_as_much_as_needed(pair: Path) -> None:
    table, folder = read_results(pair / "a.csv"), read_results(pair / "a")
    for key, row in table.items():
        for name, sample in row.items():
            other = folder[key][name]
            assert (sample.seeds, sample.reached) == (other.seeds, other.reached)
            assert (sample.mean, sample.error) == pytest.approx((other.mean, other.error), rel=1e-5, nan_ok=True)


def test_a_target_that_seeds_lost_is_seen_from_tables_too() -> None:
    """Six of six against none of six: Fisher's exact test, p = 2 / 924."""
    from dataclasses import replace

    a, b = (results(forward_kld=[1.0] * 6, **{QUANTITIES[1]: v}) for v in ([5.0] * 6, [math.inf] * 6))
    bare = [{KEY: {n: replace(s, values=None) for n, s in side[KEY].items()}} for side in (a, b)]
    for sides, test in (((a, b), "rank sum"), (bare, "Fisher")):
        row = compare(*sides).set_index("quantity").loc[QUANTITIES[1]]
        assert row["test"] == test and row["p"] == pytest.approx(2 / 924) and row["verdict"] == "worse"


def test_versions_are_not_compared_with_each_other(tmp_path: Path, capsys) -> None:
    write(tmp_path / "a", "flow", [1e-3] * 3)
    write(tmp_path / "b", "flow", [1e-3] * 3, version="2")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "have no system (in the same version), method and preset in common" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("column", "text", "reason"),
    [
        ("n_seeds", "", "has nothing in the column 'n_seeds', which must be a whole number from 1"),
        ("n_seeds", "2.5", "has 2.5 in the column 'n_seeds'"),
        ("n_seeds", "inf", "has inf in the column 'n_seeds'"),
        ("evaluations_to_kld_1e-2_seeds", "", "must be a whole number from 0 to 5"),
        ("evaluations_to_kld_1e-2_seeds", "6", "has 6 in the column 'evaluations_to_kld_1e-2_seeds'"),
        ("ln_kld_mean", "abc", "has 'abc' in the column 'ln_kld_mean', which must be a number"),
        ("ln_kld_se", "", "has nothing in the column 'ln_kld_se', which must be finite"),
        ("ln_evaluations_to_kld_1e-2_mean", "inf", "has inf in the column 'ln_evaluations_to_kld_1e-2_mean'"),
        ("forward_kld", "abc", "has 'abc' in the column 'forward_kld'"),
        ("noise_floor", "abc", "has 'abc' in the column 'noise_floor'"),
        ("evaluations_with_gradient", "abc", "has 'abc' in the column 'evaluations_with_gradient'"),
    ],
)
def test_a_field_that_is_not_right_is_named(column: str, text: str, reason: str, pair: Path, capsys) -> None:
    table = pd.read_csv(pair / "a.csv", dtype=str, keep_default_na=False)
    row = table.index[table["method"] == "same"][0]
    table.loc[row, column] = text
    table.to_csv(pair / "edited.csv", index=False)
    assert main(["compare", str(pair / "edited.csv"), str(pair / "b.csv")]) == 2
    err = capsys.readouterr().err
    assert f"{pair / 'edited.csv'}: row {row + 1} has" in err and reason in err and err.count("\n") == 1


@pytest.mark.parametrize(("column", "text"), [("ln_kld_mean", "-1e3"), ("ln_kld_se", "1e-100"), ("ln_kld_se", "1e100")])
def test_extreme_numbers_are_compared(column: str, text: str, pair: Path, capsys) -> None:
    table = pd.read_csv(pair / "a.csv", dtype=str, keep_default_na=False)
    table[column] = text
    for side in ("a", "b") if column == "ln_kld_se" else ("a",):
        table.to_csv(pair / f"{side}.csv", index=False)
    assert main(["compare", str(pair / "a.csv"), str(pair / "b.csv")]) == 0
    capsys.readouterr()


def test_mistakes_are_one_line(pair: Path, capsys) -> None:
    a, broken = str(pair / "a.csv"), pair / "broken.csv"
    lines = (pair / "a.csv").read_text().splitlines()
    contents = {
        "no column 'system'": "x,y\n1,2\n",
        "is neither a folder of runs nor a leaderboard": "",
        "has two rows for the same": "\n".join([*lines, lines[1]]),
        "write it again with cgbench leaderboard": "\n".join(line.rpartition(",")[0] for line in lines),
    }
    for message, content in contents.items():
        broken.write_text(content)
        assert main(["compare", a, str(broken)]) == 2
        err = capsys.readouterr().err
        assert message in err and str(broken) in err and err.count("\n") == 1
    for arguments, message in (
        ([a, str(pair / "none.csv")], "No such file"),
        ([a, a, "--alpha", "2"], "--alpha must be between 0 and 1"),
        ([a, a, "--tolerance", "-1"], "--tolerance must be at least 0 and below 1"),
    ):
        assert main(["compare", *arguments]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
