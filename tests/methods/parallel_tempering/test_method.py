"""The whole method against Müller-Brown's exact PMF, and its walkers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench.counting.streams import Streams
from cgbench.errors import UserError
from cgbench.running.run import prepare
from cgbench_methods.parallel_tempering import ParallelTemperingConfig
from cgbench_methods.parallel_tempering.walkers import TemperedWalkers
from cgbench_systems.muller_brown import MullerBrown

LADDER = np.array([1.0, 3.0, 8.0])


def walkers(system: Any = None, **options: Any) -> TemperedWalkers:
    settings = {"ladders": 4, "groups": 2, "stride": 5} | options
    problem = Problem(system or MullerBrown(), Ledger())
    return TemperedWalkers(problem, ParallelTemperingConfig(**settings), Streams(0), LADDER)


def test_recovers_the_exact_pmf_of_muller_brown(tmp_path) -> None:
    """From one minimum over a barrier of 10 kT, by 3e5 evaluations."""
    overrides = ["evaluations=300000", "ladders=64", "stride=10", "rounds=4", "estimates=2"]
    job = prepare("muller_brown", "parallel_tempering", overrides=overrides, out=tmp_path, threads=1, seed=1)
    record = job.execute()
    assert record.status == "finished" and 0.97 * 300_000 < record.evaluations.total <= 300_000
    assert set(record.evaluations.by_phase) == {"burn_in", "production"}
    assert record.evaluations.by_phase["burn_in"] == pytest.approx(60_000, rel=0.1)
    assert record.metrics["forward_kld"] < 2e-3
    assert all(abs(value) < 0.3 for name, value in record.metrics.items() if name.startswith("delta_f_error"))
    found = record.diagnostics
    assert found["reliable"] and found["warnings"] == []
    assert found["temperatures"][0] == 10.0 and found["temperatures"][-1] == pytest.approx(80.0)
    assert all(0.2 < rate < 0.6 for rate in found["exchange_rates"])
    assert found["round_trips"] > record.config["ladders"]
    assert found["outside_state_space"][0] < 1e-3 < found["outside_state_space"][-1]
    assert 0 < found["effective_sample_size_of_weights"] < found["samples"]
    json.dumps(found)
    job.method.facts["expected_kld"] = 0.02
    doubtful = job.method.diagnostics()
    assert not doubtful["reliable"]
    assert doubtful["warnings"] == ["too few samples: the expected forward KLD is 2.0e-02"]


def test_a_stride_costs_its_steps_and_samples_cost_nothing(aldp) -> None:
    for system, extra in ((aldp, 0), (MullerBrown(), 12)):  # Metropolis evaluates the starting points
        one = walkers(system)
        samples = one.sample(6, every=2)
        assert one.problem.evaluations == 6 * 5 * 12 + extra
        assert samples.shape == (3, 4, 3, 1 + len(system.cvs)) and samples[:, :, 0].isfinite().all()


def test_samples_are_energies_and_variables_sorted_by_temperature(aldp) -> None:
    for system in (aldp, MullerBrown()):
        one = walkers(system)
        one.sample(3)
        x, order = one.dynamics.positions, one.exchange.holder.clone()
        sample = one.sample(1)[0]
        energies = system.reduced_energy_and_gradient(x)[0]
        rows = torch.cat([energies[:, None], system.collective_variables(x)], dim=1).float().reshape(4, 3, -1)
        for ladder in range(4):
            torch.testing.assert_close(sample[ladder], rows[ladder][order[ladder]])


def test_samples_outside_the_state_space_have_no_weight_and_are_counted() -> None:
    one = walkers(MullerBrown(), step_size=1e-9)
    one.dynamics.positions = one.dynamics.positions.clone()
    one.dynamics.positions[2] = torch.tensor([1.5, 0.0])  # s = 1.5 is beyond the domain; walker 2 is the hottest of 3
    one.dynamics.energies = None
    one.exchange.relative, one.exchange._temperature = np.ones(3), torch.ones(3)  # exchanges always, and counts so
    sample = one.sample(1)[0]
    assert sample.isnan().all(2).nonzero().tolist() == [[0, 2]]
    assert one.outside.tolist() == [0, 0, 1] and one.sampled.tolist() == [4, 4, 4]


def test_new_temperatures_continue_from_the_nearest_old_ones() -> None:
    one = walkers()
    one.sample(20)
    before = one.exchange.by_temperature(one.dynamics.positions)
    evaluations = one.problem.evaluations
    one.change_temperatures(np.array([1.0, 1.5, 2.5, 8.0]))
    after = one.exchange.by_temperature(one.dynamics.positions)
    assert torch.equal(after, before[:, [0, 0, 1, 2]])
    one.sample(2)
    assert one.problem.evaluations == evaluations + 2 * 5 * 16


def test_walkers_continue_from_their_state(aldp) -> None:
    for system in (aldp, MullerBrown()):
        first, second = walkers(system), walkers(system)
        first.sample(5)
        second.load_state_dict(first.state_dict())
        for mine, theirs in ((first._moves, second._moves), (first._acceptances, second._acceptances)):
            theirs.set_state(mine.get_state())
        one, other = first.sample(4), second.sample(4)
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        assert one[:, :, 0].isfinite().all()


def test_samples_in_memory_are_bounded(tmp_path) -> None:
    overrides = ["most_samples=200", "evaluations=20000"]
    job = prepare("muller_brown", "parallel_tempering", preset="smoke", overrides=overrides, out=tmp_path, threads=1)
    record = job.execute()
    assert record.status == "finished"
    assert 100 < sum(each[..., 0].numel() for each in job.method.samples) <= 200


def test_settings_that_contradict_each_other_are_named(tmp_path) -> None:
    for override, reason in (
        ("fit_orders=[4, 2]", "increasing"),
        ("groups=1000", "groups must not exceed ladders"),
        ("stride=100", "less than or equal to 50"),
        ("hottest=1", "greater than 1"),
    ):
        with pytest.raises(UserError, match=reason):
            prepare("muller_brown", "parallel_tempering", overrides=[override], out=tmp_path)
