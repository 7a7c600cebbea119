"""The commands on the pages about other programs work on a file of that program, made here; so does their Python."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from golden import KCAL, KT, Truth, colvar_file, colvars, gmx_sham, middles, nodes, plumed, same_grid, wham_2d

from cgbench.cli.main import main
from cgbench.contracts.pmf import PMF
from cgbench_systems.aldp import AlanineDipeptide

PAGES = Path(__file__).parents[3] / "docs" / "programs"
PROGRAMS = sorted(path.stem for path in PAGES.glob("*.md"))


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (PAGES / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, noisy: PMF, truth: Truth, aldp: AlanineDipeptide) -> Path:
    """A folder with the files that the pages name."""
    path = tmp_path_factory.mktemp("user")
    x, ends, degrees = nodes(100), nodes(100, closed=True), middles(100, -180, 180)
    for name in ("fes.dat", "fes_1.dat", "fes_2.dat", "fes_3.dat"):
        plumed(path / name, {"phi": x, "psi": x}, KT * truth.on(x, x))
    colvar_file(path / "COLVAR", np.random.default_rng(0).uniform(-3, 3, (500, 2)), np.zeros(500))
    colvars(path / "out.pmf", [degrees] * 2, KCAL * noisy.free_energy, [-180.0] * 2)
    wham_2d(path / "wham.dat", [degrees] * 2, KCAL * noisy.free_energy)
    gmx_sham(path / "ener.xvg", KT * noisy.free_energy)
    np.save(path / "free_energy.npy", KT * truth.on(ends, ends).T)
    for k in range(2):
        np.save(path / f"bias_{k}_1.npy", -0.45 * KT * truth.on(ends, ends).T)
    same_grid()["pymbar"](path, noisy)
    same_grid()["csv"](path, noisy)
    positions = aldp.initial_configuration().numpy() + 0.001 * np.random.default_rng(0).normal(size=(50, 22, 3))
    trajectory = mdtraj.Trajectory(positions, mdtraj.Topology.from_openmm(aldp.topology()))
    trajectory.save(str(path / "traj.dcd"))
    trajectory[0].save(str(path / "topology.pdb"))
    np.savez(path / "model.npz", positions=positions)
    (path / "runs").symlink_to(Path(__file__).parents[3] / "runs")
    return path


@pytest.mark.parametrize("page", PROGRAMS)
def test_the_commands_of_a_page_work(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    assert lines
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "cgbench" and main(words) == 0, line
        assert capsys.readouterr().out


def test_the_python_of_the_overview_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (code,) = blocks("index", "python")
    exec(compile(code, "docs/programs/index.md", "exec"), {})
    assert (folder / "on_the_grid.dat").exists()


def test_the_overview_lists_every_page() -> None:
    text = (PAGES / "index.md").read_text()
    assert all(f"[]({name}.md)" in text for name in PROGRAMS if name != "index")
