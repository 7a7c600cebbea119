"""Diverged walkers are restored and counted, and never enter a histogram, a bias or MBAR."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.anomalies import Anomalies
from cgbench.counting.ledger import Ledger
from cgbench.running.run import prepare
from cgbench_methods.lib.estimators.fourier_fit import FourierFit, fit
from cgbench_methods.lib.estimators.mbar import Frames, Windows, statistical_inefficiency
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_methods.lib.sampling.metropolis import Metropolis
from cgbench_methods.lib.sampling.restraints import HarmonicRestraints
from cgbench_methods.lib.sampling.walkers import BLOCK, advance
from cgbench_methods.metadynamics.production import Production
from cgbench_methods.umbrella.estimate import combine, warnings_of
from cgbench_systems.muller_brown import MullerBrown

LINE = CollectiveVariables(("s",), (-3.0,), (3.0,), (False,), (60,))
RING = CollectiveVariables(("phi",), (-math.pi,), (math.pi,), (True,), (40,))


def wells(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return 0.5 * x.square().flatten(1).sum(1), x.clone()


def langevin(energy=wells, walkers: int = 4) -> Langevin:
    start = 0.1 * torch.ones(walkers, 2, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    return Langevin(
        energy, torch.ones(2).double(), 300.0, time_step=0.01, friction=1.0, positions=start, generator=generator
    )


def problem() -> Problem:
    system = MullerBrown()
    system.traits = frozenset({"gradient"})  # no coordinates, hence no state space: the walkers here are made up
    return Problem(system, Ledger(None), Anomalies())


# ---- dynamics -------------------------------------------------------------------------------------


def test_a_walker_with_a_nan_position_is_restored() -> None:
    dynamics, twin = langevin(), langevin()
    for one in (dynamics, twin):
        one.step(10)
        assert not one.restore_diverged().any()
    kept, velocities = dynamics.positions.clone(), dynamics.velocities.clone()
    dynamics.step(5)
    dynamics.positions[2, 1, 0] = torch.nan
    dynamics.step(5)
    twin.step(10)
    assert dynamics.restore_diverged().tolist() == [False, False, True, False]
    assert torch.equal(dynamics.positions[2], kept[2])
    assert torch.equal(dynamics.velocities[2], -velocities[2])
    others = [0, 1, 3]
    assert torch.equal(dynamics.positions[others], twin.positions[others])
    assert torch.equal(dynamics.velocities[others], twin.velocities[others])
    dynamics.step(10)
    assert dynamics.positions.isfinite().all() and not dynamics.restore_diverged().any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_walker_without_a_finite_energy_within_a_block_has_diverged(value: float) -> None:
    calls = []

    def hole(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy, gradient = wells(x)
        calls.append(len(x))
        if len(calls) == 3:
            energy[0] = value
        return energy, gradient

    dynamics = langevin(hole)
    start = dynamics.positions.clone()
    dynamics.step(8)
    assert dynamics.positions.isfinite().all()
    assert dynamics.restore_diverged().tolist() == [True, False, False, False]
    assert torch.equal(dynamics.positions[0], start[0])


def test_a_loaded_state_is_the_one_to_restore() -> None:
    dynamics = langevin()
    dynamics.step(10)
    state = {name: value.clone() for name, value in dynamics.state_dict().items()}
    other = langevin()
    other.load_state_dict(state)
    other.step(2)
    other.positions = other.positions * torch.nan
    assert other.restore_diverged().all()
    assert torch.equal(other.positions, state["positions"])


def test_a_block_that_starts_at_an_infinite_energy_does_not_catch_its_walker() -> None:
    """The energy at the end of a block is not known: only the next step evaluates it."""
    forbidden: list[torch.Tensor] = []

    def hole(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy, gradient = wells(x)
        for place in forbidden:
            energy = torch.where((x == place).flatten(1).all(dim=1), torch.inf, energy)
        return energy, gradient

    dynamics = langevin(hole)
    start = dynamics.positions.clone()
    dynamics.step(5)
    assert not dynamics.restore_diverged().any()
    forbidden.append(dynamics.positions[0])
    others = dynamics.positions[1:].clone()
    state = dynamics.state_dict()
    for _ in range(2):
        dynamics.step(5)
        assert dynamics.restore_diverged().tolist() == [True, False, False, False]
        assert torch.equal(dynamics.positions[0], start[0]) and not torch.equal(dynamics.positions[1:], others)
        dynamics.step(5)
        assert not dynamics.restore_diverged().any()
        dynamics = langevin(hole)
        dynamics.load_state_dict(state)  # and so it is after a resume


def test_blocks_are_counted_and_do_not_change_the_trajectory() -> None:
    given, dynamics, twin = problem(), langevin(), langevin()
    diverged = advance(given, dynamics, 2 * BLOCK + 7)
    twin.step(2 * BLOCK + 7)
    assert torch.equal(dynamics.positions, twin.positions) and not diverged.any()
    assert given._anomalies.state_dict()["diverged_walker"] == [0, 3 * 4]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("in_bias", [False, True])
def test_metropolis_rejects_non_finite_energies(value: float, in_bias: bool) -> None:
    def hole(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, 0] > 0.5, value, 0.0)

    def flat(x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), dtype=x.dtype)

    energy, bias = (flat, hole) if in_bias else (hole, None)
    start = torch.zeros(200, 1, dtype=torch.float64)
    sampler = Metropolis(energy, start, 0.5, torch.Generator().manual_seed(2), bias)
    for _ in range(50):
        sampler.step()
        assert (sampler.positions <= 0.5).all() and sampler.energies.isfinite().all()
    assert not sampler.restore_diverged().any() and sampler.positions.std() > 0.5


def test_a_metropolis_walker_without_a_finite_energy_counts_as_diverged_until_it_finds_one() -> None:
    def half(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, 0] > 0.5, torch.inf, 0.0)

    sampler = Metropolis(half, torch.tensor([[0.0], [0.9]]).double(), 0.3, torch.Generator().manual_seed(2))
    assert not sampler.restore_diverged().any()  # nothing is known yet
    sampler.step()
    assert sampler.restore_diverged()[1] == bool(sampler.positions[1] > 0.5)
    sampler.step(200)
    assert not sampler.restore_diverged().any()


# ---- what is counted ------------------------------------------------------------------------------


def test_non_finite_values_are_in_no_bin() -> None:
    for cvs in (LINE, RING):
        s = np.array([[0.1], [np.nan], [np.inf], [-np.inf]])
        assert cvs.bin_index(s).tolist()[1:] == [-1, -1, -1] and cvs.bin_index(s)[0] >= 0
        assert cvs.histogram(s).sum() == 1


def test_md_ignores_the_blocks_in_which_a_walker_diverges(tmp_path: Path) -> None:
    job = prepare("aldp", "md", preset="smoke", overrides=("walkers=3", "equilibration_steps=0"), out=tmp_path)
    method = job.method
    step, calls = method.dynamics.step, []

    def throwing(steps: int = 1) -> None:
        step(steps)
        calls.append(steps)
        if len(calls) == 4:
            method.dynamics.positions[1, 3] = torch.nan  # an atom that no collective variable looks at

    method.dynamics.step = throwing
    method._block(10)
    assert method.counts[0].sum((0, 2)).tolist() == [10, 0, 10]
    method._block(10)
    assert method.counts[0].sum((0, 2)).tolist() == [20, 10, 20]
    assert job.anomalies.counts()["diverged_walker"] == (1, 6)


def test_a_diverged_walker_adds_no_hill_and_no_sample(tmp_path: Path) -> None:
    job = prepare("aldp", "metadynamics", preset="smoke", overrides=("walkers=3",), out=tmp_path)
    sampler = job.method.sampler
    step = sampler.dynamics.step

    def throwing(steps: int = 1) -> None:
        step(steps)
        sampler.dynamics.positions[1:] = torch.nan

    sampler.dynamics.step = throwing
    sampler.deposit()
    one_hill = sampler.bias_on_grid()
    assert np.isfinite(one_hill).all()
    height, widths = job.config.height / 3, job.config.widths(job.problem.cvs)
    volume = height * (2 * math.pi) * widths[0] * widths[1] / (2 * math.pi) ** 2
    assert one_hill.mean() == pytest.approx(volume, rel=1e-6)
    s, bias = sampler.sample()
    assert np.isfinite(s[0]).all() and np.isnan(s[1:]).all()
    production = Production(job.problem.cvs, one_hill, 3, 2)
    production.note(s, bias)
    assert production.moments[0] == 1 and np.isfinite(production.histograms).all()


def test_umbrella_frames_of_diverged_walkers_are_marked(tmp_path: Path) -> None:
    job = prepare("muller_brown", "umbrella", preset="smoke", out=tmp_path)
    method = job.method
    walkers = method.walkers
    walkers.start()
    restore = walkers.dynamics.restore_diverged
    walkers.dynamics.restore_diverged = lambda: restore() | (torch.arange(len(walkers)) == 1)
    frames = walkers.sample(10)
    assert frames.s[:, 1].isnan().all() and frames.usable.sum() == frames.usable.numel() - len(frames.s)
    assert walkers.dynamics.positions.isfinite().all()


def harmonic(frames: int = 400) -> tuple[HarmonicRestraints, Frames]:
    centres, random = np.linspace(-2.0, 2.0, 5), np.random.default_rng(0)
    s = random.normal(8.0 * centres / 9.0, 1 / 3.0, size=(frames, 5))
    restraints = HarmonicRestraints(LINE, torch.from_numpy(centres)[:, None], (8.0,))
    return restraints, Frames(torch.from_numpy(s)[:, :, None], torch.arange(5), torch.zeros(5, dtype=torch.long))


def test_mbar_ignores_marked_entries() -> None:
    restraints, frames = harmonic()
    marked = frames.s.clone()
    marked[100:, 3] = torch.nan
    given = Frames(marked, frames.window, frames.replicate)
    rest = torch.tensor([True, True, True, False, True])
    apart = [frames.part(slice(None), rest), Frames(frames.s[:100, 3:4], torch.tensor([3]), torch.tensor([0]))]
    one = Windows(restraints, [given], np.zeros(5), frames=10**6)
    two = Windows(restraints, apart, np.zeros(5), frames=10**6)
    np.testing.assert_allclose(one.free_energy, two.free_energy, atol=1e-6)
    np.testing.assert_allclose(one.histogram(LINE, [given]), two.histogram(LINE, apart), rtol=1e-6)
    assert statistical_inefficiency(LINE, given, restraints.centres) >= 1.0
    options = {"cutoff": 5.0, "mbar_frames": 10**6, "min_overlap": 0.01, "stretches_for_errors": 4}
    combined = combine(LINE, restraints, [given], np.zeros(5), **options)
    assert combined.facts["frames"] == 4 * 400 + 100 and np.isfinite(combined.pmf.free_energy_std).all()


def test_an_empty_window_is_reported_and_without_any_frame_mbar_fails() -> None:
    restraints, frames = harmonic()
    marked = frames.s.clone()
    marked[:, 2] = torch.nan
    options = {"cutoff": 5.0, "mbar_frames": 10**6, "min_overlap": 0.01}
    combined = combine(LINE, restraints, [Frames(marked, frames.window, frames.replicate)], np.zeros(5), **options)
    assert combined.facts["empty_windows"] == 1 and np.isfinite(combined.windows.free_energy).all()
    assert (combined.pmf.probability > 0).all()
    nothing = Frames(torch.full_like(marked, torch.nan), frames.window, frames.replicate)
    with pytest.raises(ValueError, match="diverged_walker"):
        combine(LINE, restraints, [nothing], np.zeros(5), **options)
    outside = Frames(torch.full_like(marked, 5.0), frames.window, frames.replicate)
    with pytest.raises(ValueError, match="within the domain"):
        combine(LINE, restraints, [outside], np.zeros(5), **options)


def test_mbar_that_did_not_converge_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from cgbench_methods.lib.estimators import mbar
    from cgbench_methods.umbrella import cells

    restraints, frames = harmonic()
    options = {"cutoff": 5.0, "mbar_frames": 10**6, "min_overlap": 0.01}
    assert combine(LINE, restraints, [frames], np.zeros(5), **options).facts["mbar_residual"] < 1e-4

    def unfinished(objective, newton_step, start, **rest):
        point = start + np.array([0.0, 0.5, -0.5, 1.0, 0.0])
        return point, objective(point)[1]

    with monkeypatch.context() as patch:
        patch.setattr(cells, "minimise", unfinished)
        facts = combine(LINE, restraints, [frames], np.zeros(5), **options).facts
    assert facts["mbar_residual"] > 0.1 and "did not converge" in warnings_of(facts)[0]
    monkeypatch.setattr(mbar, "solve", lambda *rest: type("Lost", (), {"f_k": np.full(5, np.nan)})())
    with pytest.raises(ValueError, match="no finite free energies"):
        combine(LINE, restraints, [frames], np.zeros(5), **options)


# ---- estimates ------------------------------------------------------------------------------------


def test_the_fit_refuses_non_finite_input_and_is_positive_everywhere() -> None:
    histogram = np.ones(60)
    for broken in (np.nan, np.inf):
        spoilt = histogram.copy()
        spoilt[3] = broken
        with pytest.raises(ValueError, match="must be finite"):
            fit(LINE, spoilt, np.ones(60), 3)
        with pytest.raises(ValueError, match="must be finite"):
            fit(LINE, histogram, spoilt, 3)
    with pytest.raises(ValueError, match="nothing was sampled"):
        fit(LINE, 0 * histogram, np.ones(60), 3)
    steep = FourierFit(LINE, 2, np.array([0.0, 5000.0, 0.0, 0.0, 0.0]))
    assert (steep.probability() > 0).all()
    assert (PMF(LINE, steep.probability()).probability > 0).all()


def test_production_under_a_huge_bias_and_with_a_single_group() -> None:
    bias = np.linspace(0.0, 2000.0, 60)
    production = Production(LINE, bias, 4, 4)
    assert np.isfinite(production.exposure).all()
    production = Production(LINE, np.zeros(60), 4, 4)
    s = np.full((4, 1), np.nan)
    for value in np.linspace(-2.0, 2.0, 50):
        s[0] = value
        production.note(s, np.zeros(4))
    pmf = production.estimate((2, 3))
    assert np.isfinite(pmf.probability).all() and pmf.free_energy_std is None


def test_anomalies_are_checked_at_regular_intervals() -> None:
    from cgbench.counting.anomalies import TooManyAnomalies

    given = problem()
    with pytest.raises(TooManyAnomalies, match="skipped_step"):
        for _ in range(200):
            given.report_anomaly("skipped_step", 1, 1)


def test_the_error_of_a_broken_pmf_counts_its_bins() -> None:
    with pytest.raises(ValueError, match="59 of 60 are not finite"):
        PMF(LINE, np.r_[1.0, np.full(59, np.nan)])
