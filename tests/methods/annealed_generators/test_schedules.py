"""Weights of annealing on a Gaussian, where all temperatures are known, and the drawing of samples by weight."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cgbench_methods.annealed_generators.config import LadderConfig, TransportConfig
from cgbench_methods.annealed_generators.schedules import Buffer, ConstrainedTransport, TemperatureLadder
from cgbench_methods.annealed_generators.training import clipped, cosine
from cgbench_methods.lib.estimators.importance import drawn_by_weight

FLOAT64 = torch.float64
DIMS, STIFFNESS, HOTTEST = 3, 2.0, 4.0  # u(z) = STIFFNESS |z|^2 / 2 and a volume element exp(-|z|^2 / 2)


def drawn_at(inverse_temperature: float, count: int, generator: torch.Generator, spread: float = 1.1) -> Buffer:
    """Return samples of a Gaussian that is `spread` times wider than the density at this temperature."""
    width = spread / math.sqrt(1.0 + inverse_temperature * STIFFNESS)
    z = width * torch.randn(count, DIMS, generator=generator, dtype=FLOAT64)
    log_q = -0.5 * (z / width).square().sum(1) - DIMS * math.log(width * math.sqrt(2 * math.pi))
    return Buffer(z, log_q, 0.5 * STIFFNESS * z.square().sum(1), -0.5 * z.square().sum(1))


def test_weights_along_the_ladder_are_unbiased(generator) -> None:
    """Integral of p_b, and mean energy, at every temperature from the buffer at the one above (z < 4)."""
    ladder = TemperatureLadder(LadderConfig(intervals=4), HOTTEST)
    inverse, seen = 1.0 / HOTTEST, []
    for _ in range(5):
        buffer = drawn_at(inverse, 100_000, generator)
        target = ladder.advance(buffer)
        inverse = 1.0 / target.facts["temperature"]
        seen.append(target.facts["temperature"])
        weights = target.log_weights.exp()
        precision = 1.0 + inverse * STIFFNESS
        exact = (2 * math.pi / precision) ** (DIMS / 2)
        energy = 0.5 * STIFFNESS * DIMS / precision
        for values, expected in ((weights, exact), (weights * buffer.energy, exact * energy)):
            error = float(values.std()) / math.sqrt(len(values))
            assert abs(float(values.mean()) - expected) < 4 * error
    assert seen == pytest.approx([HOTTEST**0.75, HOTTEST**0.5, HOTTEST**0.25, 1.0, 1.0])
    assert ladder.at_target and ladder.progress == 1.0


def test_transport_reaches_the_target_and_stays_there(generator) -> None:
    """Each flow learns its target exactly: a Gaussian. The last weights are those of the target (z < 4)."""
    schedule = ConstrainedTransport(TransportConfig(trust_region=0.05, entropy_per_coordinate=1.0), DIMS)
    precision, stages = 1.0 + STIFFNESS / HOTTEST, 0
    while not schedule.at_target:
        buffer = drawn_at(0.0, 50_000, generator, spread=precision**-0.5)
        target = schedule.advance(buffer)
        trust, entropy = target.facts["trust_region"], target.facts["entropy"]
        precision = (1.0 + STIFFNESS + trust * precision) / (1.0 + trust + entropy)
        stages += 1
        assert not schedule.exhausted and stages < 10
        assert target.facts["divergence"] <= 0.05 * 1.001
    assert stages > 2 and precision == pytest.approx(1.0 + STIFFNESS)
    weights = schedule.advance(drawn_at(1.0, 50_000, generator)).log_weights.exp()
    error = float(weights.std()) / math.sqrt(len(weights))
    assert abs(float(weights.mean()) - (2 * math.pi / (1.0 + STIFFNESS)) ** (DIMS / 2)) < 4 * error


def test_transport_that_does_not_arrive_says_so(generator) -> None:
    schedule = ConstrainedTransport(TransportConfig(trust_region=1e-4, most_stages=1), DIMS)
    schedule.advance(drawn_at(1.0 / HOTTEST, 5000, generator))
    assert schedule.exhausted and "after 1 stages the target is not reached" in schedule.warnings[0]


@pytest.mark.parametrize("make", [lambda: TemperatureLadder(LadderConfig(), HOTTEST), lambda: transport()])
def test_schedules_continue_from_their_state(make, generator) -> None:
    first, second = make(), make()
    first.advance(drawn_at(1.0 / HOTTEST, 2000, generator))
    second.load_state_dict(first.state_dict())
    buffer = drawn_at(0.4, 2000, generator)
    one, other = first.advance(buffer), second.advance(buffer)
    assert torch.equal(one.log_weights, other.log_weights) and one.facts == other.facts
    assert first.progress == second.progress


def transport() -> ConstrainedTransport:
    return ConstrainedTransport(TransportConfig(trust_region=0.02), DIMS)


def test_samples_without_a_configuration_have_no_weight(generator) -> None:
    buffer = drawn_at(1.0, 100, generator)
    buffer.energy[3], buffer.log_q[4], buffer.z[5, 0] = math.inf, math.nan, math.nan
    log_weights = buffer.log_weights()
    assert (~log_weights.isfinite()).nonzero().squeeze(1).tolist() == [3, 4, 5]
    assert (log_weights[3:6] == -math.inf).all()


def test_rows_are_drawn_as_often_as_their_weights_say(generator) -> None:
    """Systematic draws: every row its expected number of times, rounded up or down; unbiased over the offsets."""
    weights = torch.tensor([1.0, 0.0, 5.0, 0.5, 3.5], dtype=FLOAT64)
    counts = torch.stack(
        [torch.bincount(drawn_by_weight(weights.log(), 101, generator), minlength=5) for _ in range(4000)]
    ).double()
    expected = 101 * weights / weights.sum()
    assert (counts - expected).abs().max() < 1.0 and counts.sum(1).eq(101).all()
    error = counts.std(0) / math.sqrt(len(counts))
    assert ((counts.mean(0) - expected).abs() <= 4 * error + 1e-12).all()


def test_the_largest_weights_are_clipped() -> None:
    log_weights = torch.arange(10_000, dtype=FLOAT64).flip(0)
    found = clipped(log_weights, 3e-4)
    assert found[:3].tolist() == [9997.0] * 3 and torch.equal(found[3:], log_weights[3:])
    assert clipped(log_weights, 0.0) is log_weights


def test_learning_rates_warm_up_and_decay() -> None:
    rates = [cosine(2.0, update, 100, 10) for update in range(100)]
    assert rates[:10] == pytest.approx(np.linspace(0.2, 2.0, 10)) and max(rates) == rates[9] == rates[10]
    assert rates[55] == pytest.approx(1.0) and 0 < rates[-1] < 0.01
