"""Rescoring recomputes metrics from stored PMFs, and changes nothing that is up to date."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cgbench
from cgbench.cli.main import main
from cgbench.results.rescore import Rescored, rescore
from cgbench.results.runs import find_runs
from cgbench.running.run_folder import RunFolder
from cgbench.scoring.referee import METRICS_VERSION

ROOT = Path(__file__).parents[3]
OLDER_COVERAGE = {
    ("cgflow_al", "long", 0),
    ("cgflow_al", "long", 1),
    ("cgflow_grid", "long", 0),
    ("cgflow_grid", "long", 1),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of this version of the code."""
    out = tmp_path_factory.mktemp("runs")
    arguments = ["--method", "umbrella", "--system", "muller_brown", "--preset", "smoke", "--threads", "1"]
    assert main(["run", *arguments, "--out", str(out)]) == 0
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_current_record_does_not_change(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(copied)
    capsys.readouterr()
    for options in (["--check"], []):
        assert main(["rescore", str(copied), *options]) == 0
        assert capsys.readouterr().out == "1 runs: 1 up to date\n"
    assert contents(copied) == before


def test_wrong_metrics_are_replaced_in_record_and_curve(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(copied)
    (path,) = copied.rglob("record.json")
    folder = RunFolder(path.parent)
    record = folder.read_record()
    assert record is not None and record.metrics_version == METRICS_VERSION
    # evaluations after the last estimate, as those of a round that a budget has cut
    after_last = record.evaluations.model_copy(update={"total": record.evaluations.total + 7})
    record = record.model_copy(update={"evaluations": after_last})
    wrong = record.metrics | {"forward_kld": 0.125, "coverage_95": None}
    folder.write_record(record.model_copy(update={"metrics": wrong, "metrics_version": None}))
    curve = pd.read_csv(path.with_name("curve.csv"), dtype=str, keep_default_na=False)
    curve.loc[curve.index[-1], "forward_kld"] = "0.125"
    path.with_name("curve.csv").write_text(curve.to_csv(index=False, lineterminator="\n"))
    capsys.readouterr()
    assert main(["rescore", str(copied), "--check"]) == 1
    said = capsys.readouterr().out
    assert "forward_kld 0.1250 -> " in said and "1 runs: 1 to be written" in said
    assert main(["rescore", str(copied)]) == 0
    again = folder.read_record()
    assert again is not None and again == record
    after = pd.read_csv(path.with_name("curve.csv"))
    original = pd.read_csv(pd.io.common.BytesIO(before[str(path.with_name("curve.csv").relative_to(copied))]))
    assert after["forward_kld"].to_numpy() == pytest.approx(original["forward_kld"].to_numpy(), rel=1e-12)
    assert main(["rescore", str(copied), "--check"]) == 0


def test_a_run_that_goes_on_meanwhile_keeps_its_own_record(tmp_path: Path) -> None:
    """Records are read first and written later; a score of before must not meet the evaluations of after."""
    options = {"overrides": ("width=8", "rounds=8"), "out": tmp_path, "threads": 1}
    method = f"{ROOT / 'tests' / 'examples' / 'prior_sampling.py'}:PriorSampling"
    for seed in (0, 1, 2):
        cgbench.run("muller_brown", method, seed=seed, budget=2000, **options)
    runs = find_runs([tmp_path])
    for run in runs:  # as of an older version of the metrics
        RunFolder(run.path).write_record(run.record.model_copy(update={"metrics_version": None}))
    held = RunFolder(runs[2].path)
    after: list[bytes] = []

    def meanwhile(found: Rescored) -> None:
        if found.path == runs[0].path:
            cgbench.run("muller_brown", method, seed=1, budget=8000, **options)
            after.extend((runs[1].path / name).read_bytes() for name in ("record.json", "curve.csv"))
            held.lock.acquire()

    first, second, third = rescore([tmp_path], on_result=meanwhile)
    held.lock.release()
    assert first.problem is None and RunFolder(runs[0].path).read_record().metrics_version == METRICS_VERSION
    copy = (runs[0].path / "checkpoint" / "record.copy").read_bytes()
    assert copy == (runs[0].path / "record.json").read_bytes()
    assert "has changed since it was read" in second.problem
    assert after == [(runs[1].path / name).read_bytes() for name in ("record.json", "curve.csv")]
    assert "another process is running" in third.problem
    assert RunFolder(runs[2].path).read_record().metrics_version is None


def test_what_cannot_be_rescored_is_said(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = copied.rglob("pmf.npz")
    np.savez(path, probability=np.ones(3) / 3)
    capsys.readouterr()
    assert main(["rescore", str(copied)]) == 1
    assert "1 not rescored" in capsys.readouterr().out
    record = RunFolder(path.parent).read_record()
    assert record is not None
    RunFolder(path.parent).write_record(record.model_copy(update={"system_version": "0"}))
    assert main(["rescore", str(copied)]) == 1
    assert "version 0 of muller_brown is not installed" in capsys.readouterr().out
    assert main(["rescore", str(copied / "nowhere")]) == 2


def test_published_scores_follow_from_the_stored_pmfs() -> None:
    """Every divergence and basin error is that of the stored PMF; the coverage of four older records is another."""
    found = rescore([ROOT / "runs"], write=False)
    assert len(found) >= 57 and not any(one.problem or one.reference_changed for one in found)
    for one in found:
        *_, method, preset, seed = one.path.parts
        changed = {name for name, (old, new) in one.changes.items() if (old, new) != (None, None)}
        older = (method, preset, int(seed.removeprefix("seed-"))) in OLDER_COVERAGE
        assert changed <= ({"coverage_68", "coverage_95"} if older else set()), one.path
