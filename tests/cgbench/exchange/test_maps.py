"""Files on one of several maps of a system: which one it is, and its score."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from golden import colvar_file

import cgbench
from cgbench.cli.main import main
from cgbench.contracts.maps import Estimate
from cgbench.contracts.pmf import PMF
from cgbench.contracts.system import System, maps_of
from cgbench.errors import UserError
from cgbench.exchange.names import find_map
from cgbench.scoring.divergences import forward_kld
from cgbench.scoring.referee import Referee
from cgbench_systems.suite import valine_chi

FILE = Path(__file__).parents[2] / "examples" / "three_angles.py"
SYSTEM = f"{FILE}:ThreeAngles"
KT = 8.31446261815324e-3 * 300  # kJ/mol


@pytest.fixture(scope="module")
def angles() -> System:
    """A system with the maps "a and b" and "b and c", and basins on the second."""
    spec = importlib.util.spec_from_file_location("three_angles", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    system: System = module.ThreeAngles()
    return system


@pytest.fixture(scope="module")
def valine() -> System:
    return valine_chi()


def noisy(true: PMF, seed: int) -> PMF:
    noise = np.random.default_rng(seed).normal(size=true.probability.shape)
    return PMF(true.cvs, true.probability * np.exp(0.2 * noise))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_names_of_columns_tell_the_map(number: int, tmp_path: Path, valine: System) -> None:
    """The score is that of this map in the estimate of all maps; PLUMED and CSV write "phi 2" differently."""
    true = valine.reference()
    pmfs = [one.pmf for one in true.maps]
    pmfs[number] = noisy(pmfs[number], number)
    name = maps_of(valine)[number].name
    populations = {state: value for state, (value, _) in (true.populations or {}).items()}
    expected = Referee(valine).score(Estimate(tuple(pmfs), populations))
    pmfs[number].to_plumed(tmp_path / "fes.dat", temperature=300.0)
    found = cgbench.score(tmp_path / "fes.dat", valine, temperature=300.0)
    assert found.map == name and found.pmf.cvs == maps_of(valine)[number].cvs
    assert found.forward_kld == pytest.approx(expected[f"forward_kld/{name}"], rel=1e-4)
    assert found.metrics["total_variation"] == pytest.approx(expected[f"total_variation/{name}"], rel=1e-4)
    assert found.reference is not None
    assert found.reference["noise_floor"] == true.details["maps"][number]["noise_floor"] != true.noise_floor
    assert not found.warnings and not any("axes" in words for words in found.assumed)
    table = pmfs[number].to_dataframe()[[*pmfs[number].cvs.names, "free_energy"]]
    table.columns = [*(f"{cv} (rad)" for cv in pmfs[number].cvs.names), "pmf (kT)"]
    table.to_csv(tmp_path / "fes.csv", index=False)
    assert cgbench.score(tmp_path / "fes.csv", valine).forward_kld == pytest.approx(found.forward_kld, rel=1e-4)


def test_basins_are_those_of_the_map(angles: System) -> None:
    first, second = (one.pmf for one in angles.reference().maps)
    assert not [name for name in cgbench.score(first, angles).metrics if name.startswith("delta_f_error/")]
    found = cgbench.score(noisy(second, 3), angles)
    assert {name for name in found.metrics if name.startswith("delta_f_error/")} == {
        "delta_f_error/c near 0",
        "delta_f_error/c far from 0",
    }
    assert found.map == "b and c"
    assert found.forward_kld == pytest.approx(forward_kld(second.probability, noisy(second, 3).probability))


def test_the_user_names_the_map(tmp_path: Path, angles: System, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns with other names do not tell, so --map does; the axes are then in its order."""
    second = noisy(angles.reference().maps[1].pmf, 4)
    second.to_plumed(tmp_path / "fes.dat", unit="kT")
    text = (tmp_path / "fes.dat").read_text()
    for old, new in (("b", "t1"), ("c", "t2")):
        text = text.replace(f"FIELDS {old} ", f"FIELDS {new} ").replace(f" {old} file", f" {new} file")
        text = text.replace(f"_{old} ", f"_{new} ")
    (tmp_path / "fes.dat").write_text(text)
    arguments = ["score", str(tmp_path / "fes.dat"), "--system", SYSTEM, "--unit", "kT"]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "does not tell which map it is on: its axes are called t1, t2; give --map: a and b, b and c" in message
    assert main([*arguments, "--map", "b and c"]) == 0
    out = capsys.readouterr().out
    assert "map               b and c" in out and "axes in the order b, c" in out
    assert main([*arguments, "--map", "a and c"]) == 2
    assert "no map 'a and c' (--map): choose from a and b, b and c" in capsys.readouterr().err
    assert main([*arguments, "--map", "b and c", "--evaluations", "100", "--out", str(tmp_path)]) == 2
    assert "a record holds all 2 maps of three_angles, a file only one" in capsys.readouterr().err


def test_samples_of_all_cvs_give_the_map_that_is_named(tmp_path: Path, angles: System) -> None:
    """Independent samples of the density on its own grid; arrays hold all CVs, a COLVAR file those of the map."""
    random = np.random.default_rng(5)
    s = random.uniform(-np.pi, np.pi, (200_000, 3))
    a, b, c = s.T
    energy = -2 * np.cos(2 * a) - np.cos(a - b) - 1.5 * np.cos(b) - np.cos(c - b)
    kept = s[random.random(len(s)) < np.exp(-energy - 5.5)]
    np.savez(tmp_path / "samples.npz", cvs=kept)
    for name, columns in (("a and b", [0, 1]), ("b and c", [1, 2])):
        found = cgbench.score(tmp_path / "samples.npz", angles, map=name)
        only = next(one for one in maps_of(angles) if one.name == name)
        counts = np.histogram2d(*kept[:, columns].T, bins=24, range=[(-np.pi, np.pi)] * 2)[0]
        np.testing.assert_allclose(found.pmf.probability, (counts + 0.5) / (counts + 0.5).sum(), atol=1e-12)
        assert found.map == name and found.pmf.cvs == only.cvs
        assert 0.2 < found.forward_kld / (24 * 24 / (2 * len(kept))) < 1.5  # of a histogram: bins / (2 samples)
    with pytest.raises(UserError, match="does not tell which map it is on: it does not name its axes; give --map"):
        cgbench.score(tmp_path / "samples.npz", angles)
    path = colvar_file(tmp_path / "COLVAR", kept[:, 1:], np.zeros(len(kept)))
    text = path.read_text().replace("phi psi", "b c")
    path.write_text(text)
    of_columns = cgbench.score(path, angles, map="b and c", unit="kT")
    assert of_columns.forward_kld == pytest.approx(found.forward_kld, rel=1e-3)


def test_the_file_of_a_run_holds_all_maps(tmp_path: Path, angles: System) -> None:
    true = angles.reference()
    estimate = Estimate(tuple(one.pmf for one in true.maps), {name: p for name, (p, _) in true.populations.items()})
    np.savez(tmp_path / "pmf.npz", **estimate.arrays())
    with pytest.raises(UserError, match="holds the PMFs of several maps"):
        cgbench.score(tmp_path / "pmf.npz", angles, map="b and c")
    second = PMF.load(tmp_path / "pmf.npz", maps_of(angles)[1].cvs, map=1)
    assert cgbench.score(second, angles).forward_kld == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("names", "number"),
    [
        (("phi_2", "psi_2"), 0),
        (("t.chi1_2", "t.phi_2"), 1),  # in any order
        (("PSI2", "Chi1 2"), 2),
        (("phi", "psi"), None),
        (("phi_2", "phi_2"), None),
        (("phi_2",), None),
        (("", ""), None),
    ],
)
def test_which_names_tell(names: tuple[str, ...], number: int | None, valine: System) -> None:
    maps = maps_of(valine)
    if number is not None:
        assert find_map(names, maps, None, "fes.dat") == maps[number]
        return
    with pytest.raises(UserError, match="does not tell which map it is on"):
        find_map(names, maps, None, "fes.dat")


def test_a_system_with_one_map_needs_no_name(aldp: System) -> None:
    (only,) = maps_of(aldp)
    assert find_map(("", ""), (only,), None, "fes.dat") == only == find_map((), (only,), "phi and psi", "fes.dat")
    with pytest.raises(UserError, match="no map 'psi' .--map.: choose from phi and psi"):
        find_map((), (only,), "psi", "fes.dat")
