"""The whole method against exact PMFs: Müller-Brown, and three coupled angles with several maps and states."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgbench.conformance import CHECKS, Pair
from cgbench.contracts.maps import Map
from cgbench.contracts.problem import Problem
from cgbench.contracts.system import System, maps_of
from cgbench.counting.ledger import Ledger
from cgbench.errors import UserError
from cgbench.running.run import prepare
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.opes.config import OPESConfig
from cgbench_methods.opes.estimate import Reweighted
from cgbench_methods.opes.sampler import SharedWalkers
from cgbench_systems.muller_brown import MullerBrown, exact_probability

FILE = Path(__file__).parents[2] / "examples" / "three_angles.py"
ANGLES = f"{FILE}:ThreeAngles"
SHORT = (
    "evaluations=300000",
    "walkers=96",
    "pace=50",
    "stride=5",
    "estimates=2",
    "sigma_paces=5",
    "barrier=12",
    "bias_factor=12",
)


def three_angles() -> System:
    spec = importlib.util.spec_from_file_location("three_angles", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ThreeAngles()


def walkers(system: System, seed: int = 0, **options: Any) -> SharedWalkers:
    config = OPESConfig(**({"walkers": 16, "pace": 10, "stride": 5} | options))
    return SharedWalkers(Problem(system, Ledger()), config, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "settings", [(), ("variant=explore",), ("freeze=0.3", "sigma=[0.1]")], ids=["metad", "explore", "frozen"]
)
def test_recovers_the_exact_pmf_of_muller_brown(settings: tuple[str, ...], tmp_path) -> None:
    """From one minimum over a barrier of 10 kT, by 3e5 evaluations."""
    overrides = [*SHORT, *settings]
    record = prepare("muller_brown", "opes", overrides=overrides, out=tmp_path, threads=1, seed=1).execute()
    assert record.status == "finished" and 0.98 * 300_000 < record.evaluations.total <= 300_000
    assert record.metrics["forward_kld"] < 5e-3
    assert all(abs(value) < 0.4 for name, value in record.metrics.items() if name.startswith("delta_f_error"))
    found = record.diagnostics
    assert found["reliable"] and found["bias_range_kT"] > 6.0 and found["round_trips_per_walker"]["s"] > 0.5
    steps, frozen = record.evaluations.total // 96 - 1, "freeze" in "".join(settings)
    # walkers beyond the ends of the domain deposit nothing
    assert found["deposits"] == pytest.approx(96 * (0.3 * steps if frozen else steps - 250) / 50, rel=0.15)
    phases = {"build_bias", "production"} if frozen else {"measure_widths", "production"}
    assert set(record.evaluations.by_phase) == phases
    if not frozen:
        assert record.evaluations.by_phase["measure_widths"] == 96 * (5 * 50 + 1)  # the start is evaluated too
    json.dumps(found)


@pytest.mark.parametrize("settings", [(), ("cvs=[a, c]",), ("cvs=[b]", "variant=explore")], ids=["three", "two", "one"])
def test_weights_recover_all_maps_and_states(settings: tuple[str, ...], tmp_path) -> None:
    """The bias acts on three angles, two or one of them; the exact PMFs of pairs come from the weights alone."""
    overrides = ["evaluations=200000", "walkers=256", "pace=20", "barrier=6", "step_size=0.6", "estimates=1"]
    overrides += ["fit_orders=[2, 3, 4]", "groups=4", "sigma_min=0.06", "sigma=[0.5,0.5,0.5]"]
    if settings:
        overrides[-1] = "sigma=[0.5,0.5]" if "c]" in settings[0] else "sigma=[0.5]"
    job = prepare(ANGLES, "opes", overrides=[*overrides, *settings], out=tmp_path, threads=1, seed=2)
    record = job.execute()
    assert record.status == "finished" and record.metrics["forward_kld"] < 0.01
    assert abs(record.metrics["delta_f_error/back"]) < 0.3
    assert set(record.diagnostics["maps"]) == {"a and b", "b and c"} and record.claimed_errors is not None
    chosen = {0: ["a", "b", "c"], 1: ["a", "c"], 2: ["b"]}[len(settings)]
    assert record.diagnostics["biased_cvs"] == chosen and len(job.method.walkers.kernels.first_widths) == len(chosen)


def drawn(count: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Samples of 64 walkers from Müller-Brown under a bias that grows with time, and the exact probabilities."""
    cvs, p = MullerBrown().cvs, exact_probability(MullerBrown().cvs)
    random = np.random.default_rng(seed)
    samples = []
    for strength in np.linspace(0.5, 0.7, count):
        bias = strength * np.log(p / p.max()).clip(min=-10.0)
        flat = p * np.exp(-bias)
        cell = random.choice(len(p), size=64, p=flat / flat.sum())
        place = cvs.grid()[cell, 0] + (random.random(64) - 0.5) * 0.036
        # a constant makes the biases of all times normalise to the same density, as those of the kernels nearly do
        samples.append(np.column_stack([bias[cell] + np.log(flat.sum()), place]))
    return torch.from_numpy(np.array(samples)).float(), p


def test_errors_are_those_of_independent_runs() -> None:
    """So few samples leave the fit a bias several times its scatter, which the errors contain."""
    cvs = MullerBrown().cvs
    runs = [Reweighted(drawn(30, seed)[0], 8).pmf(Map((0,), cvs), (5, 8, 11, 14))[0] for seed in range(12)]
    p = exact_probability(cvs)
    low = p > 1e-3 * p.max()
    errors = np.array([np.log(p) - np.log(pmf.probability) for pmf in runs])
    errors = (errors - (errors @ p)[:, None])[:, low]
    claimed = np.array([pmf.free_energy_std for pmf in runs])[:, low]
    assert 0.8 < np.mean(np.abs(errors) < 1.96 * claimed) < 0.99
    assert 0.5 < np.sqrt(np.mean(claimed**2) / np.mean(errors**2)) < 1.5
    assert np.mean(errors.std(axis=0)) < 0.5 * np.sqrt(np.mean(errors**2))


def test_weights_recover_the_exact_pmf() -> None:
    """The bias covers half of the PMF, and changes with time; only with weights is the PMF right."""
    samples, p = drawn(200, 1)
    cvs = MullerBrown().cvs
    found = Reweighted(samples, 8).pmf(Map((0,), cvs), (8,))[0]
    samples[..., 0] = 0.0
    unweighted = Reweighted(samples, 8).pmf(Map((0,), cvs), (8,))[0]
    assert forward_kld(p, found.probability) < 3e-3 and forward_kld(p, unweighted.probability) > 0.1


def test_unusable_samples_have_no_weight_and_few_walkers_are_grouped_in_time() -> None:
    samples, _ = drawn(64, 0)
    spoilt = samples.clone()
    spoilt[::2, 5] = torch.nan
    one = Reweighted(spoilt, 8)
    assert one.number == samples[..., 0].numel() - 32
    log = samples[..., 0][spoilt[..., 0].isfinite()].double()
    size = float(log.exp().sum() ** 2 / (2 * log).exp().sum())
    assert one.effective_sample_size == pytest.approx(size)
    single = Reweighted(samples[:, :1], 4)
    assert np.bincount(single._group).tolist() == [16, 16, 16, 16]
    assert len(np.unique(np.diff(np.flatnonzero(single._group == 0)))) > 1  # stretches of time, not single samples
    with pytest.raises(ValueError, match="no sample is usable"):
        Reweighted(torch.full_like(samples, torch.nan), 8)


def test_walkers_outside_deposit_nothing() -> None:
    one = walkers(MullerBrown(), sigma=(0.1,))
    one.start()
    s, bias = one.sample()
    s[0], s[1], bias[2] = 1.5, np.nan, np.nan  # beyond the domain, outside the state space, diverged
    one.deposit(s, bias)
    assert one.kernels is not None and one.kernels.counter == 1 + 13
    before = one.bias_on_grid()
    one.deposit(np.full_like(s, np.nan), bias)
    assert one.kernels.counter == 1 + 13 and np.array_equal(one.bias_on_grid(), before)


def test_the_first_width_is_the_spread_across_the_boundary() -> None:
    """Angles around pi, where the system starts at 0; none is narrower than the smallest width."""
    system = three_angles()
    one = walkers(system, sigma_min=0.01)
    one._origin = np.full((1, 3), np.pi)
    random = np.random.default_rng(0)
    for _ in range(100):
        one.note_spread(system.cvs.wrap(np.pi + random.standard_normal((16, 3)) * [0.3, 0.2, 0.001]))
    one.note_spread(np.full((16, 3), np.nan))
    one.start()
    assert one.kernels is not None
    np.testing.assert_allclose(one.kernels.first_widths, [0.3, 0.2, 0.02 * np.pi], rtol=0.05)


def test_walkers_feel_the_bias_that_they_report(aldp) -> None:
    """Energy and forces on a molecule are those of the bias of its two angles, at no evaluation."""
    one = walkers(aldp, sigma=(0.3, 0.3), barrier=8.0)
    one.start()
    one.deposit(*one.sample())
    x = one.dynamics.positions.double() + 0.01 * torch.randn(one.dynamics.positions.shape, dtype=torch.float64)
    evaluations = one.problem.evaluations
    energy, gradient = one.dynamics.energy_and_gradient(x)
    plain, force = aldp.reduced_energy_and_gradient(x)
    assert one.problem.evaluations == evaluations + 16
    assert one.kernels is not None
    bias = one.kernels.bias(aldp.collective_variables(x).double().numpy())
    np.testing.assert_allclose((energy - plain).numpy(), bias, atol=0.05)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def along(t: float) -> torch.Tensor:
        return one.table.energy(aldp.collective_variables(x + t * direction).double())

    slope = (along(1e-6) - along(-1e-6)) / 2e-6
    torch.testing.assert_close(((gradient - force) * direction).flatten(1).sum(1), slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("check", ["method", "resume", "blindness", "budget"])
def test_keeps_the_contract_with_several_maps(check: str, tmp_path) -> None:
    settings = ("evaluations=1500", "walkers=8", "pace=10", "sigma_paces=2", "fit_orders=[2]", "sigma_min=0.06")
    assert CHECKS[check](Pair(ANGLES, "opes", tmp_path, overrides=(*settings, "cvs=[a, b]")))


def test_samples_in_memory_are_bounded(tmp_path) -> None:
    job = prepare("muller_brown", "opes", preset="smoke", overrides=["most_samples=200"], out=tmp_path, threads=1)
    assert job.execute().status == "finished"
    assert 100 < job.method.samples[..., 0].numel() <= 200


def test_settings_that_contradict_each_other_are_named(tmp_path) -> None:
    for override, reason in (
        ("fit_orders=[4, 2]", "increasing"),
        ("stride=7", "pace must be a multiple of stride"),
        ("bias_factor=1", "greater than 1"),
        ("variant=metadynamics", "metad"),
        ("cvs=[x]", "no CV 'x'; choose from s"),
        ("cvs=[s, s]", "named twice"),
        ("sigma=[0.1, 0.1]", "one width per biased CV"),
    ):
        with pytest.raises(UserError, match=reason):
            prepare("muller_brown", "opes", overrides=[override], out=tmp_path)
    with pytest.raises(ValueError, match="above 1 kT"):
        OPESConfig(barrier=0.5)
    assert not list(tmp_path.rglob("record.json")) and len(maps_of(three_angles())) == 2
