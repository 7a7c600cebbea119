"""Mistakes in reading a file are detected, or the score comes with the stated warning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden import KCAL, KT, colvars, gmx_sham, middles, nodes, plumed, wham_2d

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.errors import UserError
from cgbench.exchange.axes import orient
from cgbench.exchange.landscape import Axis, Hints, Landscape, Options
from cgbench.exchange.load import load
from cgbench.exchange.score import Score, score, score_file
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
    np.savez(tmp_path / "kt.npz", f_i=noisy.free_energy.reshape(-1), x=noisy.cvs.grid())
    in_kt = scored(tmp_path / "kt.npz", aldp, temperature=310.0)
    assert in_kt.temperature == 310.0 and in_kt.warnings[-1].startswith("the PMF is one at 310 K")
    assert scored(tmp_path / "kt.npz", aldp).temperature is None
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
    for name, format in (("ff_unbiased", None), ("file.free", None), ("metad.bias", "plumed-fes")):
        named = plumed(tmp_path / "fes.dat", {"phi": x, "psi": x}, KT * noisy.free_energy, value=name)
        assert scored(named, aldp, format=format).forward_kld < 0.01


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


def test_names_that_contradict_the_cvs(tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide) -> None:
    """One axis is a CV, the other is called something else; the user may say that it is the other CV."""
    x = noisy.centers(0)
    for name in ("omega", "psi.x"):
        file = plumed(tmp_path / "fes.dat", {"psi": x, name: x}, KT * noisy.free_energy.T)
        with pytest.raises(
            UserError, match=f"which axis is which of phi, psi: its axes are called psi, {name}; give --axes"
        ):
            scored(file, aldp)
    assert scored(file, aldp, axes=("psi.x", "psi")).forward_kld < 0.01


@pytest.mark.parametrize(
    ("names", "cvs", "order", "assumed"),
    [
        (("psi", "phi"), ("phi", "psi"), (1, 0), 0),
        (("psi", ""), ("phi", "psi"), (1, 0), 0),  # the other one has no name
        (("", ""), ("phi", "psi"), (0, 1), 1),
        (("t1", "t2"), ("phi", "psi"), (0, 1), 1),
        (("",), ("phi",), (0,), 0),
        (("t_phi",), ("phi",), (0,), 0),
        (("psi",), ("phi",), (0,), 1),
        (("psi", "omega"), ("phi", "psi"), None, 0),
        (("phi", "phi"), ("phi", "psi"), None, 0),
        (("phi_2", "psi_3"), ("phi 2", "psi 2"), None, 0),
        (("phi_psi", ""), ("phi", "psi"), None, 0),
    ],
)
def test_the_order_of_axes(
    names: tuple[str, ...], cvs: tuple[str, ...], order: tuple[int, ...] | None, assumed: int
) -> None:
    """What names tell is used, what they do not tell is assumed and said, and what they contradict is refused."""
    count = len(names)
    shape = tuple(range(3, 3 + count))
    axes = tuple(Axis(middles(bins), name) for bins, name in zip(shape, names, strict=True))
    landscape = Landscape("made up", axes, np.zeros(shape))
    lower, upper = (-np.pi,) * count, (np.pi,) * count
    over = CollectiveVariables(cvs, lower, upper, (True,) * count)
    if order is None:
        with pytest.raises(UserError, match="does not tell which axis is which"):
            orient(landscape, over, Hints(), "fes.dat")
        return
    found = orient(landscape, over, Hints(), "fes.dat")
    assert tuple(shape.index(points.count) for points in found.points) == order
    assert len([line for line in found.assumed if "axes in the order" in line]) == assumed


def test_bins_of_a_range_that_the_array_does_not_have(tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide) -> None:
    np.save(tmp_path / "f.npy", np.zeros((37, 31)))  # of OpenMM: the last CV on axis 0
    for bins in ((9, 500), (37, 31)):
        ranges = tuple((-180.0, 180.0, count) for count in bins)
        with pytest.raises(
            UserError, match=f"has 31 x 37 points in the order of the CVs, but .* are {bins[0]} x {bins[1]}"
        ):
            scored(tmp_path / "f.npy", aldp, ranges=ranges)
    assert scored(tmp_path / "f.npy", aldp, ranges=((-180.0, 180.0, 31), (-180.0, 180.0, 37))).forward_kld > 0


def test_options_of_a_pmf_in_memory(noisy: PMF, aldp: AlanineDipeptide) -> None:
    assert score(noisy, aldp, Options(map="phi and psi")).forward_kld < 0.01
    with pytest.raises(UserError, match="a PMF in memory takes no unit or axes"):
        score(noisy, aldp, Options(unit="kJ/mol", axes=("2", "1")))


def test_options_that_a_format_does_not_use_are_refused_on_loading(tmp_path: Path, noisy: PMF) -> None:
    noisy.to_plumed(tmp_path / "fes.dat", temperature=300.0)
    with pytest.raises(UserError, match="is of format plumed: --bias-factor is for openmm-bias"):
        load(tmp_path / "fes.dat", temperature=300.0, bias_factor=10.0)
