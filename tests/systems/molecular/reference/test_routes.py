"""The routes to a reference: estimators on known answers, continuation, and the comparison with a reference."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cgbench.contracts.pmf import PMF, basin_mask
from cgbench.contracts.reference import Reference
from cgbench.errors import UserError
from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.molecular.reference.biased import BiasedRoute
from cgbench_systems.molecular.reference.build import MolecularReferenceBuilder
from cgbench_systems.molecular.reference.comparison import compare_estimate, compare_halves, divergence_check
from cgbench_systems.molecular.reference.route import Route
from cgbench_systems.molecular.reference.umbrella import UmbrellaRoute
from cgbench_systems.molecular.reference.unbiased import UnbiasedRoute, relaxation_time


class SmallBiased(BiasedRoute):
    walkers, block_steps, hills, pace, equilibration, group = 16, 20, 4, 5, 0, 1


class SmallUmbrella(UmbrellaRoute):
    walkers, block_steps, equilibration, pull_steps = 128, 10, 0, 10
    per_side, stiffness, frames, exchange = 8, 4.0, 2, 5


class SmallUnbiased(UnbiasedRoute):
    walkers, block_steps = 16, 20
    source = SmallBiased


class Preparing(SmallBiased):
    """Stopped after a checkpoint within the metadynamics."""

    hills = 41


class Pulling(SmallUmbrella):
    """Stopped after a checkpoint while the walkers are pulled."""

    pull_steps = 12


@pytest.mark.parametrize("kind", [Preparing, Pulling])
def test_a_route_continues_bit_identically_from_its_preparation(
    kind: type[Route], aldp: AlanineDipeptide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgbench_systems.molecular.reference.umbrella.PULL_CHECKPOINT", 5)
    whole = kind(aldp, tmp_path)
    whole.run(1, progress=lambda text: None)
    whole.checkpoint.unlink()

    def stop(route: Route) -> None:
        save(route)
        raise KeyboardInterrupt

    save = kind.save
    for _ in range(2):  # two checkpoints precede the first block
        monkeypatch.setattr(kind, "save", stop)
        stopped = kind(aldp, tmp_path)
        stopped.load()
        with pytest.raises(KeyboardInterrupt):
            stopped.run(1, progress=lambda text: None)
        assert not stopped.blocks
    monkeypatch.setattr(kind, "save", save)
    continued = kind(aldp, tmp_path)
    assert continued.load() and not continued.blocks
    continued.run(1, progress=lambda text: None)
    np.testing.assert_array_equal(np.array(continued.blocks), np.array(whole.blocks))


@pytest.mark.parametrize("kind", [SmallBiased, SmallUmbrella])
def test_a_route_continues_bit_identically(kind: type[Route], aldp: AlanineDipeptide, tmp_path: Path) -> None:
    whole = kind(aldp, tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    whole.run(2, progress=lambda text: None)
    (tmp_path / "parts").mkdir()
    kind(aldp, tmp_path / "parts").run(1, progress=lambda text: None)
    second = kind(aldp, tmp_path / "parts")
    assert second.load() and len(second.blocks) == 1
    second.run(2, progress=lambda text: None)
    np.testing.assert_array_equal(np.array(whole.blocks), np.array(second.blocks))


def test_unbiased_continues_from_biased_and_bit_identically(aldp: AlanineDipeptide, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="starts from route biased"):
        SmallUnbiased(aldp, tmp_path).run(1)
    SmallBiased(aldp, tmp_path).run(1, progress=lambda text: None)
    whole = SmallUnbiased(aldp, tmp_path)
    whole.run(2, progress=lambda text: None)
    whole.checkpoint.unlink()
    SmallUnbiased(aldp, tmp_path).run(1, progress=lambda text: None)
    second = SmallUnbiased(aldp, tmp_path)
    assert second.load()
    second.run(2, progress=lambda text: None)
    np.testing.assert_array_equal(np.array(whole.blocks), np.array(second.blocks))
    assert whole.mean_energy() == second.mean_energy()
    assert len(whole.occupancy) == 3


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_named(content: bytes, aldp: AlanineDipeptide, tmp_path: Path) -> None:
    (tmp_path / "biased.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"biased.pt cannot be read \(.+\); remove it to start over"):
        SmallBiased(aldp, tmp_path).load()


def test_a_checkpoint_of_another_size_is_refused(aldp: AlanineDipeptide, tmp_path: Path) -> None:
    SmallBiased(aldp, tmp_path).save()
    (tmp_path / "biased.pt").rename(tmp_path / "umbrella.pt")
    with pytest.raises(UserError, match="is of aldp, version 1, 16 walkers, not of aldp, version 1, 128 walkers"):
        SmallUmbrella(aldp, tmp_path).load()


def test_walkers_outside_the_state_space_stop_a_route(aldp: AlanineDipeptide, tmp_path: Path) -> None:
    route = SmallBiased(aldp, tmp_path)
    x = aldp.initial_configuration().repeat(3, 1, 1)
    route.check_state_space(x)
    x[1] *= torch.tensor([1.0, 1.0, -1.0])
    x[2, 14, 0] = torch.nan  # of CA's neighbour C
    with pytest.raises(UserError, match="route biased: 2 of 3 walkers left the state space of aldp in block 1"):
        route.check_state_space(x)


def test_umbrella_windows_recover_a_known_density(aldp: AlanineDipeptide, tmp_path: Path) -> None:
    """MBAR recovers a known PMF from samples drawn exactly from each window."""
    route = SmallUmbrella(aldp, tmp_path)
    random = np.random.default_rng(0)
    fine = aldp.cvs.grid()
    energy = 3.0 * np.cos(fine[:, 0]) + 2.0 * np.cos(2 * fine[:, 1]) - 2.0 * np.sin(fine[:, 0] - fine[:, 1])
    frames = 400
    samples = np.zeros((frames, route.walkers, 2))
    for window, centre in enumerate(route.windows.numpy()):
        p = np.exp(-energy - route.stiffness * (1.0 - np.cos(fine - centre)).sum(1))
        for replicate in range(route.replicates):
            drawn = random.choice(len(fine), size=frames, p=p / p.sum())
            samples[:, replicate * len(route.windows) + window] = fine[drawn]
    route.blocks = [samples]
    whole, parts = route.estimates()
    truth = np.exp(-energy).reshape(aldp.cvs.bins)
    truth /= truth.sum()
    for mask in (truth > np.median(truth), fine[:, 0].reshape(truth.shape) > 0):
        assert whole[mask].sum() == pytest.approx(truth[mask].sum(), abs=0.01)
    coarse = [h.reshape(20, 5, 20, 5).sum((1, 3)) for h in (truth, whole)]
    np.testing.assert_allclose(coarse[1], coarse[0], rtol=0.3, atol=2e-4)
    assert parts.shape == (route.replicates, *aldp.cvs.bins)
    assert route.neighbour_overlap() > 0.5


def test_relaxation_time_of_an_exponential() -> None:
    time = np.arange(200) * 0.5
    assert relaxation_time(0.1 + 0.4 * np.exp(-time / 7.0), 0.1, 0.5) == pytest.approx(7.0, rel=0.01)
    mixed = 0.1 + 0.2 * np.exp(-time / 1.0) + 0.2 * np.exp(-time / 7.0)  # the slowest is what matters
    assert relaxation_time(mixed, 0.1, 0.5) == pytest.approx(7.0, rel=0.05)


def invented_reference(aldp: AlanineDipeptide, p: np.ndarray) -> Reference:
    pmf = PMF(aldp.cvs, p)
    basins = {
        b.name: {"population": pmf.population(basin_mask(aldp.cvs, b.contains)), "population_standard_error": 1e-5}
        for b in aldp.basins
    }
    return Reference(pmf, np.zeros_like(p), 1e-5, "invented", "0", {"basins": basins})


def test_comparison_passes_what_agrees_and_fails_what_does_not(aldp: AlanineDipeptide) -> None:
    random = np.random.default_rng(0)
    p = aldp.reference().pmf.probability
    parts = random.multinomial(200_000, p.ravel(), size=8).reshape(8, *p.shape).astype(float)
    checks = compare_estimate(aldp, invented_reference(aldp, p), "same", parts.sum(0), parts)
    assert len(checks) == len(aldp.basins) + 1 and all(check.passed for check in checks)
    tilted = p * np.where(aldp.cvs.grid()[:, 0].reshape(p.shape) > 0, 1.2, 1.0)
    checks = compare_estimate(aldp, invented_reference(aldp, tilted / tilted.sum()), "other", parts.sum(0), parts)
    assert not all(check.passed for check in checks)


def test_a_basin_that_an_estimate_never_visited_fails(aldp: AlanineDipeptide) -> None:
    """The divergence over visited bins alone is as small as for an estimate that agrees."""
    random = np.random.default_rng(0)
    p = aldp.reference().pmf.probability
    alpha = basin_mask(aldp.cvs, next(basin for basin in aldp.basins if basin.name == "alphaR").contains)
    without = np.where(alpha, 0.0, p)
    parts = random.multinomial(200_000, without.ravel() / without.sum(), size=8).reshape(8, *p.shape).astype(float)
    check = divergence_check("divergence", p, parts.sum(0), parts, invented_reference(aldp, p))
    assert not check.passed and f"{p[parts.sum(0) == 0].sum():.1e} of the probability in the other bins" in check.detail


def test_halves_that_drift_do_not_pass(aldp: AlanineDipeptide) -> None:
    """Replicates that relax alike agree with each other at all times; only the halves show that they drift."""
    random = np.random.default_rng(1)
    p = aldp.reference().pmf.probability
    drifted = p * np.where(aldp.cvs.grid()[:, 1].reshape(p.shape) > 0, 1.2, 1.0)
    first, second, last = (
        random.multinomial(200_000, q.ravel() / q.sum(), size=8).reshape(8, *p.shape).astype(float)
        for q in (p, p, drifted)
    )
    assert all(check.passed for check in compare_halves(aldp, "same", first, second))
    checks = compare_halves(aldp, "drifting", first, last)
    assert [check.passed for check in checks[:2]] == [False, False]
    assert checks[1].name == f"drifting: halves agree on {aldp.basins[1].name}"


def test_a_missing_checkpoint_is_named(aldp: AlanineDipeptide, tmp_path: Path) -> None:
    builder = MolecularReferenceBuilder(aldp, aldp.openmm_system(), tmp_path, tmp_path / "reference", {})
    with pytest.raises(UserError, match="route biased has no checkpoint"):
        builder.certify()


def test_weights_are_those_of_the_frozen_bias(aldp: AlanineDipeptide, tmp_path: Path) -> None:
    route = SmallBiased(aldp, tmp_path)
    route.run(1, progress=lambda text: None)
    s = aldp.collective_variables(route.dynamics.positions).double()
    ratio = route.weights() * torch.exp(-route.bias.energy(s))
    np.testing.assert_allclose(ratio.numpy(), float(ratio[0]), rtol=1e-9)
    grid = torch.from_numpy(aldp.cvs.grid())
    np.testing.assert_allclose(route.exposure().ravel(), np.exp(15.0 - route.bias.energy(grid).numpy()))


def test_windows_exchange_neighbours_by_metropolis(aldp: AlanineDipeptide, tmp_path: Path) -> None:
    route = SmallUmbrella(aldp, tmp_path)
    s = route.goal.clone()
    label = torch.arange(route.walkers).float()
    route.stiffness = math.log(2.0) / (2 * (1 - math.cos(2 * math.pi / route.per_side)))
    swapped = 0.0
    for attempt in range(40):  # every walker at the centre of its window: an exchange costs ln 2
        route.dynamics.positions = label[:, None, None].expand(-1, 22, 3).clone()
        route._exchange(s)
        order = route.dynamics.positions[:, 0, 0].long()
        moved = order != torch.arange(route.walkers)
        swapped += float(moved.double().mean())
        assert torch.equal(order[order], torch.arange(route.walkers))  # walkers are exchanged in pairs
        assert torch.equal(order // 64, torch.arange(route.walkers) // 64)  # within one replicate
        step = torch.remainder(route.goal[order] - route.goal + math.pi, 2 * math.pi) - math.pi
        axis = attempt % 2
        assert float(step[:, 1 - axis].abs().max()) < 1e-6
        assert float((step[moved, axis].abs() - 2 * math.pi / route.per_side).abs().max()) < 1e-5
    assert swapped / 40 == pytest.approx(0.5, abs=0.03)
    route.stiffness = 50.0
    route.dynamics.positions = label[:, None, None].expand(-1, 22, 3).clone()
    route._exchange(s)
    assert torch.equal(route.dynamics.positions[:, 0, 0], label)  # the exchange costs too much
