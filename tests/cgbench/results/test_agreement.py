"""PMFs of runs compared with each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cgbench.cli.main import main
from cgbench.errors import UserError
from cgbench.results.agreement import agreement
from cgbench.scoring.divergences import forward_kld
from cgbench.storage.files import read_npz, write_npz

ENERGY = np.linspace(0.0, 6.0, 50)


@pytest.fixture
def runs(tmp_path: Path, write_run) -> Path:
    """Two runs of one method that differ by 0.2 kT in half of the bins, and one of another system."""
    other = np.exp(-(ENERGY + np.where(np.arange(50) < 25, 0.0, 0.2)))
    for seed, p in enumerate((np.exp(-ENERGY), other)):
        folder = write_run(tmp_path, "toy", "one", p, seed=seed)
        arrays = read_npz(folder / "pmf.npz")
        write_npz(folder / "pmf.npz", arrays | {"free_energy_std": np.full(50, 0.05)})
    write_run(tmp_path, "maze", "one", np.ones(50))
    return tmp_path


def test_every_pair_once(runs: Path) -> None:
    (row,) = agreement([runs], [runs]).to_dict("records")
    assert (row["system"], row["a"], row["b"]) == ("toy", "one default 0", "one default 1")
    p, q = (read_npz(path)["probability"] for path in sorted(runs.glob("toy/**/pmf.npz")))
    assert row["forward_kld"] == pytest.approx(forward_kld(p, q))
    weights = 0.5 * (p + q)
    expected = np.where(np.arange(50) < 25, 0.0, -0.2)
    expected -= np.average(expected, weights=weights)
    assert row["rms_difference_kT"] == pytest.approx(np.sqrt(np.average(expected**2, weights=weights)))
    assert row["largest_difference_kT"] == pytest.approx(np.abs(expected).max())
    assert row["within_errors"] == pytest.approx(np.mean(np.abs(expected) <= 1.96 * 0.05 * np.sqrt(2)))


def test_the_table_says_which_is_in_the_place_of_the_reference(runs: Path, capsys) -> None:
    """The divergence is not symmetric: A is the reference, in the heading and in the documentation."""
    assert main(["compare", str(runs), str(runs), "--pmf"]) == 0
    head, _, row = capsys.readouterr().out.splitlines()[:3]
    at = [cell.strip() for cell in head.split("|")].index("KLD (A ∥ B)")
    p, q = (read_npz(path)["probability"] for path in sorted(runs.glob("toy/**/pmf.npz")))
    assert f"{forward_kld(p, q):.2g}" != f"{forward_kld(q, p):.2g}"
    assert float(row.split("|")[at]) == pytest.approx(forward_kld(p, q), rel=0.02)
    page = (Path(__file__).parents[3] / "docs" / "comparing.md").read_text(encoding="utf-8")
    assert r"forward KLD $D(A \,\|\, B)$" in page


def test_errors_that_are_not_claimed_are_not_judged(tmp_path: Path, write_run, capsys) -> None:
    for seed in (0, 1):
        write_run(tmp_path, "toy", "one", np.exp(-ENERGY), seed=seed)
    (row,) = agreement([tmp_path], [tmp_path]).to_dict("records")
    assert np.isnan(row["within_errors"]) and row["rms_difference_kT"] == 0.0
    assert main(["compare", str(tmp_path), str(tmp_path), "--pmf"]) == 0
    assert "one default 1" in capsys.readouterr().out
    assert main(["compare", str(tmp_path), str(tmp_path), "--pmf", "--format", "csv"]) == 0
    assert capsys.readouterr().out.startswith("system,a,b,forward_kld")
    assert main(["compare", str(tmp_path), str(tmp_path), "--pmf", "--fail-on-regression"]) == 2


def test_nothing_to_compare_is_one_line(tmp_path: Path, write_run) -> None:
    write_run(tmp_path, "toy", "one", np.exp(-ENERGY))
    with pytest.raises(UserError, match="no two finished runs on the same system"):
        agreement([tmp_path], [tmp_path])


def test_grids_must_agree(tmp_path: Path, write_run) -> None:
    write_run(tmp_path, "toy", "one", np.exp(-ENERGY))
    write_run(tmp_path, "toy", "two", np.ones(40))
    with pytest.raises(UserError, match="on different grids"):
        agreement([tmp_path], [tmp_path])
