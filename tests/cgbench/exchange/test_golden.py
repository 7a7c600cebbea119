"""Golden files of every format come back with the forward KLD that they must have."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from golden import (
    KCAL,
    KT,
    PhiOfAlanine,
    Truth,
    colvars,
    gmx_wham,
    middles,
    nodes,
    other_grid,
    plumed,
    same_grid,
    wham_1d,
    wham_2d,
)

from cgbench.contracts.pmf import PMF
from cgbench.errors import UserError
from cgbench.exchange.landscape import Options
from cgbench.exchange.score import Score, score_file
from cgbench.scoring.referee import Referee
from cgbench_systems.aldp import AlanineDipeptide


def scored(path: Path, system: AlanineDipeptide, format: str | None = None, **options: object) -> Score:
    return score_file([path], system, Options(format=format, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", same_grid())
def test_on_the_same_grid_the_score_is_exact(
    name: str, tmp_path: Path, noisy: PMF, referee: Referee, aldp: AlanineDipeptide
) -> None:
    path, options = same_grid()[name](tmp_path, noisy)
    found = scored(path, aldp, **options)
    expected = referee.score(noisy)
    assert found.forward_kld == pytest.approx(expected["forward_kld"], abs=1e-6) and found.forward_kld > 1e-3
    assert found.metrics["interpolation_error"] == 0.0
    np.testing.assert_allclose(found.pmf.probability, noisy.probability, rtol=1e-4, atol=1e-12)
    assert found.metrics["covered_mass"] == pytest.approx(1.0)
    assert not found.warnings


@pytest.mark.parametrize("name", other_grid())
def test_on_another_grid_the_score_is_within_the_stated_error(
    name: str, tmp_path: Path, truth: Truth, referee: Referee, aldp: AlanineDipeptide
) -> None:
    path, options = other_grid()[name](tmp_path, truth)
    found = scored(path, aldp, **options)
    expected = referee.score(truth.pmf())["forward_kld"]
    error = found.metrics["interpolation_error"]
    assert expected is not None and error is not None and expected > 1e-3
    assert 0 < error < 0.5 * expected
    assert abs(found.forward_kld - expected) < error
    assert not found.warnings


def test_one_cv(tmp_path: Path, line: PhiOfAlanine) -> None:
    """The formats of one CV: WHAM, gmx wham (energy and density), and Colvars with both ends."""
    referee = Referee(line)
    assert referee.reference is not None
    reference = referee.reference.pmf
    pmf = PMF(line.cvs, reference.probability * np.exp(0.06 * np.random.default_rng(3).normal(size=100)))
    expected = referee.score(pmf)["forward_kld"]
    x, energy = np.degrees(pmf.centers(0)), pmf.free_energy
    files = {
        "wham": (wham_1d(tmp_path / "wham.out", x, KCAL * energy, 0.1 + 0 * energy), {}),
        "kJ": (gmx_wham(tmp_path / "profile.xvg", x, KT * (energy - energy[0])), {"temperature": 300.0}),
        "kT": (gmx_wham(tmp_path / "kt.xvg", x, energy - energy[0], "E (k\\sB\\NT)"), {}),
        "kcal": (
            gmx_wham(tmp_path / "kcal.xvg", x, KCAL * energy, "E (kcal mol\\S-1\\N)"),
            {"temperature": 300.0},
        ),
        "density": (
            gmx_wham(tmp_path / "d.xvg", x, np.exp(-energy), "Density of states", "Density of states"),
            {},
        ),
    }
    for name, (path, options) in files.items():
        found = scored(path, line, **options)
        assert found.forward_kld == pytest.approx(expected, abs=1e-6), name
    wham = scored(files["wham"][0], line)
    assert wham.pmf.free_energy_std is not None and wham.metrics["coverage_95"] is not None
    np.testing.assert_allclose(wham.pmf.free_energy_std, 0.1 / KCAL, rtol=1e-5)
    assert any("298 K" in text for text in scored(files["kJ"][0], line).assumed)
    truth = Truth(reference, 0.06, 4)
    ends = nodes(90, closed=True)
    abf = colvars(tmp_path / "abf.pmf", [np.degrees(ends)], KCAL * truth.on(ends), [-182.0], periodic=False)
    found = scored(abf, line, unit="kcal/mol")
    smooth = referee.score(truth.pmf())["forward_kld"]
    assert smooth is not None and abs(found.forward_kld - smooth) < (found.metrics["interpolation_error"] or 0.0)


def test_unvisited_bins_are_probability_zero(
    tmp_path: Path, noisy: PMF, referee: Referee, aldp: AlanineDipeptide
) -> None:
    """Infinite and masked bins: the forward KLD is infinite; the covered mass and the KLD within it are exact."""
    phi = noisy.centers(0)[:, None] + 0 * noisy.probability
    blind, masked = phi > 0.5, (phi > 0) & (phi <= 0.5)
    values = np.where(blind, np.inf, KCAL * noisy.free_energy)
    found = scored(wham_2d(tmp_path / "wham.dat", [middles(100, -180, 180)] * 2, values, masked), aldp)
    seen = ~(blind | masked)
    p, q = np.where(seen, referee.reference.pmf.probability, 0), np.where(seen, noisy.probability, 0)
    mass = p.sum()
    p, q = p[seen] / mass, q[seen] / q.sum()
    assert found.forward_kld == math.inf and found.empty_bins == (~seen).sum()
    assert found.metrics["covered_mass"] == pytest.approx(mass) and 0.5 < mass < 1
    assert found.metrics["forward_kld_covered"] == pytest.approx(float((p * np.log(p / q)).sum()), abs=1e-6)
    assert found.metrics["delta_f_error/phi>0"] == math.inf


def test_plumed_leaves_out_what_was_not_visited(tmp_path: Path, truth: Truth, aldp: AlanineDipeptide) -> None:
    """At nodes: half of a bin may be unvisited, and interpolation stays away from the edge of the known."""
    x = nodes(100)
    values = KT * truth.on(x, x)
    values[60:90] = np.inf
    found = scored(plumed(tmp_path / "ff.dat", {"phi": x, "psi": x}, values, value="ff"), aldp)
    assert found.unvisited == 30 * 100 and found.empty_bins == 29 * 100 and found.forward_kld == math.inf
    known = found.pmf.probability > 0
    inner = known & ~np.isin(np.arange(100), [58, 59, 89, 90])[:, None]
    expected = np.where(inner, truth.pmf().probability, 0.0)
    ratio = np.log(found.pmf.probability[inner] / expected[inner])
    assert np.ptp(ratio[truth.pmf().free_energy[inner] < 12]) < 0.05


def test_biases_of_openmm_are_summed(tmp_path: Path, truth: Truth, referee: Referee, aldp: AlanineDipeptide) -> None:
    x = nodes(90, closed=True)
    bias = -(10 - 1) / 10 * KT * (truth.on(x, x) - truth.on(x, x).max()).T
    paths = [tmp_path / f"bias_{k}_7.npy" for k in range(2)]
    np.save(paths[0], 0.25 * bias)
    np.save(paths[1], 0.75 * bias)
    found = score_file(paths, aldp, Options(format="openmm-bias", bias_factor=10.0))
    expected = referee.score(truth.pmf())["forward_kld"]
    assert expected is not None and abs(found.forward_kld - expected) < (found.metrics["interpolation_error"] or 0.0)
    with pytest.raises(UserError, match="raw bias of one walker of OpenMM"):
        scored(paths[0], aldp)
    with pytest.raises(UserError, match="give --bias-factor"):
        score_file(paths, aldp, Options(format="openmm-bias"))


def test_finer_grids_are_summed_over_the_bins(
    tmp_path: Path, truth: Truth, referee: Referee, aldp: AlanineDipeptide
) -> None:
    """Three points in each bin along each CV: the midpoint rule with the file's own points, nothing interpolated."""
    x = middles(300)
    np.savez(
        tmp_path / "fine.npz",
        f_i=truth.on(x, x).reshape(-1),
        x=np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2),
    )
    found = scored(tmp_path / "fine.npz", aldp)
    assert "3 in each bin" in found.axes and found.metrics["interpolation_error"] == 0.0
    assert found.forward_kld == pytest.approx(referee.score(truth.pmf(3))["forward_kld"], abs=1e-9)


def test_older_wham_has_errors_after_each_value(
    tmp_path: Path, noisy: PMF, referee: Referee, aldp: AlanineDipeptide
) -> None:
    """Six columns: x, y, free energy, error, probability, error."""
    file = wham_2d(tmp_path / "wham.dat", [middles(100, -180, 180)] * 2, KCAL * noisy.free_energy)
    header, *rows = file.read_text().splitlines()
    words = [row.split() for row in rows]
    six = ["\t".join([*row[:3], "0.1", row[3], "0.0"]) if row else "" for row in words]
    file.write_text("\n".join([header, *six]) + "\n")
    assert scored(file, aldp).forward_kld == pytest.approx(referee.score(noisy)["forward_kld"], abs=1e-6)


@pytest.mark.parametrize(("unit", "factor"), [("", 1.0), (" (kcal/mol)", 1 / 4.184), (" (kT)", 1 / KT)])
def test_errors_in_another_unit_than_the_free_energy(
    unit: str, factor: float, tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide
) -> None:
    """0.5 kJ/mol, in the unit of the column of errors; without one in that of the free energy."""
    table = np.column_stack([noisy.cvs.grid(), KT * noisy.free_energy.reshape(-1), np.full(10_000, 0.5 * factor)])
    header = f"phi (rad),psi (rad),free energy (kJ/mol),error{unit}"
    np.savetxt(tmp_path / "pmf.csv", table, delimiter=",", header=header, comments="")
    std = scored(tmp_path / "pmf.csv", aldp).pmf.free_energy_std
    np.testing.assert_allclose(std, 0.5 / KT, rtol=1e-12)  # type: ignore[arg-type]


def test_the_temperature_of_errors_is_that_of_the_system(tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide) -> None:
    table = np.column_stack([noisy.cvs.grid(), noisy.free_energy.reshape(-1), np.full(10_000, 0.5)])
    header = "phi (rad),psi (rad),free energy (kT),error (kJ/mol)"
    np.savetxt(tmp_path / "pmf.csv", table, delimiter=",", header=header, comments="")
    found = scored(tmp_path / "pmf.csv", aldp)
    np.testing.assert_allclose(found.pmf.free_energy_std, 0.5 / KT, rtol=1e-12)  # type: ignore[arg-type]
    assert any("temperature 300 K: that of the system" in line for line in found.assumed)


@pytest.mark.parametrize(("column", "values"), [("probability", ("", "0")), ("pmf (kT)", ("", "inf"))])
def test_an_empty_field_of_csv_is_an_unvisited_point(
    column: str, values: tuple[str, str], tmp_path: Path, noisy: PMF, aldp: AlanineDipeptide
) -> None:
    known = noisy.probability if column == "probability" else noisy.free_energy
    rows = [f"{a:.9f},{b:.9f},{v:.12g}" for (a, b), v in zip(noisy.cvs.grid(), known.reshape(-1), strict=True)]
    for place, empty in enumerate(values):
        rows[place] = rows[place].rsplit(",", 1)[0] + f",{empty}"
    (tmp_path / "pmf.csv").write_text("\n".join([f"phi (rad),psi (rad),{column}", *rows]) + "\n")
    found = scored(tmp_path / "pmf.csv", aldp)
    assert found.unvisited == found.empty_bins == 2 and (found.pmf.probability.reshape(-1)[:2] == 0).all()
