"""Side chains in a reference: their torsions, starts in all rotamers, biases, and whether walkers mix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgbench.cli.main import main
from cgbench.contracts.pmf import basin_mask
from cgbench.running.registry import load
from cgbench.scoring.divergences import forward_kld
from cgbench.scoring.reference_files import load_reference
from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.molecular.geometry import dihedral
from cgbench_systems.molecular.reference.biased import BiasedRoute
from cgbench_systems.molecular.reference.route import Route
from cgbench_systems.molecular.reference.side_chains.bias import BINS, TorsionBias
from cgbench_systems.molecular.reference.side_chains.mixing import Mixing, wells
from cgbench_systems.molecular.reference.side_chains.torsions import SideTorsions
from cgbench_systems.molecular.reference.umbrella import UmbrellaRoute
from cgbench_systems.suite import phenylalanine, serine

PLUGIN = Path(__file__).with_name("small_molecule.py")


class SmallBiased(BiasedRoute):
    walkers, block_steps, hills, pace, equilibration, group = 24, 20, 4, 5, 0, 1
    walker_groups = 4


class SmallUmbrella(UmbrellaRoute):
    walkers, block_steps, equilibration, pull_steps = 64, 10, 0, 100
    per_side, stiffness, frames, exchange = 4, 4.0, 2, 5


@pytest.fixture(scope="module")
def ser() -> Any:
    return serine()


# ---- torsions and starts ----------------------------------------------------------------------------


def test_side_torsions_are_found(ser: Any, aldp: AlanineDipeptide) -> None:
    assert SideTorsions(ser).names == ["N-CA-CB-OG", "CA-CB-OG-HG"]
    # half a turn about CB-CG exchanges equal atoms of the ring
    assert SideTorsions(phenylalanine()).names == ["N-CA-CB-CG"]
    assert len(SideTorsions(aldp)) == 0


def test_torsions_and_their_gradient_are_those_of_automatic_differentiation(ser: Any) -> None:
    torsions = SideTorsions(ser)
    generator = torch.Generator().manual_seed(1)
    x = ser.initial_configuration()[None].repeat(10, 1, 1)
    x = (x + 0.02 * torch.randn(x.shape, generator=generator, dtype=x.dtype)).requires_grad_()
    atoms = (*ser.torsions, *torsions.atoms)
    expected = torch.stack([dihedral(*(x[:, i] for i in quadruple)) for quadruple in atoms], dim=1)
    found = torsions.with_cvs(x)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(found.shape, generator=generator, dtype=x.dtype)
    gradients = [torch.autograd.grad((angles * upstream).sum(), x)[0] for angles in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_starts_are_relaxed_and_in_all_rotamers(ser: Any) -> None:
    torsions = SideTorsions(ser)
    x = torsions.starts_at_minimum(72)
    sectors = np.floor(torsions.angles(x).numpy() / (2 * np.pi / 3)).astype(int) % 3
    assert len({tuple(row) for row in sectors}) == 9
    torch.testing.assert_close(ser.collective_variables(x), ser.collective_variables(x[:1]).repeat(72, 1))
    assert bool(ser.coordinates.in_state_space(x).all())
    lowest = float(ser.reduced_energy(ser.initial_configuration()[None]))
    assert float(ser.reduced_energy(x).max()) < lowest + 15.0


# ---- bias and rotamers ------------------------------------------------------------------------------


def test_a_torsion_bias_lowers_barriers_to_its_level() -> None:
    angle = (np.arange(BINS) + 0.5) * 2 * np.pi / BINS - np.pi
    rows = np.array([4 * (1 + np.cos(3 * angle)), 5 * (1 + np.cos(angle - 1))])
    bias = TorsionBias.flattening(rows)
    along = torch.from_numpy(np.stack([angle] * 2, axis=1))
    left = rows[0] + TorsionBias.flattening(rows[:1]).energy(along[:, :1]).numpy()
    np.testing.assert_allclose(left, np.minimum(rows[0], TorsionBias.level), atol=0.2)
    at = torch.tensor([[0.3, -2.0]], dtype=torch.float64, requires_grad=True)
    energy, slope = bias.energy_and_gradient(at)
    torch.testing.assert_close(torch.autograd.grad(bias.energy(at).sum(), at)[0], slope)
    torch.testing.assert_close(energy, bias.energy(at))


def test_metadynamics_finds_the_free_energy_of_a_torsion() -> None:
    """Exact sampling of the biased distribution in place of dynamics: -U g/(g-1) becomes the free energy."""
    angle = (np.arange(BINS) + 0.5) * 2 * np.pi / BINS - np.pi
    true = 4 * (1 + np.cos(3 * angle)) + (1 + np.cos(angle))
    bias, random = TorsionBias(1), np.random.default_rng(0)
    for _ in range(150):
        p = np.exp(-true - bias.terms[0].on_grid())
        drawn = random.choice(angle, (500, 1), p=p / p.sum())
        bias.deposit(torch.from_numpy(drawn), 100)
    found = bias.free_energies()[0]
    assert np.abs(found - (true - true.min())).max() < 0.8
    np.testing.assert_allclose(bias.freeze()[0], found)
    np.testing.assert_allclose(bias.terms[0].on_grid(), -np.maximum(found - bias.level, 0), atol=0.2)


def test_wells_are_divided_at_the_barriers() -> None:
    angle = (np.arange(BINS) + 0.5) * 2 * np.pi / BINS - np.pi
    minima, well = wells(3 * (1 + np.cos(3 * angle - 0.2)))  # minima at -176, -56 and 64 degrees
    np.testing.assert_allclose(np.degrees(angle[minima]), [-176, -56, 64], atol=5)
    assert np.abs(np.bincount(well) - 24).max() <= 1
    assert well[minima].tolist() == [0, 1, 2]
    # a barrier lower than 1 kT divides nothing
    assert len(wells(0.3 * (1 + np.cos(3 * angle)))[0]) == 1
    assert len(wells(np.zeros(BINS))[0]) == 1


def mixing_of(stuck: bool) -> Mixing:
    """Walkers that jump between two wells at random, or stay in that of their start."""
    angle = (np.arange(BINS) + 0.5) * 2 * np.pi / BINS - np.pi
    random = np.random.default_rng(0)
    start = np.where(np.arange(100) % 2, np.pi / 2, -np.pi / 2)[:, None]
    mixing = Mixing((3 * (1 + np.cos(2 * angle)))[None], start)
    for _ in range(200):
        now = start if stuck else np.where(random.random((100, 1)) < 0.7, np.pi / 2, -np.pi / 2)
        mixing.update(torch.from_numpy(now), np.ones(100))
    return mixing


def test_walkers_that_mix_pass_and_others_do_not() -> None:
    (passed,) = mixing_of(stuck=False).checks(["chi"])
    assert passed.passed, passed
    mixing = mixing_of(stuck=True)
    (failed,) = mixing.checks(["chi"])
    assert not failed.passed and "100 of 100 walkers without any" in failed.detail
    (facts,) = mixing_of(stuck=False).facts(["chi"])
    assert facts["populations"] == pytest.approx([0.3, 0.7], abs=0.02)
    assert facts["population_standard_errors"][0] == pytest.approx(np.sqrt(0.21 / 20_000), rel=0.3)
    assert facts["transitions_per_walker"] == pytest.approx(199 * 0.42, rel=0.05)
    again = Mixing.from_state(mixing.state_dict())
    assert again.facts(["chi"]) == mixing.facts(["chi"])


# ---- routes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SmallBiased, SmallUmbrella])
def test_a_route_with_side_chains_continues_bit_identically(kind: type[Route], ser: Any, tmp_path: Path) -> None:
    whole = kind(ser, tmp_path / "whole")
    whole.folder.mkdir()
    whole.run(2, progress=lambda text: None)
    part = kind(ser, tmp_path)
    part.run(1, progress=lambda text: None)
    continued = kind(ser, tmp_path)
    assert continued.load()
    continued.run(2, progress=lambda text: None)
    np.testing.assert_array_equal(np.array(continued.blocks), np.array(whole.blocks))
    assert np.isfinite(np.array(whole.blocks)).all()
    if isinstance(whole, SmallBiased) and isinstance(continued, SmallBiased):
        np.testing.assert_array_equal(continued.exposure(), whole.exposure())
        assert whole.mixing is not None and continued.mixing is not None
        np.testing.assert_array_equal(continued.mixing.histograms, whole.mixing.histograms)


# ---- a reference, end to end ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder with the reference of a chain with a side-chain torsion, and the name of the chain."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("side_chain")
    name = f"{shutil.copy(PLUGIN, folder)}:SideChain"
    command = ["reference", "build", name, "--threads", "1", "--out", str(folder / "work"), "--certify", "--compare"]
    assert main(command) == 0
    return folder, name


def test_a_reference_with_a_side_chain_is_the_exact_one(built: tuple[Path, str]) -> None:
    folder, name = built
    system = load("system", name)()
    reference, exact = load_reference(folder / "reference", system.cvs), system.exact()
    assert forward_kld(exact.probability, reference.pmf.probability) < 5 * reference.noise_floor
    for basin in system.basins:
        certified = reference.details["basins"][basin.name]
        true = exact.population(basin_mask(system.cvs, basin.contains))
        assert certified["population"] == pytest.approx(true, abs=4 * certified["population_standard_error"])
    (torsion,) = reference.details["side_torsions"]
    found, error = np.array(torsion["populations"]), np.array(torsion["population_standard_errors"])
    order = np.argsort((np.array(torsion["wells_degrees"]) + 120) % 360)  # -60, 60, 180
    assert np.abs((found[order] - system.exact_rotamers()) / error[order]).max() < 4
    assert torsion["transitions_per_walker"] > 4
    checks = json.loads((folder / "reference" / "reference.json").read_text())["checks"]
    assert all(check["passed"] for check in checks), checks
    checks = [check for check in checks if not check["name"].startswith("production: halves agree on ")]
    assert checks[0]["name"] == "rotamers of 2-3-4-5"
    assert {check["name"].partition(",")[0] for check in checks[1:]} == {
        "umbrella + MBAR",
        "unbiased from weighted starts",
        "OpenMM dynamics",
    }


def test_it_is_verified_and_sampled(built: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    _, name = built
    assert main(["reference", "verify", name, "--threads", "1"]) == 0, capsys.readouterr().out
    assert main(["reference", "samples", name, "--threads", "1"]) == 0
    system = load("system", name)()
    angles = SideTorsions(system).angles(system.reference_samples())[:, 0].numpy()
    counts = np.bincount(np.floor((angle_from(angles)) / 120).astype(int), minlength=3) / len(angles)
    exact = system.exact_rotamers()
    assert np.abs((counts - exact) / np.sqrt(exact * (1 - exact) / len(angles))).max() < 4


def angle_from(angles: np.ndarray) -> np.ndarray:
    """Angles in degrees above -120."""
    return (np.degrees(angles) + 120) % 360


def test_a_reference_without_the_side_chain_is_refused(
    built: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, name = built
    path = folder / "reference" / "reference.json"
    text = path.read_text()
    record = json.loads(text)
    del record["side_torsions"]
    path.write_text(json.dumps(record))
    try:
        assert main(["reference", "verify", name, "--threads", "1"]) == 2
        assert "knows 0 side-chain torsions, the molecule has 1 (2-3-4-5)" in capsys.readouterr().err
    finally:
        path.write_text(text)
