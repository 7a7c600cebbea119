"""Mistakes in reading a file are detected, or the score comes with the stated warning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden import KCAL, KT, colvars, gmx_sham, middles, nodes, plumed, wham_2d

from cgbench.contracts.pmf import PMF
from cgbench.errors import UserError
from cgbench.exchange.landscape import Options
from cgbench.exchange.score import Score, score_file
from cgbench_systems.aldp import AlanineDipeptide

DEGREES = middles(100, -180, 180)


def scored(path: Path, system: AlanineDipeptide, **options: object) -> Score:
    return score_file([path], system, Options(**options))  # type: ignore[arg-type]


def test_axes_in_the_wrong_order(tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide) -> None:
    """Without names the order is assumed, and said; exchanged axes would score better, and that is said too."""
    file = wham_2d(tmp_path / "wham.dat", [DEGREES] * 2, KCAL * noisy.free_energy.T)
    found = scored(file, aldp)
    assert any("axes in the order phi, psi" in line for line in found.assumed)
    assert any("phi and psi exchanged" in line and "--axes" in line for line in found.warnings)
    right = scored(file, aldp, axes=("2", "1"))
    assert not right.warnings and right.forward_kld < 0.002
    with pytest.raises(UserError, match="--axes 1,1 does not name one axis"):
        scored(file, aldp, axes=("1", "1"))


def test_names_of_axes_decide(tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide) -> None:
    x = noisy.centers(0)
    file = plumed(tmp_path / "fes.dat", {"psi": x, "phi": x}, KT * noisy.free_energy.T)
    # the header of `plumed` says that the first point is at -pi; here it is half a bin further
    found = scored(file, aldp)
    assert found.forward_kld < 0.002 and not found.warnings and "at bin centres" in found.axes


@pytest.mark.parametrize(("written", "unit", "factor"), [(KCAL, "kJ/mol", "4.1"), (KT, "kcal/mol", "0.2")])
def test_the_wrong_unit(
    written: float, unit: str, factor: str, tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide
) -> None:
    file = colvars(tmp_path / "out.pmf", [DEGREES] * 2, written * noisy.free_energy, [-180.0] * 2)
    (warning,) = scored(file, aldp, unit=unit).warnings
    assert f"free energies {factor}" in warning and "check unit, temperature and bias factor" in warning
    with pytest.raises(UserError, match="does not write the unit of energy: give --unit kcal/mol"):
        scored(file, aldp)


def test_a_unit_that_the_file_contradicts(tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide) -> None:
    np.savez(tmp_path / "fes.npz", f_i=noisy.free_energy.reshape(-1), x=noisy.cvs.grid())
    with pytest.raises(UserError, match="the file states kT, but --unit says kJ/mol"):
        scored(tmp_path / "fes.npz", aldp, unit="kJ/mol")


def test_the_wrong_temperature(tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide) -> None:
    """One that is not that of the system is said; one that was assumed is said; a wrong one would score better."""
    x = noisy.centers(0)
    file = plumed(tmp_path / "fes.dat", {"phi": x, "psi": x}, KT * noisy.free_energy)
    assert any("temperature 300 K: that of the system" in line for line in scored(file, aldp).assumed)
    assert any(
        "one at 310 K, the reference of aldp is at 300 K" in w for w in scored(file, aldp, temperature=310.0).warnings
    )
    hot = plumed(tmp_path / "hot.dat", {"phi": x, "psi": x}, 450 / 300 * KT * noisy.free_energy)  # read as at 300 K
    assert any("free energies 0.66" in line and "temperature" in line for line in scored(hot, aldp).warnings)


def test_the_wrong_range(tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide) -> None:
    """A grid without coordinates, of which the user states 0 to 360 where it was -180 to 180."""
    file = gmx_sham(tmp_path / "ener.xvg", KT * noisy.free_energy)
    (warning,) = scored(file, aldp, temperature=300.0, ranges=((0.0, 360.0, 100),) * 2).warnings
    assert "shifted by half a period: check their ranges" in warning
    with pytest.raises(UserError, match="gmx sham writes no axes: give --range"):
        scored(file, aldp)
    with pytest.raises(UserError, match="bin 9,999 is not on a grid of 90 x 90 bins"):
        scored(file, aldp, ranges=((-180.0, 180.0, 90),) * 2)


def test_a_range_that_is_only_a_part(tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide) -> None:
    """Radians that were declared, or cut, as a part of the period: said, and the rest has probability zero."""
    x = noisy.centers(0)
    half = colvars(tmp_path / "half.pmf", [x[:60], x], KT * noisy.free_energy[:60], [-np.pi] * 2, periodic=False)
    found = scored(half, aldp, unit="kJ/mol")
    assert any("phi is covered only in part: -3.11 to" in line for line in found.warnings)
    assert found.forward_kld == np.inf and found.metrics["covered_mass"] > 0.9


def test_half_a_bin_off(tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide) -> None:
    """Values of bins whose coordinates are their lower edges."""
    edges = nodes(100)
    file = plumed(tmp_path / "fes.dat", {"phi": edges, "psi": edges}, KT * noisy.free_energy)
    found = scored(file, aldp)
    assert found.forward_kld > 0.004
    (warning,) = found.warnings
    assert "half a bin further (phi +, psi +): nodes or centres?" in warning


def test_a_bias_instead_of_a_free_energy(tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide) -> None:
    x = noisy.centers(0)
    file = plumed(tmp_path / "bias.dat", {"phi": x, "psi": x}, KT * noisy.free_energy, value="metad.bias")
    with pytest.raises(UserError, match="is a bias, not a free energy"):
        scored(file, aldp)


def test_a_good_pmf_is_not_doubted(tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide) -> None:
    """Also one with little noise, and one that is bad for no usual reason."""
    rough = PMF(noisy.cvs, noisy.probability * np.exp(np.random.default_rng(0).normal(size=noisy.cvs.bins)))
    for pmf in (noisy, rough):
        file = colvars(tmp_path / "out.pmf", [DEGREES] * 2, KT * pmf.free_energy, [-180.0] * 2)
        assert scored(file, aldp, unit="kJ/mol").warnings == ()


def test_the_wrong_number_of_cvs(tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide) -> None:
    file = plumed(tmp_path / "fes.dat", {"phi": noisy.centers(0)}, KT * noisy.free_energy[:, 0])
    with pytest.raises(UserError, match="has 1 axes, but the PMF of the system is over phi, psi"):
        scored(file, aldp)
