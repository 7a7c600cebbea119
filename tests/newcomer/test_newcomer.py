"""A newcomer's method: a package of its own, installed by pip, found by its name, checked, run and ranked."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from cgbench.cli.main import main
from cgbench.running.run import prepare, run

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip has installed the package into, without network."""
    folder = tmp_path_factory.mktemp("newcomer")
    shutil.copytree(HERE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", "test_*"))
    flags = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *flags, "--target", str(folder / "site"), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))


def test_installed_it_runs_by_its_name_and_is_ranked(site: Path, tmp_path: Path, capsys) -> None:
    command = [sys.executable, "-m", "cgbench", "run", "--method", "mean_force", "--system", "muller_brown"]
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}
    subprocess.run([*command, "--threads", "1", "--out", str(tmp_path)], env=environment, check=True, cwd=tmp_path)
    record = json.loads((tmp_path / "muller_brown/mean_force/default/seed-0/record.json").read_text())
    assert record["status"] == "finished"
    # the energy of every proposal of 60 nodes of 10 walkers, and of the start
    assert record["evaluations"]["by_phase"] == {"start": 600, "equilibrate": 600 * 200, "sample": 600 * 600}
    assert record["metrics"]["forward_kld"] < 1e-3
    assert abs(record["metrics"]["delta_f_error/product (lower right)"]) < 0.15
    run("muller_brown", "md", preset="smoke", out=tmp_path, threads=1)
    capsys.readouterr()
    assert main(["leaderboard", "--runs", str(tmp_path)]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert table["method"].tolist() == ["mean_force", "md"]
    assert table.loc[0, "forward_kld"] == pytest.approx(record["metrics"]["forward_kld"], rel=1e-5)
    assert table.loc[0, "speedup_vs_md"] > 0
    assert main(["leaderboard", "--runs", str(tmp_path), "--format", "markdown"]) == 0
    assert "| mean_force |" in capsys.readouterr().out


@pytest.mark.usefixtures("installed")
def test_it_is_listed_with_its_presets_and_refuses_what_it_cannot_do(tmp_path: Path, capsys) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "Thermodynamic integration of the mean force along one collective variable." in out
    assert "presets on muller_brown: default, smoke" in out
    arguments = ["run", "--method", "mean_force", "--system", "aldp", "--threads", "1", "--out", str(tmp_path)]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert "integrates along one CV, not along phi, psi" in err and err.count("\n") == 1


@pytest.mark.usefixtures("installed")
def test_a_budget_cuts_it_short_and_it_goes_on_bit_identically(tmp_path: Path) -> None:
    options = {"preset": "smoke", "threads": 1, "seed": 3}
    whole = prepare("muller_brown", "mean_force", out=tmp_path / "whole", **options)
    finished = whole.execute()
    cut = run("muller_brown", "mean_force", out=tmp_path / "cut", budget=finished.evaluations.total // 2, **options)
    assert cut.status == "budget" and cut.evaluations.total <= finished.evaluations.total // 2
    again = prepare("muller_brown", "mean_force", out=tmp_path / "cut", **options)
    assert again.resume()
    assert again.execute().evaluations == finished.evaluations
    files = [job.folder.path / "pmf.npz" for job in (whole, again)]
    assert files[0].read_bytes() == files[1].read_bytes()
