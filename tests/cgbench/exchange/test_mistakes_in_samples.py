"""Mistakes in samples are detected: their domain, shape, columns of text, unit of the bias, and energies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgbench.contracts.pmf import PMF
from cgbench.errors import UserError
from cgbench.exchange.doubts import energy_doubts
from cgbench.exchange.landscape import Options
from cgbench.exchange.score import Score, score_file
from cgbench.scoring.field_metrics import ComparedEnergies
from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.muller_brown import MullerBrown
from cgbench_systems.suite import valine_chi


def scored(path: Path, system: Any, format: str | None = None, **options: Any) -> Score:
    return score_file([path], system, Options(format=format, **options))


def test_samples_outside_the_domain(tmp_path: Path) -> None:
    """They are dropped with their weights, and the score is that of the others; most of them are too many."""
    system, path = MullerBrown(), tmp_path / "s.npz"
    x = system.reference_samples(20_000).numpy()
    s, weights = x[:, 0] - x[:, 1], np.random.default_rng(0).uniform(0.5, 2.0, len(x))
    few = s.copy()
    few[::50] = 1.2
    inside = few <= 1.1
    count = len(s) - int(inside.sum())
    np.savez(path, cvs=few, weights=weights)
    found = scored(path, system)
    words = f"{count} of 20,000 samples are outside the domain of s (-2.5 to 1.1)"
    assert f"{words} and dropped: check units and order of columns" in found.warnings
    assert any(line.startswith(f"{len(s) - count:,} samples, ") for line in found.notes)
    np.savez(path, cvs=few[inside], weights=weights[inside])
    expected = scored(path, system)
    assert found.metrics == expected.metrics and not expected.warnings
    np.save(tmp_path / "out.npy", 3 * s[:, None])
    with pytest.raises(UserError, match=r"out.npy: 19,.* outside the domain of s \(-2.5 to 1.1\): check units"):
        scored(tmp_path / "out.npy", system)
    moved = x.copy()
    moved[::50] = 1.0, -0.2  # s = 1.2
    np.savez(path, positions=moved)
    assert any("are outside the state space of the system and dropped" in line for line in scored(path, system).notes)


def test_arrays_that_are_no_grid_are_samples(drawn: np.ndarray, tmp_path: Path, aldp: AlanineDipeptide) -> None:
    """Neither a column more nor a transposed array is read as a free energy, unless the user says so."""
    path = tmp_path / "s.npy"
    timed = np.column_stack([np.arange(len(drawn)), drawn])
    for array, words in ((timed, "3 columns"), (drawn.T, "20,000 columns"), (drawn[:, :1], "1 column")):
        np.save(path, array)
        for format in (None, "samples"):
            with pytest.raises(
                UserError, match=rf"has {words}, aldp has 2 CVs: samples need the shape \(frames, 2\), or --axes"
            ):
                scored(path, aldp, format)
        with pytest.raises(UserError, match="holds samples, not a PMF"):
            PMF.load(path, aldp.cvs)
    np.save(path, timed)
    assert scored(path, aldp, "openmm").format.startswith("OpenMM")
    np.save(tmp_path / "right.npy", drawn)
    assert scored(path, aldp, axes=("2", "3")).metrics == scored(tmp_path / "right.npy", aldp).metrics
    for shape in ((9, 9), (10, 501)):
        np.save(path, np.zeros(shape))
        with pytest.raises(UserError, match=f"has {shape[1]} columns"):
            scored(path, aldp)
    for shape in ((10, 10), (10, 500)):
        np.save(path, np.zeros(shape))
        assert scored(path, aldp).format.startswith("OpenMM")


@pytest.mark.parametrize(
    ("name", "header", "order", "said"),
    [
        ("s.txt", "", (0, 1), {}),
        ("s.csv", "", (0, 1), {}),
        ("s.csv", "psi,phi", (1, 0), {}),
        ("s.csv", "phi (deg);psi (deg)", (0, 1), {}),
        ("s.dat", "# psi phi", (1, 0), {}),
        ("s.dat", "# psi phi", (0, 1), {"axes": ("1", "2")}),
        ("s.txt", "# by a script\n# t1 t2", (0, 1), {"axes": ("t1", "t2")}),
        ("s.tsv", "time\tphi\tpsi", (2, 0, 1), {"format": "samples"}),
        ("s.csv", "time,phi,psi,energy", (2, 0, 1, 2), {"format": "samples"}),
        ("s.txt", "", (2, 0, 1), {"format": "samples", "axes": ("2", "3")}),
    ],
)
def test_samples_as_text(
    name: str,
    header: str,
    order: tuple[int, ...],
    said: dict[str, Any],
    drawn: np.ndarray,
    tmp_path: Path,
    aldp: AlanineDipeptide,
) -> None:
    """Columns with names are found by them, others are the CVs in their order; the first one may be the time."""
    s = np.degrees(0.4 * drawn) if "deg" in header else drawn  # degrees that look like radians
    mark = next((mark for mark in ",;\t" if mark in header), "," if name.endswith("csv") else " ")
    table = np.column_stack([s, np.arange(len(s))])[:, order]
    path = tmp_path / name
    np.savetxt(path, table, delimiter=mark, header=header, comments="")
    if not header:
        path.write_text(path.read_text().lstrip("\n"))
    np.save(tmp_path / "s.npy", np.radians(s) if "deg" in header else s)
    found, expected = scored(path, aldp, **said), scored(tmp_path / "s.npy", aldp)
    assert found.forward_kld == pytest.approx(expected.forward_kld, abs=1e-12)
    assert found.assumed == () and found.format == "text of CVs, histogram"
    np.savetxt(tmp_path / "w.txt", np.random.default_rng(0).uniform(1, 2, len(s)))
    assert 0.9 < (scored(path, aldp, weights=tmp_path / "w.txt", **said).metrics["ess"] or 0.0) < 1.0


@pytest.mark.parametrize(
    ("name", "text", "format", "reason"),
    [
        ("s.txt", "0 1 2\n3 4 5\n", None, "has 3 columns of numbers: if its rows are samples, give --format samples"),
        ("s.txt", "0 1 2\n3 4 5\n", "samples", "has 3 columns, aldp has 2 CVs: samples need the shape"),
        ("s.txt", "# t1 t2\n0 1\n3 4\n", None, "has no column 'phi': choose from t1, t2 with --axes"),
        ("s.txt", "0 1\n3 x\n", None, "line 2 has 'x' where a number should be"),
        ("s.txt", "0 1\n3\n", None, "line 2 has 1 columns, not 2"),
        ("s.txt", "0 1\n3 nan\n", None, "1 of 2 samples are not finite"),
        ("s.txt", "two lines\nof words\n0 1\n", "samples", "save them as .npy of shape"),
        ("s.csv", "time,phi,psi\n0,1,2\n3,4,5\n", None, "none of which is .*rows are samples, give --format samples"),
        ("s.csv", "phi,psi,energy\n0,1,2\n3,4,5\n7,7,7\n", None, "rows are samples, give --format samples"),
        ("s.csv", "phi,pmf\n0,1\n3,4\n", None, "names no unit"),
    ],
)
def test_text_that_may_not_be_samples(
    name: str, text: str, format: str | None, reason: str, tmp_path: Path, aldp: AlanineDipeptide
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=reason):
        scored(tmp_path / name, aldp, format)


def test_three_columns_of_text_may_be_a_pmf_on_two_of_three_cvs(tmp_path: Path) -> None:
    system = valine_chi()
    for header, reason in (("", "has 3 columns of numbers: if"), ("# phi_2 psi_2 chi1_2\n", "give --map")):
        (tmp_path / "s.txt").write_text(f"{header}0 1 2\n3 4 5\n")
        with pytest.raises(UserError, match=reason):
            scored(tmp_path / "s.txt", system)


def test_a_colvar_file_of_a_model(tmp_path: Path) -> None:
    """A unit is asked for only if there is a bias."""
    system, path = MullerBrown(), tmp_path / "COLVAR"
    x = system.reference_samples(2_000).numpy()
    rows = "".join(f" {k} {s:.6f} 0.1\n" for k, s in enumerate(x[:, 0] - x[:, 1]))
    path.write_text("#! FIELDS time s other\n" + rows)
    free = scored(path, system)
    assert any("no bias column" in line for line in free.notes) and 0 < free.forward_kld < 0.05
    path.write_text("#! FIELDS time s a.bias\n" + rows)
    assert scored(path, system, bias="none").forward_kld == free.forward_kld
    with pytest.raises(UserError, match="muller_brown is a model without physical units.* not in kJ/mol: --unit kT"):
        scored(path, system)
    assert scored(path, system, unit="kT").forward_kld == pytest.approx(free.forward_kld)


def mean_energy(path: Path, system: Any, **said: Any) -> list[str]:
    return [line for line in scored(path, system, **said).warnings if line.startswith("the mean energy differs by")]


def test_energies_of_another_temperature(tmp_path: Path) -> None:
    """Samples of Müller-Brown as if at 1.5 times the temperature, by weights; without these nothing is said."""
    system, path = MullerBrown(), tmp_path / "x.npz"
    x = system.reference_samples(40_000)
    energies = system.reduced_energy_and_gradient(x)[0].numpy()
    np.savez(path, positions=x.numpy())
    assert not mean_energy(path, system)
    log_weights = (1 - 1 / 2.5) * energies
    np.savez(path, positions=x.numpy(), log_weights=log_weights)
    weights = np.exp(log_weights - log_weights.max())
    (words,) = mean_energy(path, system)
    chosen = np.unique(np.linspace(0, len(x) - 1, 4000).astype(int))
    expected = np.average(energies[chosen], weights=weights[chosen]) - np.mean(
        system.reduced_energy_and_gradient(system.reference_samples())[0].numpy()
    )
    assert f"by {expected:+.3g} kT" in words and expected > 1
    assert "from that of the reference samples: other temperature, force field, solvent or constraints" in words


def test_energies_of_few_or_broken_samples(tmp_path: Path, aldp: AlanineDipeptide) -> None:
    """Molecules as they are and with all bonds a little longer; few of them, and one that is broken, prove nothing."""
    x = aldp.reference_samples()
    assert x is not None
    good = x.numpy()[::-1].copy()
    np.save(tmp_path / "x.npy", good)
    assert not mean_energy(tmp_path / "x.npy", aldp)
    np.save(tmp_path / "x.npy", 1.02 * good)
    (words,) = mean_energy(tmp_path / "x.npy", aldp)
    assert "differs by +" in words
    np.save(tmp_path / "x.npy", good[:3])
    assert not mean_energy(tmp_path / "x.npy", aldp)
    good[5, 3] = good[5, 8]  # two atoms in one place: an enormous energy, and as large a standard error
    np.save(tmp_path / "x.npy", good)
    assert not mean_energy(tmp_path / "x.npy", aldp)


@pytest.mark.parametrize("correlated", [1, 50])
def test_false_alarms_about_energies(correlated: int) -> None:
    """Means of the same distribution, also of correlated samples, are never five standard errors apart."""
    random = np.random.default_rng(0)
    for _ in range(200):
        noise = random.normal(size=4000 + correlated)
        series = np.convolve(noise, np.ones(correlated) / math.sqrt(correlated), "valid")[:4000]
        assert not energy_doubts(ComparedEnergies(5.0 * random.normal(size=2000), 20.0 * series, np.ones(4000)))
    higher = 5.0 * random.normal(size=4000) + 1.2
    assert len(energy_doubts(ComparedEnergies(5.0 * random.normal(size=2000), higher, np.ones(4000)))) == 1
