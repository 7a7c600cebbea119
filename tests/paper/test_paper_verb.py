"""The verb, the records that it takes, and the tables."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from cgbench.cli.main import main
from cgbench.drawing.style import theme
from cgbench_paper import FIGURES, TABLES
from cgbench_paper.records import Records, commands
from cgbench_paper.style import panel_grid
from cgbench_paper.tables import table1, table2

ROOT = Path(__file__).parents[2]


def committed() -> dict[tuple[str, str, str], list[tuple[dict[str, Any], list[tuple[float, float]]]]]:
    """Finished records of the repository with their curves, read without the harness."""
    found = defaultdict(list)
    for path in sorted((ROOT / "runs").glob("*/*/*/seed-*/record.json")):
        record = json.loads(path.read_text())
        if record["status"] in ("finished", "budget"):
            rows = [line.split(",") for line in path.with_name("curve.csv").read_text().splitlines()]
            n, kld = rows[0].index("evaluations"), rows[0].index("forward_kld")
            curve = [(float(row[n]), float(row[kld])) for row in rows[1:]]
            found[record["system"], record["method"], record["preset"]].append((record, curve))
    return found


def reached(curve: list[tuple[float, float]], target: float) -> float:
    """Evaluations from which on all scores are at or below the target."""
    for number in range(len(curve)):
        if all(kld <= target for _, kld in curve[number:]):
            return curve[number][0]
    return math.inf


def test_table_of_the_committed_records_equals_values_recomputed() -> None:
    texts = table1.make(Records(ROOT / "runs"))
    table = pd.read_csv(io.StringIO(texts[".csv"]))
    ours = table[table["preset"] != "published"].set_index(["system", "method", "preset"])
    records = committed()
    assert set(ours.index) == set(records)
    for key, members in records.items():
        row = ours.loc[key]
        klds = [record["metrics"]["forward_kld"] for record, _ in members]
        assert row["n_seeds"] == len(members)
        assert row["evaluations"] == pytest.approx(
            statistics.median(record["evaluations"]["total"] for record, _ in members), rel=1e-5
        )
        assert row["forward_kld"] == pytest.approx(statistics.median(klds), rel=1e-5)
        if len(klds) > 2:  # up to five seeds the interval of the median is their range
            ends = row["forward_kld_lo"], row["forward_kld_hi"]
            assert ends == pytest.approx((min(klds), max(klds)), rel=1e-5)
        else:
            assert math.isnan(row["forward_kld_lo"])
        for name, target in (("evaluations_to_kld_1e-2", 1e-2), ("evaluations_to_kld_1e-3", 1e-3)):
            assert row[name] == pytest.approx(statistics.median(reached(c, target) for _, c in members), rel=1e-5)
        variation = [record["metrics"]["total_variation"] for record, _ in members]
        assert row["total_variation"] == pytest.approx(statistics.median(variation), rel=1e-5)
        assert f"| {key[1]} | {key[2]} | {row['algorithm']} | {len(members)} |" in texts[".md"]


def test_published_values_are_those_of_the_file(published: Path) -> None:
    texts = table1.make(Records(published))
    table = pd.read_csv(io.StringIO(texts[".csv"]))
    stated = table[table["preset"] == "published"]
    entries = yaml.safe_load((ROOT / "paper" / "cgbench_paper" / "tables" / "published.yaml").read_text())["table1"][
        "aldp"
    ]
    assert stated["method"].tolist() == [entry["method"] for entry in entries]
    for (_, row), entry in zip(stated.iterrows(), entries, strict=True):
        assert [row["evaluations_published_lo"], row["evaluations_published_hi"]] == entry["evaluations"]
        assert row["source"] == entry["source"] and entry["source"] in texts[".md"] and entry["source"] in texts[".tex"]


def test_table_2_sets_published_metrics_beside_ours(published: Path) -> None:
    """The published rows are those of the file; ours are computed from the PMFs, here flat ones, and the reference."""
    texts = table2.make(Records(published))
    table = pd.read_csv(io.StringIO(texts[".csv"]))
    stated = yaml.safe_load((ROOT / "paper" / "cgbench_paper" / "tables" / "published.yaml").read_text())["table2"]
    assert set(stated["systems"]) == {"aldp", "tetra"}
    for system, entry in stated["systems"].items():
        rows = table[(table["system"] == system) & (table["preset"] == "published")].to_dict("records")
        assert [row["method"] for row in rows] == [row["method"] for row in entry["rows"]]
        for row, known in zip(rows, entry["rows"], strict=True):
            assert {name: row[name] for name in known} == known
            assert row["force_field"] == entry["force_field"] and row["source"] == "arXiv:2510.18460"
        assert entry["force_field"] in texts[".md"]
    ours = table[(table["system"] == "aldp") & (table["preset"] != "published")]
    reference = Records(published).reference("aldp").pmf.probability
    assert ours["ramachandran_tv"].tolist() == pytest.approx([0.5 * abs(reference - 1e-4).sum()] * len(ours), rel=1e-4)
    assert "muller_brown" not in set(table["system"])


@pytest.mark.parametrize(("system", "maps"), [("tetra", 3), ("val_chi", 1)])
def test_table_2_has_the_mean_over_the_maps_of_phi_and_psi(tmp_path: Path, system: str, maps: int) -> None:
    """Total variation of the records: of each map, and the mean. The further maps of val_chi are over chi1."""
    place = Path(system, "cgflow_al", "default")
    shutil.copytree(ROOT / "runs" / place, tmp_path / place)
    records = Records(tmp_path)
    metrics = [run.record.metrics for run in records.groups(system)["cgflow_al", "default"]]
    ours = [name for name in metrics[0] if re.fullmatch(r"total_variation/phi \d and psi \d", name)]
    assert len(ours) == maps
    means = [statistics.mean(one[name] for name in ours) for one in metrics]
    row = table2.numbers(records).set_index(["system", "method"]).loc[system, "cgflow_al"]
    assert row["ramachandran_tv"] == pytest.approx(statistics.median(means), rel=1e-9)


def test_table_2_says_when_a_model_gives_configurations_no_density(
    tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    """Of three seeds, one misses some: the median is finite; of the other method's, it is infinite."""
    density = {"standard_error": 0.1, "coordinates": "literature", "samples": 2000, "log_likelihood": "-inf"}
    older = density | {"log_likelihood": 9.0, "impossible": 4}  # the mean over the others
    for seed, found in enumerate((older, density | {"impossible": 3}, density | {"impossible": 5})):
        write_run(tmp_path, "aldp", "cmt", [(1000, 1e-3)], seed=seed, density=found)
        known = density | {"log_likelihood": 8.0, "impossible": 0} if seed else found
        write_run(tmp_path, "aldp", "ta_bg", [(1000, 1e-3)], seed=seed, density=known)
    records = Records(tmp_path)
    rows = table2.numbers(records).set_index(["system", "method", "preset"])
    assert rows.loc["aldp", "cmt", "default"][["eubo", "impossible"]].tolist() == [math.inf, 12]
    assert rows.loc["aldp", "ta_bg", "default"][["eubo", "impossible"]].tolist() == [-8.0, 4]
    text = table2.make(records)[".md"]
    assert "| inf (12) |" in text and "| -8.00 (4) |" in text


def test_speedup_is_read_off_the_md_curve(published: Path) -> None:
    """Here plain MD has KLD 100 / n, and umbrella 2e-3 after 1e5 evaluations: MD needs 5e4."""
    table = table1.numbers(Records(published)).set_index(["system", "method"])
    row = table.loc["aldp", "umbrella"]
    assert row["speedup_vs_md"] == pytest.approx(100 / 2e-3 / 1e5, rel=0.1)


def test_a_score_below_the_noise_floor_is_a_bound(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    write_run(tmp_path, "aldp", "umbrella", [(1000, 1e-6)])
    markdown = table1.make(Records(tmp_path))[".md"]
    assert "≤ 1.8e-5" in markdown and "1.00e-6" not in markdown


def test_everything_is_regenerated_and_the_tables_to_the_byte(published: Path, tmp_path: Path, capsys) -> None:
    assert main(["paper", "--runs", str(published), "--out", str(tmp_path / "first")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{name} written" for name in (*FIGURES, *TABLES)]
    for name in FIGURES:
        for suffix in (".pdf", ".png", ".md"):
            assert (tmp_path / "first" / "figures" / f"{name}{suffix}").stat().st_size > 200
    assert main(["paper", "table1", "--runs", str(published), "--out", str(tmp_path / "again")]) == 0
    for suffix in (".csv", ".md", ".tex"):
        first, again = (tmp_path / folder / "tables" / f"table1{suffix}" for folder in ("first", "again"))
        assert first.read_bytes() == again.read_bytes()
    assert not (tmp_path / "again" / "figures").exists()


def test_captions_say_seeds_evaluations_and_commands(published: Path) -> None:
    text = commands(Records(published).groups("aldp")["cgflow_al", "default"])
    assert text == (
        "- `cgbench run --system aldp --method cgflow_al --preset default --seed N`: "
        "seeds N = 0 to 1; 100,000 energy evaluations"
    )


def test_results_of_other_programs_have_no_cost(
    tmp_path: Path, write_run: Callable[..., Path], published: Path, capsys
) -> None:
    """Nobody counted it: figure S6 leaves them out, and without other runs it has no data."""
    runs = tmp_path / "runs"
    write_run(runs, "aldp", "my_opes", [(1000, 1e-2)], preset="self-reported", origin="external", seconds={})
    assert main(["paper", "figS6_cost", "--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    assert "figS6_cost left out" in capsys.readouterr().out
    shutil.copytree(published / "aldp", runs / "aldp", dirs_exist_ok=True)
    assert set(Records(runs).groups("aldp")) - set(Records(runs).counted("aldp")) == {("my_opes", "self-reported")}
    assert main(["paper", "figS6_cost", "--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    assert "my_opes" not in (tmp_path / "out" / "figures" / "figS6_cost.md").read_text()


def test_another_version_of_a_system_is_not_mixed_in(
    tmp_path: Path, write_run: Callable[..., Path], published: Path, capsys
) -> None:
    shutil.copytree(published / "muller_brown", tmp_path / "runs" / "muller_brown")
    before = table1.make(Records(tmp_path / "runs"))
    write_run(tmp_path / "runs", "muller_brown", "cgflow_al", [(10, 1e-7)], seed=7, version="0")
    assert table1.make(Records(tmp_path / "runs")) == before
    assert main(["paper", "table1", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "of version 0 of muller_brown, not its current version 1" in capsys.readouterr().out


def test_runs_of_an_ablation_are_not_mixed_in(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    write_run(tmp_path, "aldp", "umbrella", [(1000, 1e-3)])
    write_run(tmp_path / "aldp" / "ablation", "aldp", "umbrella", [(10, 1e-4)], seed=1)
    assert [run.record.seed for run in Records(tmp_path).runs] == [0]


def test_missing_data_is_one_line_that_says_what_would_make_it(
    tmp_path: Path, write_run: Callable[..., Path], capsys
) -> None:
    write_run(tmp_path / "runs", "aldp", "umbrella", [(1000, 1e-3)])
    names = ["fig2_muller_brown", "fig3_ramachandran", "figS2_md_convergence", "figS3_efficiency"]
    names += ["figS4_calibration", "figS5_ablation", "figS7_break_even"]
    old = tmp_path / "out" / "figures" / "figS5_ablation.png"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of settings that are no longer published")
    assert main(["paper", *names, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(names)
    for line, name in zip(said, names, strict=True):
        assert line.startswith(f"{name} left out: ") and ("cgbench run" in line or "studies.ablation" in line)
    assert not list((tmp_path / "out").rglob("*.*"))


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_panels_stay_apart_however_many_there_are(count: int) -> None:
    with theme():
        figure, panels = panel_grid(count, 2.7)
        for axes in panels:
            axes.set(xlabel="energy evaluations (MD steps)", ylabel="forward KLD of the PMF", title="alanine dipeptide")
        figure.canvas.draw()
    boxes = [axes.get_tightbbox().get_points() for axes in panels]
    assert len(boxes) == count
    width = figure.get_figwidth() * figure.dpi
    for i, (low, high) in enumerate(boxes):
        assert (high - low > 0.25 * width / min(count, 3)).all() and (low >= 0).all() and high[0] <= width
        for other_low, other_high in boxes[:i]:
            assert ((low >= other_high) | (high <= other_low)).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fig9"], "no figure or table 'fig9': choose from fig1_scheme"),
        (["fig1_scheme", "--runs", "nowhere"], "no folder of runs 'nowhere'"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys) -> None:
    assert main(["paper", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
