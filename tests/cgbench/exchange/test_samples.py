"""Samples and trajectories: CVs by the system's definition, weights, checks of the atoms, and the run's own score."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import pytest
import torch
from golden import KT, colvar_file

import cgbench
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.errors import UserError
from cgbench.exchange.describe import describe
from cgbench.exchange.landscape import Options
from cgbench.exchange.samples import read_samples
from cgbench.exchange.score import Score, score_file
from cgbench.scoring.referee import Referee
from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.muller_brown import MullerBrown


def scored(path: Path, system: Any, format: str | None = None, **options: Any) -> Score:
    return score_file([path], system, Options(format=format, **options))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, np.ndarray]:
    """A run of md with preset smoke: its record, and the positions whose CVs it counted."""
    seen: list[torch.Tensor] = []
    known = Problem.collective_variables

    def recorded(self: Problem, x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach().double().cpu().clone())
        return known(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Problem, "collective_variables", recorded)
        record = cgbench.run("aldp", "md", preset="smoke", out=tmp_path_factory.mktemp("runs"), threads=1)
    assert record.status == "finished"
    return record, torch.cat(seen).numpy()


@pytest.fixture(scope="module")
def trajectory(run: tuple[Any, np.ndarray], aldp: AlanineDipeptide) -> mdtraj.Trajectory:
    return mdtraj.Trajectory(run[1], mdtraj.Topology.from_openmm(aldp.topology()))


def saved(trajectory: mdtraj.Trajectory, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trajectory.save(str(path))
    return path


def reordered(trajectory: mdtraj.Trajectory, order: list[int]) -> mdtraj.Trajectory:
    """The same molecule with its atoms in another order, which stays within residues."""
    atoms, _ = trajectory.topology.to_dataframe()
    atoms = atoms.iloc[order].reset_index(drop=True)
    return mdtraj.Trajectory(trajectory.xyz[:, order], mdtraj.Topology.from_dataframe(atoms))


def test_a_trajectory_of_a_run_has_the_score_of_the_run(
    run: tuple[Any, np.ndarray], trajectory: mdtraj.Trajectory, tmp_path: Path, aldp: AlanineDipeptide
) -> None:
    """Positions in float32 move a sample in a thousand across the edge of a bin; those of XTC a few in a hundred."""
    record, x = run
    expected = record.metrics["forward_kld"]
    np.save(tmp_path / "x.npy", x.reshape(len(x), -1))  # (frames, 3 N), as in float64
    exact = scored(tmp_path / "x.npy", aldp)
    assert exact.forward_kld == pytest.approx(expected, abs=1e-12)
    assert exact.metrics["delta_f_error/alphaR"] == pytest.approx(record.metrics["delta_f_error/alphaR"], abs=1e-9)
    for suffix, tolerance in (("dcd", 2e-3), ("trr", 2e-3), ("nc", 2e-3), ("xtc", 2e-2)):
        found = scored(saved(trajectory, tmp_path / f"t.{suffix}"), aldp)
        assert found.forward_kld == pytest.approx(expected, rel=tolerance), suffix
        assert (found.metrics["energy_w2"] is None) == (suffix == "xtc")
    assert found.sampled is not None and found.sampled.inefficiency > 1


def test_hdf5(trajectory: mdtraj.Trajectory, tmp_path: Path, aldp: AlanineDipeptide) -> None:
    tables = pytest.importorskip("tables", reason="PyTables is an extra: pip install 'cgbench[hdf5]'")
    if not hasattr(tables, "open_file"):
        (tmp_path / "t.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 100)
        with pytest.raises(UserError, match="HDF5 trajectories need PyTables: pip install 'cgbench"):
            scored(tmp_path / "t.h5", aldp)
        return
    a, b = saved(trajectory, tmp_path / "t.h5"), saved(trajectory, tmp_path / "t.dcd")
    assert scored(a, aldp).forward_kld == pytest.approx(scored(b, aldp).forward_kld, rel=1e-3)


def test_atoms_in_another_order_are_refused(
    trajectory: mdtraj.Trajectory, tmp_path: Path, aldp: AlanineDipeptide
) -> None:
    good = saved(trajectory[0], tmp_path / "good.pdb")
    dcd = saved(trajectory, tmp_path / "t.dcd")
    assert scored(dcd, aldp, topology=good).forward_kld == scored(dcd, aldp).forward_kld
    order = list(range(22))
    order[4], order[5] = 5, 4  # C and O
    turned = reordered(trajectory, order)
    other = saved(turned[0], tmp_path / "other.pdb")
    moved = saved(turned, tmp_path / "moved.dcd")
    with pytest.raises(UserError, match="order of the atoms differs: atom 5 is O .* but C .* in aldp"):
        scored(moved, aldp, topology=other)
    with pytest.raises(UserError, match=r"atoms 5 and 7 \(C of ACE1, N of ALA2\) are 0.2.. nm apart"):
        scored(moved, aldp)
    hydrogens = list(range(22))
    hydrogens[0], hydrogens[9] = 9, 0  # two hydrogens of different groups: the same elements
    with pytest.raises(UserError, match="in another order"):
        scored(saved(mdtraj.Trajectory(trajectory.xyz[:, hydrogens], trajectory.topology), tmp_path / "h.dcd"), aldp)
    with pytest.raises(UserError, match="has 10 atoms, aldp has 22: keep only the molecule"):
        scored(dcd, aldp, topology=saved(trajectory[0].atom_slice(range(10)), tmp_path / "few.pdb"))


def test_the_mirror_image_and_wrong_units_are_refused(
    run: tuple[Any, np.ndarray], tmp_path: Path, aldp: AlanineDipeptide
) -> None:
    _, x = run
    path = tmp_path / "x.npy"
    for factor, reason in ((-1.0, "the mirror image of aldp"), (10.0, "positions must be in nm, not in angstrom")):
        np.save(path, factor * x)
        with pytest.raises(UserError, match=reason):
            scored(path, aldp)
    mixed = np.where((np.arange(len(x)) % 4 == 0)[:, None, None], -x, x)
    np.save(path, mixed)
    found = scored(path, aldp)
    assert any("outside the state space of the system and dropped" in line for line in found.notes)
    x = x.copy()
    x[3, 2, 1] = np.nan
    np.save(path, x)
    with pytest.raises(UserError, match=r"1 of [\d,]+ configurations have positions that are not finite"):
        scored(path, aldp)


def biased(count: int, referee: Referee) -> tuple[np.ndarray, np.ndarray]:
    """CVs drawn from the reference times exp(-bias/kT), and the bias in kJ/mol."""
    reference = referee.reference.pmf
    bias = -0.5 * KT * np.minimum(reference.free_energy, 12.0)
    p = (reference.probability * np.exp(-bias / KT)).reshape(-1)
    random = np.random.default_rng(5)
    index = random.choice(p.size, count, p=p / p.sum())
    width = 2 * np.pi / 100
    s = reference.cvs.grid()[index] + random.uniform(-0.499, 0.499, (count, 2)) * width
    return s, bias.reshape(-1)[index]


def test_a_colvar_file_is_reweighted(tmp_path: Path, referee: Referee, aldp: AlanineDipeptide) -> None:
    """Weights exp(bias/kT), headers at restarts; without the weights the PMF is wrong."""
    s, bias = biased(100_000, referee)
    path = colvar_file(tmp_path / "COLVAR", s, bias, restarts=3)
    found = scored(path, aldp)
    weights = np.exp(np.round(bias, 6) / KT)
    kish = weights.sum() ** 2 / (weights**2).sum()
    counts = aldp.cvs.histogram(np.round(s, 6), weights / weights.sum() * kish)
    expected = referee.score(PMF.from_counts(aldp.cvs, counts))["forward_kld"]
    assert found.forward_kld == pytest.approx(expected, abs=1e-6)
    assert found.metrics["ess"] == pytest.approx(kish / len(s), rel=1e-6)
    assert any("3 restarts" in line for line in found.notes)
    assert any("weights exp(bias/kT) from metad.rbias" in line for line in found.notes)
    assert abs(found.metrics["delta_f_phi_error"] or 0.0) < 0.1  # of the samples alone, without half a count per bin
    blind = scored(path, aldp, bias="none")
    assert blind.forward_kld > 5 * found.forward_kld and blind.metrics["ess"] is None
    assert found.sampled is not None and found.sampled.inefficiency == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(("largest", "assumed", "doubted"), [(3.1, 0, 0), (179.0, 1, 0), (12.5, 1, 1)])
@pytest.mark.parametrize("name", ["COLVAR", "s.npy"])
def test_degrees_are_assumed_and_said(
    name: str, largest: float, assumed: int, doubted: int, tmp_path: Path, aldp: AlanineDipeptide
) -> None:
    """Radians that were not wrapped look like few degrees."""
    s = np.random.default_rng(0).uniform(-1, 1, (500, 2)).round(6) * largest
    s[0, 0] = -largest
    path = tmp_path / name
    if name == "COLVAR":
        colvar_file(path, s, np.zeros(500))
    else:
        np.save(path, s)
    said = {"unit": "kT"} if name == "COLVAR" else {}
    found = read_samples(path, "colvar" if name == "COLVAR" else "samples", aldp, Options(**said))
    np.testing.assert_allclose(found.s, np.radians(s) if assumed else s, atol=1e-6)
    lines = [line for line in found.assumed if "angles in degrees, converted to radians" in line]
    assert len(lines) == assumed and all(f"up to {largest:g} " in line for line in lines)
    assert len(found.warnings) == doubted
    assert all(f"up to {largest:g} degrees only: if they are radians" in line for line in found.warnings)
    assert scored(path, aldp, **said).assumed == found.assumed


def test_columns_of_a_colvar_file(tmp_path: Path, aldp: AlanineDipeptide) -> None:
    s = np.random.default_rng(0).uniform(-3, 3, (200, 2))
    path = colvar_file(tmp_path / "COLVAR", s, np.zeros(200))
    text = path.read_text()
    path.write_text(text.replace("time phi psi metad.rbias", "time t1 t2 a.bias"))
    with pytest.raises(UserError, match="has no column 'phi': choose from a.bias, t1, t2, time with --axes"):
        scored(path, aldp)
    assert scored(path, aldp, axes=("t1", "t2")).forward_kld > 0
    assert scored(path, aldp, axes=("t1", "t2")).forward_kld == scored(path, aldp, axes=("2", "3")).forward_kld
    for axes in (("t1",), ("t1", "t2", "time"), ("t1", "t1"), ("t1", "2"), ("t1", "5")):
        with pytest.raises(
            UserError, match=f"--axes {','.join(axes)} does not name one axis of .*COLVAR for each of phi"
        ):
            scored(path, aldp, axes=axes)
    path.write_text(text.replace("time phi psi metad.rbias", "a.bias phi psi b.bias"))
    with pytest.raises(UserError, match="several bias columns"):
        scored(path, aldp)
    assert scored(path, aldp, bias="b.bias").metrics["ess"] == pytest.approx(1.0)


def test_coverage_of_the_errors(referee: Referee, tmp_path: Path, aldp: AlanineDipeptide) -> None:
    """Independent samples: two thirds of the bins are within the standard error, where counts are not tiny."""
    reference = referee.reference.pmf
    random = np.random.default_rng(7)
    index = random.choice(10_000, 2_000_000, p=reference.probability.reshape(-1))
    counts = np.bincount(index, minlength=10_000)
    np.save(tmp_path / "s.npy", reference.cvs.grid()[index])
    found = scored(tmp_path / "s.npy", aldp)
    std = found.pmf.free_energy_std
    assert std is not None
    many = counts.reshape(100, 100) > 50
    z = (found.pmf.free_energy - reference.free_energy)[many]
    z = (z - np.average(z, weights=reference.probability[many])) / std[many]
    assert np.mean(np.abs(z) < 1) == pytest.approx(0.68, abs=0.03)


def test_arrays_with_weights_and_a_density(
    run: tuple[Any, np.ndarray], tmp_path: Path, referee: Referee, aldp: AlanineDipeptide
) -> None:
    _, x = run
    log_weights = np.random.default_rng(0).normal(size=len(x))
    samples = aldp.reference_samples()
    assert samples is not None
    density = -aldp.reduced_energy_and_gradient(samples)[0].numpy()
    path = tmp_path / "model.npz"
    np.savez(path, positions=x, log_weights=log_weights, log_density_of_reference_samples=density)
    found = scored(path, aldp)
    weights = np.exp(log_weights)
    assert found.metrics["ess"] == pytest.approx(weights.sum() ** 2 / len(x) / (weights**2).sum())
    assert found.metrics["ess_clipped"] >= found.metrics["ess"]  # type: ignore[operator]
    jacobian = aldp.coordinate_sets["literature"].to_internal(samples)[2].numpy()
    assert found.metrics["eubo"] == pytest.approx(-(density - jacobian).mean())
    assert found.density is not None and found.density["coordinates"] == "literature"
    np.savez(path, positions=x, log_density_of_reference_samples=np.where(np.arange(2000) == 7, -np.inf, density))
    missed = scored(path, aldp)
    assert missed.metrics["eubo"] == np.inf
    assert "infinite: zero density at 1 of 2,000 reference samples" in describe(missed)
    np.savez(path, positions=x, log_density_of_reference_samples=density[:-1])
    with pytest.raises(UserError, match="2,000 reference samples, each needs one number"):
        scored(path, aldp)
    np.savez(path, positions=x, weights=-weights)
    with pytest.raises(UserError, match="weights must be finite, not negative"):
        scored(path, aldp)
    np.savetxt(tmp_path / "w.txt", weights)
    np.save(tmp_path / "x.npy", x)
    again = scored(tmp_path / "x.npy", aldp, weights=tmp_path / "w.txt")
    assert again.metrics["ess"] == pytest.approx(found.metrics["ess"])


def test_a_model_without_atoms(tmp_path: Path) -> None:
    """Müller-Brown: positions of two columns, CVs of one, and the smoothed estimate."""
    system = MullerBrown()
    x = system.reference_samples(20_000).numpy()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "s.npy", x[:, 0] - x[:, 1])
    positions = scored(tmp_path / "x.npy", system)
    with pytest.raises(UserError, match="give --format openmm or --format samples"):
        scored(tmp_path / "s.npy", system)
    cvs = scored(tmp_path / "s.npy", system, "samples")
    assert positions.forward_kld == pytest.approx(cvs.forward_kld) and 0 < cvs.forward_kld < 0.005
    assert positions.metrics["energy_w2"] is not None and positions.metrics["energy_w2"] < 0.2
    assert positions.metrics["ramachandran_kld"] is None and positions.metrics["torus_w2"] is None
    smoothed = scored(tmp_path / "x.npy", system, estimator="smoothed")
    assert smoothed.forward_kld == positions.other_metrics["forward_kld"]
    assert smoothed.other_metrics["forward_kld"] == positions.forward_kld
    assert math.isfinite(smoothed.forward_kld)


@pytest.mark.parametrize("weighted", [False, True])
def test_axes_of_an_array_of_cvs(weighted: bool, drawn: np.ndarray, tmp_path: Path, aldp: AlanineDipeptide) -> None:
    """Exchanged columns are doubted, and --axes gives them the score that they have in the order of the system."""
    path = tmp_path / "s.npz"
    more = {"weights": np.ones(len(drawn))} if weighted else {}
    np.savez(path, cvs=drawn, **more)
    right = scored(path, aldp)
    assert not right.warnings and right.forward_kld < 0.2
    np.savez(path, cvs=drawn[:, ::-1], **more)
    wrong = scored(path, aldp)
    assert (
        wrong.forward_kld > 3
        and "with phi and psi exchanged: check the order of the axes (--axes)" in wrong.warnings[0]
    )
    found = scored(path, aldp, axes=("2", "1"))
    assert (found.metrics, found.warnings) == (right.metrics, ())
    for axes in (("1", "1"), ("1",), ("1", "3"), ("psi", "phi")):  # columns of an array have no names
        with pytest.raises(UserError, match=f"--axes {','.join(axes)} does not name .* choose from 1, 2"):
            scored(path, aldp, axes=axes)


@pytest.mark.parametrize("estimator", ["histogram", "smoothed"])
def test_doubts_about_samples(estimator: str, drawn: np.ndarray, tmp_path: Path, aldp: AlanineDipeptide) -> None:
    """Other signs and ranges of the columns of a COLVAR file; that there are few samples is no reason."""

    def doubts(s: np.ndarray) -> list[str]:
        path = colvar_file(tmp_path / "COLVAR", s, np.zeros(len(s)))
        return [line for line in scored(path, aldp, estimator=estimator).warnings if "the forward KLD would be" in line]

    for count in (30, 1000, 20_000):
        assert not doubts(drawn[:count])
    assert "with the sign of phi changed" in doubts(drawn * [-1, 1])[0]
    assert "with psi shifted by half a period" in doubts(drawn + [0, np.pi])[0]


def test_positions_have_no_axes(run: tuple[Any, np.ndarray], tmp_path: Path, aldp: AlanineDipeptide) -> None:
    np.save(tmp_path / "x.npy", run[1])
    with pytest.raises(UserError, match="holds positions, whose CVs the system computes: leave out --axes"):
        scored(tmp_path / "x.npy", aldp, axes=("2", "1"))


def test_the_temperature_of_samples(drawn: np.ndarray, tmp_path: Path, aldp: AlanineDipeptide) -> None:
    np.save(tmp_path / "s.npy", drawn)
    colvar_file(tmp_path / "COLVAR", drawn[:500], np.zeros(500))
    for name in ("s.npy", "COLVAR"):
        said = {} if name == "s.npy" else {"bias": "none"}
        hot = scored(tmp_path / name, aldp, temperature=310.0, **said)
        assert hot.temperature == 310.0
        assert any("samples are at 310 K, the reference of aldp is at 300 K" in line for line in hot.warnings)
        assert not scored(tmp_path / name, aldp, temperature=300.0, **said).warnings


def test_arrays_that_are_not_read(drawn: np.ndarray, tmp_path: Path, aldp: AlanineDipeptide) -> None:
    path, ones = tmp_path / "s.npz", np.ones(len(drawn))
    np.savez(path, cvs=drawn, weight=ones)
    with pytest.raises(
        UserError, match="has arrays that are not read, weight: beside 'cvs' or 'positions' it may have"
    ):
        scored(path, aldp)
    np.savez(path, cvs=drawn, weights=ones, log_weights=0 * ones)
    with pytest.raises(UserError, match="has both weights and log_weights: keep one"):
        scored(path, aldp)
    np.savez(path, cvs=drawn, weights=ones)
    np.save(tmp_path / "w.npy", ones)
    with pytest.raises(UserError, match="has weights of its own: leave out --weights"):
        scored(path, aldp, weights=tmp_path / "w.npy")


def test_weights_of_configurations_outside_the_state_space(
    run: tuple[Any, np.ndarray], tmp_path: Path, aldp: AlanineDipeptide
) -> None:
    """One weight for each configuration in the file; those of dropped ones are dropped too."""
    x = run[1].copy()
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(x))
    outside = np.arange(len(x)) % 7 == 0
    x[outside] *= -1
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "inside.npy", x[~outside])
    np.save(tmp_path / "w.npy", weights)
    np.save(tmp_path / "w_inside.npy", weights[~outside])
    np.savez(tmp_path / "both.npz", positions=x, weights=weights)
    found = scored(tmp_path / "x.npy", aldp, weights=tmp_path / "w.npy")
    expected = scored(tmp_path / "inside.npy", aldp, weights=tmp_path / "w_inside.npy")
    assert found.metrics == expected.metrics == scored(tmp_path / "both.npz", aldp).metrics
    with pytest.raises(UserError, match=f"w_inside.npy has .* weights for {len(x):,} samples"):
        scored(tmp_path / "x.npy", aldp, weights=tmp_path / "w_inside.npy")
