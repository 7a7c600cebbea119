"""Scores of files in Python and on the command line, their records among those of runs, and the way back."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from golden import Truth, other_grid, same_grid

import cgbench
import cgbench_systems
from cgbench.cli.main import main
from cgbench.contracts.pmf import PMF
from cgbench.errors import UserError
from cgbench.exchange.external_record import write_record
from cgbench.exchange.formats.writers import export
from cgbench.results.baseline.curve import md_curves
from cgbench.results.leaderboard import leaderboard
from cgbench.results.runs import find_runs
from cgbench.running import run_folder
from cgbench.running.record import parse_record
from cgbench.scoring.referee import Referee
from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.muller_brown import MullerBrown

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, noisy: PMF) -> list[Path]:
    """PMFs with less and less noise."""
    folder = tmp_path_factory.mktemp("files")
    paths = []
    wave = np.sin(7 * noisy.cvs.grid()[:, 0]).reshape(100, 100)
    for k, size in enumerate((0.3, 0.2, 0.0)):
        paths.append(folder / f"fes_{k}.dat")
        PMF(noisy.cvs, noisy.probability * np.exp(size * wave)).to_plumed(paths[-1], temperature=300.0)
    return paths


@pytest.fixture(scope="module")
def runs(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """External results of one method with three seeds, the first a curve of three files, and one called md."""
    out = tmp_path_factory.mktemp("runs")
    fixed = ["--system", "aldp", "--out", str(out), "--temperature", "300", "--unit", "kJ/mol"]
    steps = [word for n in ("1e6", "2e6", "4000000") for word in ("--evaluations", n)]
    assert main(["score", *map(str, files), *fixed, *steps, "--method", "my_opes"]) == 0
    for seed in ("1", "2"):
        arguments = ["score", str(files[2]), *fixed, "--evaluations", "4e6", "--method", "my_opes", "--seed", seed]
        assert main(arguments) == 0
    assert main(["score", str(files[0]), *fixed, "--evaluations", "1e12", "--method", "md"]) == 0
    return out


def test_from_python(tmp_path: Path, noisy: PMF, truth: Truth, referee: Referee, aldp: AlanineDipeptide) -> None:
    """A PMF on the grid of the system, one on another grid, and a file, all scored alike."""
    expected = referee.score(noisy)
    found = cgbench.score(noisy, "aldp")
    assert found.forward_kld == expected["forward_kld"] and found.metrics["reverse_kld"] == expected["reverse_kld"]
    path, options = other_grid()["plumed"](tmp_path, truth)
    own = PMF.load(path, format="plumed", temperature=300.0)
    assert own.cvs.bins == (100, 100) and own.cvs.names == ("phi", "psi.x") and own.cvs.periodic == (True, True)
    by_pmf, by_file = cgbench.score(own, "aldp"), cgbench.score(path, aldp)
    assert by_pmf.forward_kld == pytest.approx(by_file.forward_kld, rel=1e-6)
    on_grid = PMF.load(path, aldp.cvs, format="plumed", temperature=300.0)
    np.testing.assert_allclose(on_grid.probability, by_file.pmf.probability, rtol=1e-9)
    with pytest.raises(UserError, match="energies in kJ/mol need a temperature"):
        PMF.load(path, format="plumed")
    with pytest.raises(UserError, match="unknown format 'plumd'"):
        PMF.load(path, format="plumd", temperature=300.0)
    assert by_file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and options == {}


def test_to_dataframe(noisy: PMF) -> None:
    noisy = PMF(noisy.cvs, noisy.probability, 0.1 + 0 * noisy.probability)
    table = noisy.to_dataframe()
    assert list(table.columns) == ["phi", "psi", "free_energy", "probability", "free_energy_std"]
    row = table.iloc[1234]
    assert (row["phi"], row["psi"]) == (noisy.centers(0)[12], noisy.centers(1)[34])
    assert row["probability"] == noisy.probability[12, 34] and row["free_energy"] == noisy.free_energy[12, 34]


def test_nodes_are_those_of_plumed(tmp_path: Path, truth: Truth) -> None:
    """Written at nodes, interpolated; derivatives against differences."""
    pmf = PMF(truth.cvs, np.exp(-truth.on(truth.cvs.centers(0), truth.cvs.centers(1))))
    pmf.to_plumed(tmp_path / "nodes.dat", unit="kT", nodes=True)
    data = np.loadtxt(tmp_path / "nodes.dat")
    grid = data.reshape(100, 100, 5).transpose(1, 0, 2)  # first CV fastest
    assert grid[0, 0, 0] == pytest.approx(-math.pi) and grid[1, 0, 0] > grid[0, 0, 0]
    energy = truth.on(grid[:, 0, 0], grid[0, :, 1])
    low = energy < energy.min() + 12
    np.testing.assert_allclose(grid[..., 2][low], (energy - energy.min())[low], atol=0.02)
    slope = (np.roll(grid[..., 2], -1, 0) - np.roll(grid[..., 2], 1, 0)) / (4 * np.pi / 100)
    assert np.abs(slope - grid[..., 3])[low].max() < 0.05 * np.abs(grid[..., 3])[low].max()
    text = (tmp_path / "nodes.dat").read_text()
    assert "#! SET min_phi -3.14159265359" in text and "#! SET nbins_phi 100" in text


def test_a_record_of_a_curve(runs: Path, files: list[Path]) -> None:
    folder = runs / "aldp" / "my_opes" / "self-reported" / "seed-0"
    record = parse_record((folder / "record.json").read_bytes())
    assert record.origin == "external" and record.status == "finished" and record.preset == "self-reported"
    assert record.evaluations.total == 4_000_000 and record.evaluations.by_phase == {"self_reported": 4_000_000}
    assert [one["sha256"] for one in record.diagnostics["files"]] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    ]
    assert "evaluations are self-reported" in record.diagnostics["warnings"][0]
    assert math.isnan(record.wall_seconds) and record.reference["noise_floor"] > 0
    assert record.metrics["ramachandran_kld"] == pytest.approx(record.metrics["forward_kld"], rel=1e-2)
    curve = pd.read_csv(folder / "curve.csv")
    assert curve["evaluations"].tolist() == [1_000_000, 2_000_000, 4_000_000]
    assert curve["forward_kld"].is_monotonic_decreasing
    assert curve["forward_kld"].iloc[-1] == pytest.approx(record.metrics["forward_kld"])
    assert (folder / "pmf.png").stat().st_size > 1000
    machine = json.dumps(record.provenance)
    assert "cpu" not in record.provenance and str(Path.home()) not in machine


def test_results_take_external_records(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Leaderboard, table of runs, comparison, report and figures; the MD curve never rests on them."""
    found = find_runs([runs])
    assert md_curves([run for run in found if run.record.method == "md"]) == {}
    table = leaderboard(found).set_index(["method", "preset"])
    row = table.loc["my_opes", "self-reported"]
    assert row["n_seeds"] == 3 and row["evaluations"] == 4e6 and math.isnan(row["wall_s"])
    assert math.isnan(row["speedup_vs_md"]) and row["hardware"] == ""
    assert main(["leaderboard", "--runs", str(runs), "--runs", str(ROOT / "runs"), "--format", "markdown"]) == 0
    shown = capsys.readouterr().out
    costs, speedups = (line for line in shown.splitlines() if line.startswith("|") and "my_opes" in line)
    assert "self-reported" in costs and "(" in speedups  # a speedup over the MD of this project
    assert "my_opes, self-reported: no speedup in time: its time is unknown" in shown
    assert "evaluations were stated by a user, not counted" in shown
    assert cgbench.read_runs(runs)["covered_mass"].tolist() == pytest.approx([1.0] * 4)
    assert main(["compare", str(runs), str(runs)]) == 0
    assert "my_opes" in capsys.readouterr().out
    assert main(["report", "--runs", str(runs), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert '"origin":"external"' in page and "evaluations are self-reported" in page
    capsys.readouterr()
    assert main(["paper", "fig4_convergence", "table2", "--runs", str(runs), "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "tables" / "table2.csv").read_text().splitlines()))
    (mine,) = (row for row in rows if row["method"] == "my_opes")
    assert mine["n_seeds"] == "3" and float(mine["ramachandran_kld"]) > 0
    assert (
        "cgbench score FILE --system aldp --method my_opes"
        in (tmp_path / "figures" / "fig4_convergence.md").read_text()
    )


def test_a_record_is_not_overwritten(runs: Path, files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "score",
        str(files[2]),
        "--system",
        "aldp",
        "--out",
        str(runs),
        "--evaluations",
        "9",
        "--method",
        "my_opes",
    ]
    assert main([*words, "--seed", "2"]) == 2
    assert "holds a result already: give another --seed, or --overwrite" in capsys.readouterr().err
    assert main([*words, "--seed", "2", "--overwrite"]) == 0
    assert parse_record((runs / "aldp/my_opes/self-reported/seed-2/record.json").read_bytes()).evaluations.total == 9


@pytest.fixture
def earlier(files: list[Path], tmp_path: Path) -> tuple[Path, list[str]]:
    """The folder of an external result, and the command that replaces it by another one."""
    words = ["score", "--system", "aldp", "--out", str(tmp_path), "--temperature", "300", "--unit", "kJ/mol"]
    assert main([*words, str(files[0]), "--evaluations", "1000"]) == 0
    folder = tmp_path / "aldp" / "external" / "self-reported" / "seed-0"
    return folder, [*words, str(files[2]), "--evaluations", "2000", "--overwrite"]


def content(folder: Path) -> dict[str, bytes]:
    names = ("record.json", "pmf.npz", "curve.csv", "pmf.png")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("kind", ["full disk", "kill"])
def test_an_earlier_result_stays_until_the_new_one_is_written(
    kind: str, earlier: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every write of a file of the result fails once, in turn, or is interrupted."""
    folder, words = earlier
    before = content(folder)
    write, left = run_folder.write_atomically, 0

    def failing(path: Path, *more: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            path.with_name(f".{path.name}.new").write_bytes(b"half a file")  # as a kill leaves it
            raise OSError(errno.ENOSPC, "No space left on device") if kind == "full disk" else KeyboardInterrupt
        write(path, *more)

    monkeypatch.setattr(run_folder, "write_atomically", failing)
    for written in range(20):
        left = written
        code = main(words)
        if code == 0:
            break
        assert code == (2 if kind == "full disk" else 130)
        assert content(folder) == before
        assert main(["leaderboard", "--runs", str(folder.parents[3])]) == 0
    message = "No space left on device" if kind == "full disk" else "interrupted"
    assert written > 4 and capsys.readouterr().err.count(message) == written
    after = content(folder)
    assert all(after[name] != before[name] for name in before)
    assert parse_record(after["record.json"]).evaluations.total == 2000


def test_files_of_an_earlier_result_do_not_stay(
    earlier: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If there is no new picture, the old one is removed; the copy of the record is the new one."""
    folder, words = earlier
    (folder / "side_estimates.csv").write_text("evaluations\n")

    def broken(*more: Any) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr("cgbench.drawing.pmf.draw_pmf", broken)
    assert main(words) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", "curve.csv", "pmf.npz", "record.json"]
    assert (folder / "checkpoint" / "record.copy").read_bytes() == (folder / "record.json").read_bytes()
    assert not list((folder / "checkpoint").glob("*.new"))


def test_the_picture_of_one_cv_has_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("cgbench.drawing.pmf.draw_pmf", lambda path, *arguments: drawn.append(arguments))
    np.save(tmp_path / "x.npy", MullerBrown().reference_samples(500).numpy())
    words = ["score", str(tmp_path / "x.npy"), "--system", "muller_brown", "--evaluations", "1000"]
    assert main([*words, "--out", str(tmp_path / "runs")]) == 0
    ((pmf, _, true),) = drawn
    np.testing.assert_array_equal(true.probability, MullerBrown().reference().pmf.probability)
    assert pmf.cvs == true.cvs


def test_two_processes_do_not_write_one_result(
    earlier: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = earlier
    before = content(folder)
    other = run_folder.RunFolder(folder)
    other.create()
    try:
        assert main(words) == 2
        assert "another process is running in this folder" in capsys.readouterr().err
    finally:
        other.release()
    assert content(folder) == before
    assert main(words) == 0 and not other.held()


def test_numbers_that_tables_hold(files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", str(files[2]), "--system", "aldp", "--out", str(tmp_path), "--evaluations", "1000", "--seed"]
    assert main([*words, "99999999999999999999"]) == 2
    assert "--seed must be from 0 to 9223372036854775807" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert main([*words, str(2**63 - 1)]) == 0
    assert cgbench.read_runs(tmp_path)["seed"].tolist() == [2**63 - 1]
    system, scores = cgbench.load_system("aldp"), [(2**63, cgbench.score(files[2], "aldp"))]
    with pytest.raises(UserError, match=f"--evaluations must be from 1 to {2**63 - 1}"):
        write_record(tmp_path, system, scores)


def test_export_and_back(runs: Path, noisy: PMF, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every format comes back with the score of the run."""
    folder = runs / "aldp" / "my_opes" / "self-reported" / "seed-1"
    stated = parse_record((folder / "record.json").read_bytes()).metrics["forward_kld"]
    for form, suffix in (("plumed", "dat"), ("csv", "csv"), ("npz", "npz")):
        out = tmp_path / f"pmf.{suffix}"
        assert main(["export", str(folder), "--format", form, "--out", str(out)]) == 0
        assert "written" in capsys.readouterr().out
        assert cgbench.score(out, "aldp").forward_kld == pytest.approx(stated, abs=1e-9)
    assert main(["export", str(folder)]) == 0 and (folder / "pmf.dat").exists()
    assert main(["export", str(tmp_path)]) == 2
    assert "holds no record" in capsys.readouterr().err
    assert main(["export", str(folder), "--format", "csv", "--nodes"]) == 2
    assert "--nodes is for PLUMED grids only" in capsys.readouterr().err
    assert main(["export", str(folder), "--format", "npz", "--unit", "kcal/mol"]) == 2
    assert "--unit is for plumed and csv: an npz is in kT" in capsys.readouterr().err


def test_export_of_a_model_without_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ROOT / "runs" / "muller_brown" / "md" / "default" / "seed-0"
    assert main(["export", str(folder), "--out", str(tmp_path / "fes.dat")]) == 0
    record = parse_record((folder / "record.json").read_bytes())
    back = cgbench.score(tmp_path / "fes.dat", "muller_brown", unit="kT")
    assert back.forward_kld == pytest.approx(record.metrics["forward_kld"], rel=1e-5)
    assert main(["export", str(folder), "--unit", "kJ/mol", "--out", str(tmp_path / "x")]) == 2
    assert "model without units" in capsys.readouterr().err


def test_export_of_one_of_several_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--method", "md", "--system", "val_chi", "--preset", "smoke", "--out", str(tmp_path)]) == 0
    folder, out = tmp_path / "val_chi" / "md" / "smoke" / "seed-0", tmp_path / "fes.dat"
    assert main(["export", str(folder), "--out", str(out)]) == 2
    assert "give --map: phi 2 and chi1 2, phi 2 and psi 2" in capsys.readouterr().err
    assert main(["export", str(folder), "--map", "phi 2 and chi1 2", "--out", str(out)]) == 0
    stated = parse_record((folder / "record.json").read_bytes()).metrics
    assert cgbench.score(out, "val_chi").forward_kld == pytest.approx(stated["forward_kld/phi 2 and chi1 2"], rel=1e-6)


def test_export_of_a_molecule_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is given, and its name and version are compared with those of the run."""
    file, glycine = tmp_path / "my.yaml", Path(cgbench_systems.__path__[0], "suite", "gly")
    file.write_text((glycine / "molecule.yaml").read_text().replace("name: gly", "name: my"))
    shutil.copy(glycine / "ace_gly_nme.pdb", tmp_path)
    words = ["run", "--method", "md", "--system", str(file), "--set", "walkers=4", "--set", "steps=20"]
    assert main([*words, "--threads", "1", "--out", str(tmp_path)]) == 0
    (folder,) = (path.parent for path in tmp_path.rglob("record.json"))
    capsys.readouterr()
    assert main(["export", str(folder)]) == 2
    assert "is a run on my, which is not registered: give its file with --system" in capsys.readouterr().err
    assert main(["export", str(folder), "--system", "gly"]) == 2
    assert "is a run on my, not on gly" in capsys.readouterr().err
    assert main(["export", str(folder), "--system", str(file), "--out", str(tmp_path / "fes.dat")]) == 0
    printed = capsys.readouterr()
    assert "fes.dat written" in printed.out and not printed.err
    cvs = cgbench.load_system(str(file)).cvs
    pmf = PMF.load(tmp_path / "fes.dat", cvs, format="plumed", temperature=300.0)
    np.testing.assert_allclose(pmf.probability, PMF.load(folder / "pmf.npz", cvs).probability, rtol=1e-6)
    file.write_text(file.read_text().replace('version: "1"', 'version: "2"'))
    assert main(["export", str(folder), "--system", str(file), "--out", str(tmp_path / "fes.dat")]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and "is a run on version 1 of my, which now has version 2" in line


def test_what_is_printed(tmp_path: Path, noisy: PMF, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = same_grid()["wham-2d"](tmp_path, noisy)
    assert main(["score", str(path), "--system", "aldp"]) == 0
    out = capsys.readouterr().out
    for words in (
        "WHAM, 2-D",
        "phi: 100 points from -3.11 to 3.11, at bin centres",
        "phi -3.142 to 3.142",
        "kcal/mol",
        "300 K",
        "assumed",
        "degrees, converted to radians",
        "10 points beyond one period are dropped",
        "forward KLD",
        "Ramachandran TV",
    ):
        assert words in out, words


def test_export_to_a_folder_is_one_line(tmp_path: Path) -> None:
    pmf = MullerBrown().reference().pmf
    with pytest.raises(UserError, match="it is a folder; give the name of a file"):
        export(pmf, tmp_path, "csv", "kT", None)
    assert not list(tmp_path.iterdir())
