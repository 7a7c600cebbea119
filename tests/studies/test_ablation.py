"""The ablation study: its published table, and the command."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cgbench.cli.main import guarded
from cgbench.running.run import prepare
from cgbench.storage.files import csv_bytes
from studies import ablation

PUBLISHED = sorted(Path(__file__).parents[2].glob("runs/*/ablation/ablation.csv"))


def test_there_is_a_published_table() -> None:
    assert "aldp" in [table.parents[1].name for table in PUBLISHED]


@pytest.mark.parametrize("table", PUBLISHED, ids=lambda table: table.parents[1].name)
def test_published_table_is_what_the_study_writes(table: Path) -> None:
    """The settings of the code in their order, and the columns of the code."""
    content = table.read_bytes()
    rows = list(csv.DictReader(content.decode().splitlines()))
    assert [row["setting"] for row in rows] == list(ablation.settings_of(table.parents[1].name))
    assert csv_bytes(ablation.COLUMNS, rows) == content


def test_every_setting_changes_the_default(tmp_path: Path) -> None:
    settings = ablation.SETTINGS | ablation.SETTINGS_OF_WELLS
    configs = [
        prepare("aldp", "cgflow_al", overrides=overrides, out=tmp_path / str(number)).config
        for number, overrides in enumerate(settings.values())
    ]
    assert all(one != other for n, one in enumerate(configs) for other in configs[:n])


def test_settings_of_wells_are_for_systems_with_free_torsions() -> None:
    assert ablation.settings_of("gly") == ablation.SETTINGS
    assert ablation.settings_of("val") == ablation.SETTINGS | ablation.SETTINGS_OF_WELLS


def test_medians_over_seeds() -> None:
    runs = [
        {"evaluations": 10.0, "evaluations_to_1e-02": float("inf"), "forward_kld": kld, "coverage_95": None}
        | {"reliable": float(kld > 1e-4)}
        for kld in (3e-4, 1e-4, 2e-4)
    ]
    row = ablation._row("default", runs)
    assert row == {
        "setting": "default",
        "seeds": 3,
        "evaluations": "10",
        "evaluations_to_1e-02": "inf",
        "forward_kld": "0.0002",
        "reliable": 2,
        "forward_kld_min": "0.0001",
        "forward_kld_max": "0.0003",
    }


def test_workers_do_the_same_runs(tmp_path: Path) -> None:
    arguments = ["--system", "muller_brown", "--seeds", "2", "--setting", "a single harmonic minimum"]
    rows = []
    for workers in ("1", "2"):
        out = tmp_path / workers
        assert guarded(ablation.command, "ablation", [*arguments, "--workers", workers, "--out", str(out)]) == 0
        (row,) = csv.DictReader((out / "muller_brown" / "ablation" / "ablation.csv").read_text().splitlines())
        rows.append({key: value for key, value in row.items() if key != "cpu_seconds"})
    assert rows[0] == rows[1] and rows[0]["seeds"] == "2"


def test_command_reads_finished_runs_again(tmp_path: Path, capsys) -> None:
    arguments = ["--system", "muller_brown", "--seeds", "1", "--setting", "default", "--out", str(tmp_path / "out")]
    assert guarded(ablation.command, "ablation", arguments) == 0
    place = Path("muller_brown", "ablation", "ablation.csv")
    first = (tmp_path / "out" / place).read_bytes()
    (row,) = csv.DictReader(first.decode().splitlines())
    assert row["setting"] == "default" and 0 < float(row["forward_kld"]) < 2e-5
    assert float(row["evaluations_to_1e-03"]) < float(row["evaluations"]) < 10_000
    assert guarded(ablation.command, "ablation", [*arguments, "--tables", str(tmp_path / "tables")]) == 0
    assert (tmp_path / "tables" / place).read_bytes() == first  # with the CPU seconds of the first run
    assert guarded(ablation.command, "ablation", ["--setting", "none"]) == 2
    assert capsys.readouterr().err.startswith("ablation: Invalid value for '--setting'")
    assert guarded(ablation.command, "ablation", ["--seeds", "0"]) == 2
    assert capsys.readouterr().err.startswith("ablation: Invalid value for '--seeds': 0 is not in the range x>=1")
    arguments = ["--system", "gly", "--setting", "one well of the free torsions", "--out", str(tmp_path / "none")]
    assert guarded(ablation.command, "ablation", arguments) == 2
    assert "gly has no free torsions" in capsys.readouterr().err and not (tmp_path / "none").exists()
