"""Files of public test suites are read: small ones as they are, larger ones imitated in their layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cgbench
from cgbench.errors import UserError
from cgbench.exchange.axes import orient
from cgbench.exchange.formats import colvars, plumed
from cgbench.exchange.landscape import Hints
from cgbench_systems.aldp import AlanineDipeptide

DATA = Path(__file__).with_name("data")


def test_abf_of_colvars() -> None:
    """The header is shifted by half a bin: the values are at 0, 0.5, ..., 10, as the rows say."""
    pmf = cgbench.PMF.load(DATA / "distance-grid_abf.pmf", format="colvars", unit="kcal/mol", temperature=300.0)
    assert pmf.cvs.bins == (21,) and pmf.cvs.periodic == (False,) and pmf.cvs.names == ("CV 1",)
    np.testing.assert_allclose(pmf.centers(0), 0.5 * np.arange(21), atol=1e-12)
    assert pmf.free_energy[0] == pytest.approx(1.00063810014074 * 4.184 / (8.31446261815324e-3 * 300))
    assert pmf.free_energy[10] == 0.0
    with pytest.raises(UserError, match="give --unit kcal/mol"):
        cgbench.PMF.load(DATA / "distance-grid_abf.pmf", format="auto")


def test_convert_to_fes_of_plumed() -> None:
    """One period of nodes, infinite where nothing was."""
    pmf = cgbench.PMF.load(DATA / "fes1d.reference", temperature=300.0)
    assert pmf.cvs.names == ("phi",) and pmf.cvs.periodic == (True,) and pmf.cvs.unit == "rad"
    np.testing.assert_allclose(pmf.centers(0), -np.pi + 2 * np.pi / 100 * np.arange(100), atol=1e-6)
    assert (pmf.probability == 0).sum() == 58 and np.argmin(pmf.free_energy) == 28
    kt = 8.31446261815324e-3 * 300
    assert pmf.free_energy[0] == pytest.approx((6.845525 + 1.382698) / kt)


def test_sum_hills_of_plumed_with_a_dotted_name(tmp_path: Path, aldp: AlanineDipeptide) -> None:
    """As plumed2's regtest/basic/rt44b/fes.dat.reference: 20 x 20 points, limits as words, not shifted to zero."""
    lines = ["#! FIELDS phi psi.x file.free der_phi der_psi.x"]
    for name in ("phi", "psi.x"):
        lines += [f"#! SET min_{name} -pi", f"#! SET max_{name} pi", f"#! SET nbins_{name}  20"]
        lines += [f"#! SET periodic_{name} true"]
    x = -np.pi + 2 * np.pi / 20 * np.arange(20)
    values = -4.0 * np.exp(np.cos(x[:, None] + 2) + np.cos(x[None] + 3) - 2)
    for j in range(20):
        lines += [f"{x[i]:13.7f}{x[j]:13.7f}{values[i, j]:13.7f}    0.0000000   -0.0000000" for i in range(20)] + [""]
    (tmp_path / "fes.dat").write_text("\n".join(lines) + "\n")
    landscape = plumed.read_grid(tmp_path / "fes.dat", Hints())
    oriented = orient(landscape, aldp.cvs, Hints(), "fes.dat")
    assert [axis.name for axis in landscape.axes] == ["phi", "psi.x"] and all(p.closed for p in oriented.points)
    np.testing.assert_allclose(oriented.values, values, atol=1e-7)
    assert not oriented.assumed and not oriented.warnings
    pmf = cgbench.PMF.load(tmp_path / "fes.dat", aldp.cvs, temperature=300.0)
    assert pmf.cvs == aldp.cvs
    low = np.unravel_index(np.argmin(pmf.free_energy), (100, 100))
    assert abs(pmf.centers(0)[low[0]] + 2) < 0.1 and abs(pmf.centers(1)[low[1]] + 3) < 0.1


@pytest.mark.parametrize(("lower", "width", "points", "first"), [(-3.5, 0.2, 35, -3.4), (-3.6, 0.2, 36, -3.5)])
def test_two_dimensions_of_colvars(lower: float, width: float, points: int, first: float, tmp_path: Path) -> None:
    """As namd/tests/library/000_dihedralPC_metadynamics-2d (midpoints) and 000_dihedralPC_abf2d (edges, one more)."""
    x = first + width * np.arange(points)
    values = np.add.outer(np.cos(x), 0.5 * np.sin(x))
    lines = ["# 2", *(f"#       {lower}       {width}        {points}  0" for _ in range(2)), ""]
    for i in range(points):
        lines += [f" {x[i]:.4g} {x[j]:.4g}  {values[i, j]:.6g}" for j in range(points)] + [""]
    (tmp_path / "test.pmf").write_text("\n".join(lines) + "\n")
    landscape = colvars.read(tmp_path / "test.pmf", Hints(unit="kcal/mol"))
    np.testing.assert_allclose(landscape.axes[0].coordinates, x, atol=1e-9)
    np.testing.assert_allclose(landscape.values, values, atol=1e-5)
    pmf = cgbench.PMF.load(tmp_path / "test.pmf", format="colvars", unit="kT")
    assert pmf.cvs.bins == (points, points) and pmf.cvs.lower[0] == pytest.approx(first - width / 2)


def test_a_shifted_header_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    text = (DATA / "distance-grid_abf.pmf").read_text()
    (tmp_path / "a.pmf").write_text(text.replace("# -2.50000000000000e-01", "# -4.00000000000000e-01"))
    with pytest.raises(UserError, match="neither edge nor middle of its first bin"):
        colvars.read(tmp_path / "a.pmf", Hints(unit="kT"))
