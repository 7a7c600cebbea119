"""Finding runs: everything below a folder, or one line about what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgbench.errors import UserError
from cgbench.results.leaderboard import leaderboard
from cgbench.results.report import report
from cgbench.results.rows import differences
from cgbench.results.runs import find_runs


@pytest.fixture
def runs(tmp_path: Path, write_run) -> Path:
    for seed in range(3):
        write_run(tmp_path / "runs", "maze", "md", rough(), seed=seed)
    return tmp_path / "runs"


def rough():
    import numpy as np

    return np.random.default_rng(0).random((6, 5))


def test_runs_behind_links_are_found_once(runs: Path, tmp_path: Path) -> None:
    (seed,) = runs.rglob("seed-2")
    elsewhere = seed.rename(tmp_path / "elsewhere")
    seed.symlink_to(elsewhere, target_is_directory=True)
    (runs / "again").symlink_to(seed.parent, target_is_directory=True)
    (seed.parent / "circle").symlink_to(runs, target_is_directory=True)
    assert [run.record.seed for run in find_runs([runs])] == [0, 1, 2]
    assert len(find_runs([seed.parent, runs])) == 3


def test_a_folder_that_cannot_be_read_is_an_error(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For root every folder can be read, so the refusal of the system is made up."""
    import os

    (seed,) = runs.rglob("seed-1")
    scandir = os.scandir

    def refuse(path):
        if Path(path) == seed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="seed-1 cannot be read: Permission denied"):
        find_runs([runs])


@pytest.mark.parametrize(
    ("text", "words"),
    [("evaluations,forward_kld\n20,0.1\n10,0.2\n", "do not rise"), ("", "'evaluations' is not in list")],
)
def test_a_curve_that_cannot_be_one_is_named(runs: Path, text: str, words: str) -> None:
    (seed,) = runs.rglob("seed-1")
    (seed / "curve.csv").write_text(text)
    with pytest.raises(UserError, match=f"seed-1/curve.csv cannot be read: .*{words}"):
        find_runs([runs])


def test_seeds_of_different_references_are_said_to_differ(runs: Path) -> None:
    found = find_runs([runs])
    for number, run in enumerate(found):
        reference = {"sha256": f"{number}" * 64, "noise_floor": [1e-6, 3e-2, 0.5][number], "source": "x"}
        object.__setattr__(run, "record", run.record.model_copy(update={"reference": reference}))
    assert differences(found)["reference"] == ["0" * 16, "1" * 16, "2" * 16]
    assert leaderboard(found)["noise_floor"].tolist() == [0.5]


def test_the_page_does_not_depend_on_the_order_of_folders(runs: Path, tmp_path: Path, write_run) -> None:
    write_run(tmp_path / "more", "maze", "umbrella", rough(), seed=0)
    assert report([runs, tmp_path / "more"])[0] == report([tmp_path / "more", runs])[0]
