"""The target at other temperatures, the reverse KL gradient, and both methods against Müller-Brown's exact PMF."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Map, States
from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench.counting.streams import Streams
from cgbench.errors import UserError
from cgbench.running.run import Run, prepare
from cgbench_methods.annealed_generators import CMTConfig, ConstrainedMassTransport, TABGConfig, TemperatureAnnealed
from cgbench_methods.annealed_generators.config import EstimateConfig, RegularisationConfig
from cgbench_methods.annealed_generators.estimate import WeightedMaps
from cgbench_methods.annealed_generators.training import forward_kl, reverse_kl_gradient, training_weights
from cgbench_methods.lib.flows.build import UnconditionalFlow, spline_coupling_flow
from cgbench_methods.lib.flows.distributions import UniformGaussian
from cgbench_methods.lib.flows.joint import JointTarget
from cgbench_methods.lib.flows.settings import FlowConfig
from cgbench_systems.muller_brown import MullerBrown

FLOAT64 = torch.float64
SMALL = ["hot.updates=250", "annealing.draws=6000", "annealing.updates=80", "estimate.samples=40000"]
SMALL += ["flow.num_couplings=4", "flow.hidden_features=32"]


def target(system, **energy) -> JointTarget:
    return JointTarget(Problem(system, Ledger()), FlowConfig(), RegularisationConfig(**energy), FLOAT64)


def test_parts_give_the_density_at_every_temperature(aldp, varied_configurations) -> None:
    joint = target(aldp)
    x = varied_configurations[:40]
    s, y, log_det = aldp.coordinates.to_internal(x)
    z = joint.join(s, y)
    energy, volume = joint.parts(z)
    torch.testing.assert_close(energy, aldp.reduced_energy_and_gradient(x)[0], rtol=1e-9, atol=1e-6)
    torch.testing.assert_close(volume, -log_det, rtol=1e-9, atol=1e-6)
    assert joint.problem.evaluations == 40
    direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=FLOAT64)
    for b in (1.0, 0.25):
        again, same, gradient = joint.parts_and_gradient(z, b)
        torch.testing.assert_close((again, same), (energy, volume))
        up, down = (joint.parts(z + sign * 1e-6 * direction) for sign in (1, -1))
        slope = ((up[1] - b * up[0]) - (down[1] - b * down[0])) / 2e-6
        torch.testing.assert_close(slope, (gradient * direction).sum(1), rtol=1e-4, atol=1e-2)


def test_outside_the_state_space_nothing_is_evaluated(aldp) -> None:
    mirrored = aldp.initial_configuration()[None] * torch.tensor([1.0, 1.0, -1.0], dtype=FLOAT64)
    joint = target(aldp)
    s, y, _ = aldp.coordinates.to_internal(torch.cat([mirrored, aldp.initial_configuration()[None]]))
    energy, volume, gradient = joint.parts_and_gradient(joint.join(s, y), 1.0)
    assert energy.isposinf().tolist() == [True, False] and volume.isfinite().all()
    assert not gradient[0].any() and joint.problem.evaluations == 1


def test_high_energies_are_regularised_before_the_temperature() -> None:
    joint, plain = target(MullerBrown(), energy_linear_below=50.0, energy_largest=57.0), target(MullerBrown())
    s = torch.full((60, 1), -0.5, dtype=FLOAT64)
    z = joint.join(s, torch.linspace(-30.0, 45.0, 60, dtype=FLOAT64)[:, None])
    full, tame = plain.parts(z)[0], joint.parts(z)[0]
    high = full > 50.0
    assert 5 < int(high.sum()) < 55
    torch.testing.assert_close(tame[~high], full[~high])
    torch.testing.assert_close(tame[high], (50.0 + torch.log1p(full[high] - 50.0)).clamp(max=57.0))


def generator_of(kind=TemperatureAnnealed, system=None, **settings):
    flow = {"num_couplings": 2, "hidden_features": 8, "dtype": "float64", "fine_scale": 2.0}
    config = kind.Config.model_validate({"flow": flow} | settings)
    return kind(Problem(system or MullerBrown(), Ledger()), config, Streams(0))


# ---- the gradient of the reverse KL divergence ----------------------------------------------------


class Wells:
    """Energy and volume element of three coordinates, everywhere finite."""

    @staticmethod
    def wrap(z: torch.Tensor) -> torch.Tensor:
        return z

    @staticmethod
    def parts(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (1.5 * z.square() + torch.cos(2 * z)).sum(1) + z[:, 0] * z[:, 1], torch.sin(z).sum(1)

    def parts_and_gradient(self, z: torch.Tensor, inverse_temperature: float) -> tuple[torch.Tensor, ...]:
        leaf = z.detach().requires_grad_()
        energy, volume = self.parts(leaf)
        (slope,) = torch.autograd.grad((volume - inverse_temperature * energy).sum(), leaf)
        return energy.detach(), volume.detach(), slope


def small_flow() -> UnconditionalFlow:
    """Return a flow over three coordinates whose parameters are not those of the identity."""
    kinds = {"circular": torch.zeros(3, dtype=torch.bool), "lower": torch.full((3,), -6.0, dtype=FLOAT64)}
    kinds["upper"] = -kinds["lower"]
    generator = torch.Generator().manual_seed(0)
    flow = UnconditionalFlow(
        spline_coupling_flow(**kinds, generator=generator, num_couplings=2, hidden_features=8), UniformGaussian(**kinds)
    )
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=FLOAT64)
    return flow


def gradient(flow: UnconditionalFlow, count: int, seed: int, **options) -> torch.Tensor:
    settings = {"inverse_temperature": 0.25, "dropped": 0, "path_gradient": True, "sample_clip": None} | options
    flow.zero_grad()
    reverse_kl_gradient(flow, Wells(), count, torch.Generator().manual_seed(seed), **settings)
    return torch.cat([p.grad.flatten() for p in flow.parameters()])


def test_the_gradient_is_that_of_the_reverse_kl_divergence() -> None:
    """The full gradient against a finite difference along one direction at the same noise."""
    flow = small_flow()
    found = gradient(flow, 200, 3, path_gradient=False)
    direction = torch.randn(len(found), generator=torch.Generator().manual_seed(7), dtype=FLOAT64)
    start = torch.nn.utils.parameters_to_vector(flow.parameters()).detach()

    def loss(step: float) -> float:
        torch.nn.utils.vector_to_parameters(start + step * direction, flow.parameters())
        z, log_q = flow.sample_with_log_prob(200, torch.Generator().manual_seed(3))
        energy, volume = Wells.parts(z)
        return float((log_q + 0.25 * energy - volume).mean())

    assert float(found @ direction) == pytest.approx((loss(1e-5) - loss(-1e-5)) / 2e-5, rel=2e-4)


def test_path_gradient_has_the_same_mean() -> None:
    """Along a few directions in the space of the parameters (z < 4)."""
    flow = small_flow()
    differences = torch.stack(
        [gradient(flow, 200, seed) - gradient(flow, 200, seed, path_gradient=False) for seed in range(100)]
    )
    directions = torch.randn(differences.shape[1], 6, generator=torch.Generator().manual_seed(7), dtype=FLOAT64)
    along = differences @ directions
    z = along.mean(0) / (along.std(0) / math.sqrt(len(along)))
    assert along.std(0).min() > 1e-4 and float(z.abs().max()) < 4.0


def test_weights_of_training_have_mean_one() -> None:
    log_weights = torch.linspace(-3.0, 4.0, 50, dtype=FLOAT64)
    weights = training_weights(log_weights, torch.float32)
    assert weights.dtype == torch.float32 and float(weights.mean()) == pytest.approx(1.0, rel=1e-6)
    assert torch.allclose(weights.log().diff(), log_weights.diff().float(), atol=1e-5)


def test_weights_too_small_to_count_give_no_denormal_numbers() -> None:
    """They take about ten times as long on some processors. Here 10 samples have all the weight, 490 less than e-40."""
    log_weights = torch.cat([torch.zeros(10, dtype=FLOAT64), torch.linspace(-40.0, -200.0, 490, dtype=FLOAT64)])
    weights = training_weights(log_weights, torch.float32)
    assert (weights[:10] == 50.0).all() and not weights[10:].any()
    flow = small_flow().float()
    z = flow.sample_with_log_prob(500, torch.Generator().manual_seed(0))[0].float()
    exact = (log_weights.exp() * 50.0).float()
    for rows in (slice(0, 500), slice(10, 500)):  # with and without the samples that count
        gradients = []
        for each in (weights, exact):
            flow.zero_grad()
            forward_kl(flow, z[rows], each[rows]).backward()
            gradients.append(torch.cat([p.grad.flatten() for p in flow.parameters()]))
        found, full = gradients
        assert not ((found != 0) & (found.abs() < torch.finfo(torch.float32).tiny)).any()
        assert (found - full).abs().max() < 1e-7 * (1.0 + full.abs().max())


def test_samples_of_highest_energy_get_no_gradient_and_others_are_clipped() -> None:
    flow = small_flow()
    full = gradient(flow, 64, 1)
    assert not torch.allclose(gradient(flow, 64, 1, dropped=8), full)
    assert gradient(flow, 64, 1, sample_clip=1e-3).norm() < 0.1 * full.norm()
    assert not gradient(flow, 64, 1, dropped=64).any()


def test_a_sample_of_weight_zero_adds_nothing_where_q_is_zero() -> None:
    flow = small_flow()
    z = flow.sample_with_log_prob(20, torch.Generator().manual_seed(0))[0]
    weights = torch.linspace(0.0, 2.0, 20, dtype=FLOAT64)
    z[0] = 1e200
    assert flow.log_prob(z)[0] == -math.inf and weights[0] == 0
    gradients = []
    for rows in (slice(None), slice(1, None)):
        flow.zero_grad()
        loss = forward_kl(flow, z[rows], weights[rows]) * len(z[rows])
        loss.backward()
        gradients.append(torch.cat([loss.detach()[None], *(p.grad.flatten() for p in flow.parameters())]))
    torch.testing.assert_close(*gradients)


# ---- estimates --------------------------------------------------------------------------------------


def test_all_maps_and_states_from_one_set_of_weights(generator) -> None:
    """Two maps of three angles, and states that leave a gap, from samples with wrong weights set right."""
    bins, pi = 12, math.pi
    cvs = CollectiveVariables(("a", "b", "c"), (-pi,) * 3, (pi,) * 3, (True,) * 3, (bins,) * 3)

    def part(*axes: int) -> Map:
        names = tuple(cvs.names[axis] for axis in axes)
        two = len(axes)
        return Map(axes, CollectiveVariables(names, (-pi,) * two, (pi,) * two, (True,) * two, (bins,) * two))

    states = States(("left", "right"), lambda s: np.where(s[:, 2] < -1, 0, np.where(s[:, 2] > 1, 1, -1)))
    maps = WeightedMaps([part(0, 1), part(2)], states, EstimateConfig(fit_orders=(1, 2, 3), groups=4))
    for _ in range(20):
        s = (torch.rand(5000, 3, generator=generator, dtype=FLOAT64) * 2 - 1) * pi
        maps.add(s, torch.cos(s[:, 0]) + 0.5 * torch.sin(s[:, 2]) - 3.0, 5000)
    found = maps.estimate()
    grid = np.linspace(-pi, pi, 24001)
    density = np.exp(0.5 * np.sin(grid))
    right = density[grid > 1].sum() / density.sum()
    assert found.populations["right"] == pytest.approx(right, abs=5e-3) and sum(found.populations.values()) < 0.8
    marginal = found.pmfs[0].probability.sum(1)
    exact = np.exp(np.cos(found.pmfs[0].centers(0)))
    assert marginal == pytest.approx(exact / exact.sum(), rel=0.05)
    assert found.pmfs[1].free_energy_std is not None and set(maps.fits["maps"]) == {"a and b", "c"}
    again = WeightedMaps([part(0, 1), part(2)], states, EstimateConfig(fit_orders=(1, 2, 3), groups=4))
    again.load_state_dict(maps.state_dict())
    assert np.array_equal(again.estimate().pmfs[0].probability, found.pmfs[0].probability)


# ---- the whole methods ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["ta_bg", "cmt"])
def finished(request, tmp_path_factory) -> Run:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp(request.param)
    job = prepare("muller_brown", request.param, overrides=SMALL, threads=1, out=out)
    job.execute()
    return job


def test_recovers_the_exact_pmf(finished) -> None:
    record = json.loads((finished.folder.path / "record.json").read_text())
    assert record["status"] == "finished" and record["metrics"]["forward_kld"] < 2e-3
    assert all(abs(value) < 0.3 for name, value in record["metrics"].items() if name.startswith("delta_f_error"))
    found = record["diagnostics"]
    assert found["reliable"] and found["warnings"] == [] and record["claimed_errors"] is not None
    assert found["history"][-1]["effective_sample_size"] > 0.8 > found["history"][0]["effective_sample_size"]
    assert set(record["evaluations"]["by_phase"]) == {"reverse_kl", "anneal", "evaluate"}
    samples = finished.method.sampled
    proposed = record["state_space"]["proposed"] - record["state_space"]["rejected"]
    assert samples == 40_000 and proposed == record["evaluations"]["total"]


def test_both_reach_the_target_by_their_own_path(finished) -> None:
    history = finished.method.history.entries
    assert finished.method.schedule.at_target
    if finished.method.name == "ta_bg":
        temperatures = [row["temperature"] for row in history if row["phase"] == "anneal"]
        assert temperatures[-2:] == [1.0, 1.0] and temperatures == sorted(temperatures, reverse=True)
    else:
        stages = [row for row in history if row["phase"] == "anneal"]
        bound = finished.method.config.transport.entropy_per_coordinate * 2
        assert stages[-1]["trust_region"] == stages[-1]["entropy"] == 0.0
        inner = [row for row in stages if row["trust_region"] + row["entropy"] > 0]
        assert inner and all(row["entropy_decrease"] <= bound * 1.01 for row in inner)


def test_density_over_configurations_is_normalised(finished) -> None:
    axis = torch.linspace(-2.5, 2.5, 301, dtype=FLOAT64)
    x = torch.cartesian_prod(axis, axis + 0.5)
    with torch.no_grad():
        total = sum(float(finished.method.log_density(part).exp().sum()) for part in x.split(20_000))
    assert total * float(axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize("method", ["ta_bg", "cmt"])
@pytest.mark.parametrize("stop", [3, 5, 8])
def test_continues_bit_identically_in_every_phase(method: str, stop: int, tmp_path: Path) -> None:
    """Stopped while the flow is trained hot, in a stage of the schedule, and near the end."""

    def job(folder: str) -> Run:
        return prepare("muller_brown", method, preset="smoke", threads=1, out=tmp_path / folder)

    whole = job("whole")
    whole.execute()
    parts = job("parts")
    parts.stop = lambda: len(parts.curve) == stop
    with pytest.raises(KeyboardInterrupt):
        parts.execute()
    again = job("parts")
    assert again.resume()
    again.execute()
    first, second = ((one.folder.path / "pmf.npz").read_bytes() for one in (whole, again))
    assert first == second and len(whole.curve) == len(again.curve) > stop


def test_checkpoints_are_possible_within_stages(tmp_path: Path) -> None:
    job = prepare("muller_brown", "ta_bg", preset="smoke", threads=1, out=tmp_path)
    seen = []
    job.on_estimate = lambda run: seen.append((run.method.stage, run.method.updates))
    job.execute()
    assert any(stage == 0 and updates for stage, updates in seen)
    assert any(stage > 0 and updates for stage, updates in seen)


def test_settings_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    for override, reason in (
        ("hot.dropped=256", "dropped must be less than batch"),
        ("hot.temperature=1", "greater than 1"),
        ("estimate.fit_orders=[4, 2]", "positive and increasing"),
        ("estimate.groups=3", "multiple of 2"),
        ("ladder.interval=3", "unknown key"),
    ):
        with pytest.raises(UserError, match=reason):
            prepare("muller_brown", "ta_bg", overrides=[override], out=tmp_path)


def test_configurations_differ_in_their_schedule_alone() -> None:
    own = set(TABGConfig.model_fields) ^ set(CMTConfig.model_fields)
    assert own == {"ladder", "transport"}
    assert generator_of(ConstrainedMassTransport).schedule.entropy == pytest.approx(0.16)
