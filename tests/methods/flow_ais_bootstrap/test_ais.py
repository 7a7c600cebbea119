"""Annealed importance sampling and Hamiltonian Monte Carlo against Gaussians, the buffer against a discrete case."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from cgbench_methods.flow_ais_bootstrap.ais import AnnealedImportanceSampling, Points, hmc_transition
from cgbench_methods.flow_ais_bootstrap.buffer import ReplayBuffer

DIMS = 3
CENTRE, WIDTH = 0.6, 0.7


def log_q(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return -0.5 * z.square().sum(1) - 0.5 * DIMS * math.log(2 * math.pi), -z


def log_p(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian without its normalisation."""
    return -0.5 * ((z - CENTRE) / WIDTH).square().sum(1), -(z - CENTRE) / WIDTH**2


def log_integral(alpha: float) -> float:
    """``ln of the integral of p^alpha q^(1 - alpha)``, per dimension a Gaussian integral."""
    curvature = alpha / WIDTH**2 + (1.0 - alpha)
    exponent = -0.5 * alpha * CENTRE**2 / WIDTH**2 + 0.5 * (alpha * CENTRE / WIDTH**2) ** 2 / curvature
    one = 0.5 * math.log(2 * math.pi / curvature) + exponent - 0.5 * (1.0 - alpha) * math.log(2 * math.pi)
    return DIMS * one


def starts(count: int, generator: torch.Generator) -> Points:
    return Points.at(torch.randn(count, DIMS, generator=generator, dtype=torch.float64), log_q, log_p)


def sampler(generator: torch.Generator, alpha: float, **options) -> AnnealedImportanceSampling:
    settings = {"distributions": 4, "leapfrog_steps": 3, "step_size": 0.4} | options
    return AnnealedImportanceSampling(log_q, log_p, alpha=alpha, generator=generator, **settings)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_weights_are_unbiased(alpha: float, generator) -> None:
    """The mean weight is the integral of the target, and weighted means are those of the target (z < 4)."""
    points, log_weights = sampler(generator, alpha).run(starts(40_000, generator))
    weights = (log_weights - log_integral(alpha)).exp()
    error = float(weights.std()) / math.sqrt(len(weights))
    assert float(weights.mean()) == pytest.approx(1.0, abs=4 * error) and error < 0.01
    mean = alpha * CENTRE / WIDTH**2 / (alpha / WIDTH**2 + 1.0 - alpha)
    residual = weights[:, None] * (points.z - mean)
    z = residual.mean(0) / (residual.std(0) / math.sqrt(len(residual)))
    assert float(z.abs().max()) < 4.0


def test_annealing_lowers_the_variance_of_weights(generator) -> None:
    """A longer annealing has less variance; with none, the transitions would do nothing for the weights."""
    spread = []
    for distributions in (1, 16):
        annealing = sampler(generator, 2.0, distributions=distributions)
        spread.append(float(annealing.run(starts(10_000, generator))[1].std()))
    assert spread[1] < 0.6 * spread[0]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_hmc_samples_the_variance_of_an_oscillator_at_a_coarse_step(power: float, generator) -> None:
    """Between q and p, at p and beyond: the acceptance step removes the error of the leapfrog integrator (z < 4)."""
    curvature = power / WIDTH**2 + 1.0 - power
    mean = power * CENTRE / WIDTH**2 / curvature
    points = starts(10_000, generator)
    step = 1.2 / math.sqrt(curvature)
    for _ in range(60):
        points, acceptance = hmc_transition(points, power, step, 3, log_q, log_p, generator)
    assert 0.3 < float(acceptance.mean()) < 0.95  # without the acceptance step the variance would be off
    scaled = (points.z - mean).flatten() * math.sqrt(curvature)
    assert float(scaled.square().mean()) == pytest.approx(1.0, abs=4 * math.sqrt(2.0 / len(scaled)))
    assert stats.kstest(scaled.numpy(), "norm").pvalue > 1e-3


def test_step_sizes_go_to_the_wanted_acceptance(generator) -> None:
    annealing = sampler(generator, 2.0, step_size=0.05, leapfrog_steps=4, adaptation=0.3)
    for _ in range(120):
        annealing.run(starts(500, generator))
    assert min(annealing.acceptance) > 0.5 and max(annealing.acceptance) < 0.8
    assert min(annealing.step_sizes) > 0.3  # from 0.05, where nearly everything was accepted


def test_a_start_without_a_density_is_not_in_the_step_size(generator) -> None:
    """At ``q^0 p^1`` its energy is zero times infinity. It counts as refused; the others are as without it."""
    broken = torch.zeros(40, dtype=torch.bool).index_fill(0, torch.tensor([7]), True)
    points = starts(40, generator)
    spoilt = Points(points.z, points.log_q.masked_fill(broken, -torch.inf), points.log_p, points.grad_q, points.grad_p)
    state = generator.get_state()
    found = []
    for each in (points, spoilt):
        generator.set_state(state)
        found.append(hmc_transition(each, 1.0, 0.4, 3, log_q, log_p, generator)[1])
    assert torch.equal(found[1], found[0].masked_fill(broken, 0.0)) and found[0][broken] > 0
    annealing = sampler(generator, 2.0, distributions=3)  # the second one is p
    annealing.run(spoilt)
    for step_size, rate in zip(annealing.step_sizes, annealing.acceptance, strict=True):
        assert step_size == pytest.approx(0.4 * (1.0 + 0.1 * (rate - 0.65)))


def test_a_chain_costs_one_evaluation_and_one_for_each_leapfrog_step(generator) -> None:
    calls = []

    def counting(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(z))
        return log_p(z)

    annealing = sampler(generator, 2.0, distributions=8, leapfrog_steps=4)
    annealing.log_p = counting
    z = torch.randn(11, DIMS, generator=generator, dtype=torch.float64)
    annealing.run(Points.at(z, log_q, counting))
    assert sum(calls) == 11 * 33


def test_proposals_where_p_is_zero_are_refused(generator) -> None:
    def walled(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, gradient = log_p(z)
        outside = z[:, 0] < 0
        return torch.where(outside, -torch.inf, value), torch.where(outside[:, None], 0.0, gradient)

    z = torch.randn(4000, DIMS, generator=generator, dtype=torch.float64)
    z[:, 0].abs_()
    points = Points.at(z, log_q, walled)
    for _ in range(60):
        points, _ = hmc_transition(points, 1.0, 0.5, 3, log_q, walled, generator)
    first = ((points.z[:, 0] - CENTRE) / WIDTH).numpy()
    assert first.min() * WIDTH + CENTRE >= 0
    assert stats.kstest(first, stats.truncnorm(-CENTRE / WIDTH, math.inf).cdf).pvalue > 1e-3


# ---- buffer ---------------------------------------------------------------------------------------

P = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)
Q_OLD = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.1], dtype=torch.float64)
Q_NEW = torch.tensor([0.15, 0.15, 0.3, 0.1, 0.3], dtype=torch.float64)


def discrete(count: int, generator: torch.Generator) -> ReplayBuffer:
    """Samples of the old flow on five states, with exact weights for ``p^2 / q``."""
    states = torch.multinomial(Q_OLD, count, True, generator=generator)
    buffer = ReplayBuffer(count, 1, 2.0, torch.float64)
    buffer.add(states[:, None].double(), 2.0 * (P / Q_OLD).log()[states], Q_OLD.log()[states])
    return buffer


def shares(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(5, dtype=torch.float64).index_add_(0, states, weights)
    return total / total.sum()


def test_samples_are_drawn_by_weight(generator) -> None:
    buffer = ReplayBuffer(5, 1, 2.0, torch.float64)
    buffer.add(torch.arange(5.0, dtype=torch.float64)[:, None], P.log(), torch.zeros(5, dtype=torch.float64))
    drawn = torch.stack([buffer.draw(1, generator)[0] for _ in range(4000)])
    assert stats.chisquare(torch.bincount(drawn, minlength=5).numpy(), 4000 * P.numpy()).pvalue > 1e-3
    assert sorted(buffer.draw(5, generator).tolist()) == [0, 1, 2, 3, 4]  # without replacement


def test_corrections_turn_samples_of_the_old_target_into_the_new(generator) -> None:
    """Drawn by old weights and corrected, samples have the distribution ``p^2 / q_new`` (z < 4)."""
    buffer = discrete(1_000_000, generator)
    rows = buffer.draw(3000, generator)  # few of many: nearly with replacement
    states = buffer.z[rows, 0].long()
    before = shares(states, torch.ones(len(rows), dtype=torch.float64))
    old, new = (P**2 / q / (P**2 / q).sum() for q in (Q_OLD, Q_NEW))
    assert float(((before - old) / (old * (1 - old) / len(rows)).sqrt()).abs().max()) < 4.0
    factors = buffer.correct(rows, Q_NEW.log()[states], limit=1e6)
    effective = float(factors.sum() ** 2 / factors.square().sum())
    after = shares(states, factors)
    assert float(((after - new) / (new * (1 - new) / effective).sqrt()).abs().max()) < 4.0
    assert float((before - new).abs().max()) > 0.1  # it is the correction that does it


def test_stored_weights_follow_the_flow(generator) -> None:
    """Once all have been looked at, weights are those for the new flow: samples drawn by them need no correction."""
    buffer = discrete(1_000_000, generator)
    everyone = torch.arange(len(buffer))
    buffer.correct(everyone, Q_NEW.log()[buffer.z[:, 0].long()], limit=1.5)
    rows = buffer.draw(3000, generator)
    found = shares(buffer.z[rows, 0].long(), torch.ones(len(rows), dtype=torch.float64))
    new = P**2 / Q_NEW / (P**2 / Q_NEW).sum()
    assert float(((found - new) / (new * (1 - new) / len(rows)).sqrt()).abs().max()) < 4.0
    assert torch.equal(buffer.correct(rows, buffer.log_q[rows], 10.0), torch.ones(len(rows), dtype=torch.float64))


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_a_sample_without_a_density_keeps_its_weight(alpha: float, generator) -> None:
    """It gives no gradient now, and is drawn as often as before; for the others, the factor is ``(q_old/q)^(a-1)``."""
    buffer = ReplayBuffer(5, 1, alpha, torch.float64)
    buffer.add(torch.arange(5.0, dtype=torch.float64)[:, None], P.log(), Q_OLD.log())
    rows = torch.tensor([4, 1, 0, 2])
    present = torch.tensor([-torch.inf, torch.nan, torch.inf, float(Q_NEW[2].log())], dtype=torch.float64)
    factors = buffer.correct(rows, present, limit=10.0)
    change = (Q_OLD[2] / Q_NEW[2]) ** (alpha - 1.0)
    torch.testing.assert_close(factors, torch.stack([change * 0, change * 0, change * 0, change]))
    weights = P.clone()
    weights[2] *= change
    torch.testing.assert_close(buffer.log_w.exp(), weights)
    torch.testing.assert_close(buffer.log_q.exp()[[0, 1, 3, 4]], Q_OLD[[0, 1, 3, 4]])
    assert float(buffer.log_q[2].exp()) == pytest.approx(float(Q_NEW[2]))
    drawn = torch.stack([buffer.draw(1, generator)[0] for _ in range(4000)])
    expected = 4000 * (weights / weights.sum()).numpy()
    assert stats.chisquare(torch.bincount(drawn, minlength=5).numpy(), expected).pvalue > 1e-3
    again = buffer.correct(rows, Q_NEW.log()[rows], limit=10.0)  # the flow has learned it: nothing is left behind
    torch.testing.assert_close(again[:3], (Q_OLD / Q_NEW)[rows[:3]] ** (alpha - 1.0))


def test_factors_are_limited_and_non_finite_samples_are_ignored(generator) -> None:
    buffer = ReplayBuffer(4, 1, 2.0, torch.float64)
    zeros = torch.zeros(3, dtype=torch.float64)
    buffer.add(torch.zeros(3, 1, dtype=torch.float64), torch.tensor([0.0, math.nan, -math.inf]).double(), zeros)
    assert len(buffer) == 1
    factor = buffer.correct(torch.tensor([0]), torch.tensor([-50.0], dtype=torch.float64), limit=10.0)
    assert float(factor) == pytest.approx(10.0)


def test_new_samples_replace_the_oldest_and_a_restored_buffer_continues(generator) -> None:
    buffer, again = (ReplayBuffer(4, 1, 2.0, torch.float64) for _ in range(2))
    for start in (0, 3):
        z = torch.arange(start, start + 3, dtype=torch.float64)
        buffer.add(z[:, None], z, z)
    assert sorted(buffer.z[:, 0].tolist()) == [2.0, 3.0, 4.0, 5.0]
    again.load_state_dict(buffer.state_dict())
    for each in (buffer, again):
        each.add(torch.full((1, 1), 9.0).double(), torch.zeros(1).double(), torch.zeros(1).double())
    assert torch.equal(buffer.z, again.z) and torch.equal(buffer.log_w, again.log_w)
