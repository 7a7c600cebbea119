"""Files of public test suites are read; what is expected comes from their text, not from the readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

import cgbench
from cgbench.cli.main import main
from cgbench.errors import UserError
from cgbench.exchange.axes import orient
from cgbench.exchange.formats import colvars, plumed
from cgbench.exchange.landscape import Hints
from cgbench.scoring.referee import Referee
from cgbench_systems.aldp import AlanineDipeptide

DATA = Path(__file__).with_name("data")
KT = 8.31446261815324e-3 * 300  # kJ/mol
Array = NDArray[np.float64]


def test_abf_of_colvars() -> None:
    """The header is shifted by half a bin: the values are at 0, 0.5, ..., 10, as the rows say."""
    pmf = cgbench.PMF.load(DATA / "distance-grid_abf.pmf", format="colvars", unit="kcal/mol", temperature=300.0)
    assert pmf.cvs.bins == (21,) and pmf.cvs.periodic == (False,) and pmf.cvs.names == ("CV 1",)
    np.testing.assert_allclose(pmf.centers(0), 0.5 * np.arange(21), atol=1e-12)
    assert pmf.free_energy[0] == pytest.approx(1.00063810014074 * 4.184 / KT)
    assert pmf.free_energy[10] == 0.0
    with pytest.raises(UserError, match="give --unit kcal/mol"):
        cgbench.PMF.load(DATA / "distance-grid_abf.pmf", format="auto")


def test_convert_to_fes_of_plumed() -> None:
    """One period of nodes, infinite where nothing was."""
    pmf = cgbench.PMF.load(DATA / "fes1d.reference", temperature=300.0)
    assert pmf.cvs.names == ("phi",) and pmf.cvs.periodic == (True,) and pmf.cvs.unit == "rad"
    np.testing.assert_allclose(pmf.centers(0), -np.pi + 2 * np.pi / 100 * np.arange(100), atol=1e-6)
    assert (pmf.probability == 0).sum() == 58 and np.argmin(pmf.free_energy) == 28
    assert pmf.free_energy[0] == pytest.approx((6.845525 + 1.382698) / KT)


@pytest.fixture(scope="module")
def hills() -> Array:
    """Columns of the sum_hills file: phi, psi.x, free energy and its two derivatives, in the order of the rows."""
    return np.loadtxt(DATA / "rt44b_fes.dat.reference")


def test_sum_hills_of_plumed_with_a_dotted_name(hills: Array, aldp: AlanineDipeptide) -> None:
    """20 x 20 nodes, limits as words, phi fastest, not shifted to zero, exact zeros where no hill reaches."""
    landscape = plumed.read_grid(DATA / "rt44b_fes.dat.reference", Hints())
    assert [axis.name for axis in landscape.axes] == ["phi", "psi.x"] and landscape.usual_unit == "kJ/mol"
    nodes = np.pi / 10 * np.arange(-10, 10)
    for axis in landscape.axes:
        assert axis.periodic
        np.testing.assert_allclose(axis.coordinates, nodes, atol=6e-8)
    for j in (0, 7, 18):  # one value of psi.x in each block of 20 rows
        np.testing.assert_array_equal(landscape.values[:, j], hills[20 * j : 20 * j + 20, 2])
    assert landscape.values[2, 18] == -7.469721 == landscape.values.min()  # phi -2.5132741, psi.x 2.5132741
    assert landscape.values[18, 2] == 0.0
    oriented = orient(landscape, aldp.cvs, Hints(), "fes.dat.reference")
    assert all(points.closed and points.count == 20 for points in oriented.points)
    assert not oriented.assumed and not oriented.warnings


def test_nodes_of_plumed_on_their_own_grid(hills: Array) -> None:
    pmf = cgbench.PMF.load(DATA / "rt44b_fes.dat.reference", format="plumed", temperature=300.0)
    assert pmf.cvs.names == ("phi", "psi.x") and pmf.cvs.periodic == (True, True) and pmf.cvs.unit == "rad"
    assert pmf.cvs.bins == (20, 20)
    np.testing.assert_allclose(pmf.centers(0), np.pi / 10 * np.arange(-10, 10), atol=1e-6)
    expected = (hills[:, 2].reshape(20, 20).T + 7.469721) / KT
    np.testing.assert_allclose(pmf.free_energy, expected, atol=1e-9)


def test_nodes_of_plumed_between_bins(hills: Array, aldp: AlanineDipeptide) -> None:
    """On the grid of the system, values around the nodes differ as the derivatives in the file say."""
    pmf = cgbench.PMF.load(DATA / "rt44b_fes.dat.reference", aldp.cvs, temperature=300.0)
    assert pmf.cvs == aldp.cvs
    # bins 5 k - 1 and 5 k are on both sides of node k: axes of `f` are node and side in phi, node and side in psi
    f = np.roll(pmf.free_energy, 1, axis=(0, 1)).reshape(20, 5, 20, 5)[:, :2, :, :2]
    width = 2 * np.pi / 100
    mean = f.mean(axis=(1, 3))
    d_phi = (f[:, 1] - f[:, 0]).mean(axis=2)
    d_psi = (f[:, :, :, 1] - f[:, :, :, 0]).mean(axis=1)
    value, der_phi, der_psi = (column.reshape(20, 20).T / KT for column in hills[:, 2:].T)
    np.testing.assert_allclose(mean - mean[2, 18], value - value[2, 18], atol=0.03)
    np.testing.assert_allclose(d_phi / width, der_phi, atol=0.25)
    np.testing.assert_allclose(d_psi / width, der_psi, atol=0.25)


def test_score_of_a_file_of_plumed(hills: Array, referee: Referee, capsys: pytest.CaptureFixture[str]) -> None:
    """The forward KLD is that of scipy's spline through the nodes."""
    assert referee.reference is not None
    assert main(["score", str(DATA / "rt44b_fes.dat.reference"), "--system", "aldp", "--temperature", "300"]) == 0
    said = capsys.readouterr().out
    assert "phi: 20 points from -3.142 to 2.827, at bin edges (nodes)" in said
    assert "psi: 20 points from -3.142 to 2.827, at bin edges (nodes)" in said and "kJ/mol" in said
    tiled = np.tile(hills[:, 2].reshape(20, 20).T / KT, (3, 3))
    nodes = np.pi / 10 * np.arange(-30, 30)
    fine = -np.pi + 2 * np.pi / 400 * (np.arange(400) + 0.5)
    p = np.exp(-RectBivariateSpline(nodes, nodes, tiled)(fine, fine)).reshape(100, 4, 100, 4).sum(axis=(1, 3))
    reference = referee.reference.pmf.probability
    inside = reference > 0
    expected = (reference[inside] * np.log(reference[inside] / (p / p.sum())[inside])).sum()
    found = cgbench.score(DATA / "rt44b_fes.dat.reference", "aldp", temperature=300.0)
    assert found.forward_kld == pytest.approx(expected, abs=1e-3)


def test_metadynamics_of_colvars() -> None:
    """Values at the midpoints of 35 x 35 bins, the last CV fastest; the coordinates are written with few digits."""
    path = DATA / "dihedralPC_metadynamics-2d.pmf"
    landscape = colvars.read(path, Hints(unit="kcal/mol"))
    x = -3.4 + 0.2 * np.arange(35)
    for axis in landscape.axes:
        np.testing.assert_allclose(axis.coordinates, x, atol=1e-12)
        assert axis.periodic is False and axis.name == ""
    assert not landscape.notes
    lines = path.read_text().splitlines()
    for i in (0, 10, 11, 34):  # 3 lines of header; then an empty line and 35 rows for each value of the first CV
        block = np.loadtxt(lines[4 + 36 * i : 39 + 36 * i])
        assert set(block[:, 0]) == {round(x[i], 1)}
        np.testing.assert_array_equal(landscape.values[i], block[:, 2])
    assert landscape.values[11, 7] == 0.0 == landscape.values.min()  # at -1.2, -2
    assert landscape.values[11, 6] == 0.000403852 and landscape.values[10, 7] == 0.00378096
    pmf = cgbench.PMF.load(path, format="colvars", unit="kcal/mol", temperature=300.0)
    assert pmf.cvs.bins == (35, 35) and pmf.cvs.periodic == (False, False)
    np.testing.assert_allclose((pmf.cvs.lower, pmf.cvs.upper), [(-3.5, -3.5), (3.5, 3.5)], atol=1e-12)
    assert pmf.free_energy[11, 6] == pytest.approx(0.000403852 * 4.184 / KT)
    assert pmf.free_energy[0, 0] == pytest.approx(0.00901141 * 4.184 / KT)


def test_two_dimensional_abf_of_colvars() -> None:
    """Values at the 36 x 36 edges of the same bins: the header and the coordinates are shifted by half a bin."""
    path = DATA / "dihedralPC_abf2d.pmf"
    landscape = colvars.read(path, Hints(unit="kcal/mol"))
    x = -3.5 + 0.2 * np.arange(36)
    for axis in landscape.axes:
        np.testing.assert_allclose(axis.coordinates, x, atol=1e-12)
        assert axis.periodic is False
    midpoints = colvars.read(DATA / "dihedralPC_metadynamics-2d.pmf", Hints(unit="kcal/mol")).axes[0].coordinates
    np.testing.assert_allclose((x[1:] + x[:-1]) / 2, midpoints, atol=1e-12)
    lines = path.read_text().splitlines()
    for i in (1, 12, 35):
        block = np.loadtxt(lines[4 + 37 * i : 40 + 37 * i])
        np.testing.assert_allclose(block[:, 0], x[i], atol=1e-12)
        np.testing.assert_array_equal(landscape.values[i], block[:, 2])
    assert landscape.values[12, 7] == 0.0 == landscape.values.min()  # at -1.1, -2.1
    assert landscape.values[12, 6] == 0.0551909607683933 and landscape.values[13, 7] == 0.0998974065027184
    pmf = cgbench.PMF.load(path, format="colvars", unit="kcal/mol", temperature=300.0)
    assert pmf.cvs.bins == (36, 36) and pmf.cvs.periodic == (False, False)
    np.testing.assert_allclose((pmf.cvs.lower, pmf.cvs.upper), [(-3.6, -3.6), (3.6, 3.6)], atol=1e-12)
    assert pmf.free_energy[12, 6] == pytest.approx(0.0551909607683933 * 4.184 / KT)


def test_abf_of_colvars_solves_the_poisson_equation() -> None:
    """Forces were sampled in two bins only, so every five-point Laplacian away from their six corners vanishes.

    Colvars solves a 35 x 35 problem with the flux zero at its boundary, and the first row and column of the file repeat
    the second ones. The solver stops at a residual of 1e-6.
    """
    landscape = colvars.read(DATA / "dihedralPC_abf2d.pmf", Hints(unit="kcal/mol"))
    np.testing.assert_array_equal(landscape.values[0], landscape.values[1])
    np.testing.assert_array_equal(landscape.values[:, 0], landscape.values[:, 1])
    f = np.pad(landscape.values[1:, 1:], 1, mode="reflect")
    laplacian = f[2:, 1:-1] + f[:-2, 1:-1] + f[1:-1, 2:] + f[1:-1, :-2] - 4 * f[1:-1, 1:-1]
    corners = np.abs(laplacian) > 0.01
    assert {(i + 1, j + 1) for i, j in np.argwhere(corners)} == {(i, j) for i in (11, 12) for j in (6, 7, 8)}
    assert np.abs(laplacian[~corners]).max() < 1e-6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dihedralPC_metadynamics-2d.pmf", "phi goes from -3.4 to 3.4, more than its period"),
        ("dihedralPC_abf2d.pmf", "phi goes from -3.5 to 3.5, more than its period"),
        ("distance-grid_abf.pmf", "has 1 axes, but the PMF of the system is over phi, psi"),
    ],
)
def test_files_over_other_cvs_are_not_scored(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Projections on principal components and distances are no dihedrals."""
    options = ["--system", "aldp", "--unit", "kcal/mol", "--temperature", "300"]
    assert main(["score", str(DATA / name), *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1


def test_a_shifted_header_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    text = (DATA / "distance-grid_abf.pmf").read_text()
    (tmp_path / "a.pmf").write_text(text.replace("# -2.50000000000000e-01", "# -4.00000000000000e-01"))
    with pytest.raises(UserError, match="neither edge nor middle of its first bin"):
        colvars.read(tmp_path / "a.pmf", Hints(unit="kT"))
