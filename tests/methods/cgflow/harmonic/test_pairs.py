"""Model of pairs, chains and joint weights: the parts of the recipe with more than three collective variables."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Estimate, Map
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.cgflow.harmonic.pairs.basis import PairBasis
from cgbench_methods.cgflow.harmonic.pairs.chains import move
from cgbench_methods.cgflow.harmonic.pairs.learning import constant_of, learn, truncated
from cgbench_methods.cgflow.harmonic.pairs.marginals import marginal
from cgbench_methods.cgflow.harmonic.pairs.model import PairModel, PairPrior
from cgbench_methods.cgflow.harmonic.pairs.samples import JointSamples
from cgbench_methods.cgflow.harmonic.pairs.verdict import warnings_of

MIXED = CollectiveVariables(
    tuple("abcd"), (-math.pi, 0.0, -math.pi, 1.0), (math.pi, 2.0, math.pi, 4.0), (True, False) * 2
)
FOUR = CollectiveVariables(tuple("abcd"), (-math.pi,) * 4, (math.pi,) * 4, (True,) * 4, bins=(20,) * 4)


def uniform(cvs: CollectiveVariables, count: int, seed: int) -> torch.Tensor:
    low, high = torch.tensor(cvs.lower, dtype=torch.float64), torch.tensor(cvs.upper, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(count, len(cvs), generator=generator, dtype=torch.float64)


def potential(s: torch.Tensor) -> torch.Tensor:
    """A sum of functions of one and two of four angles."""
    a, b, c, d = s.unbind(1)
    return torch.cos(2 * a) + 1.5 * torch.cos(b - a) + torch.sin(c + d) - 0.8 * torch.cos(d - 0.4) * torch.cos(2 * b)


def sampling_error(model: PairModel, s: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """Error of the model, without its constant."""
    error = model.mean(s) - exact
    return error - error.mean()


def test_modes_of_one_and_two_cvs() -> None:
    basis = PairBasis(MIXED, 3)
    pairs = {(True, True): 4 * 3, (True, False): 2 * 3, (False, False): 3}  # waves (1, 1), (1, 2), (2, 1)
    assert len(basis) == 1 + 6 + 3 + 6 + 3 + pairs[True, True] + 4 * pairs[True, False] + pairs[False, False]
    s = uniform(FOUR, 20_000, 1)
    features = PairBasis(FOUR, 2)(s)
    gram = features.T @ features / len(s)
    assert (gram - torch.eye(len(gram), dtype=torch.float64)).abs().max() < 0.06  # orthonormal, within 4 sigma


def test_series_and_slopes_agree_with_autograd() -> None:
    basis = PairBasis(MIXED, 4)
    coefficients = torch.randn(len(basis), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    s = uniform(MIXED, 30, 3).requires_grad_()
    expected = basis(s) @ coefficients
    (gradient,) = torch.autograd.grad(expected.sum(), s)
    s = s.detach()
    value, slopes = basis.series(s, coefficients)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(slopes, gradient)
    torch.testing.assert_close(basis.value(s, basis.form(coefficients)), value)
    for axis in range(4):
        derivative, chosen = basis.slopes(s, axis)
        torch.testing.assert_close(derivative @ coefficients[chosen], gradient[:, axis])


def test_model_recovers_a_pair_potential_within_its_error() -> None:
    s, new = uniform(FOUR, 600, 4), uniform(FOUR, 2000, 5)
    noise = torch.full((600,), 0.3, dtype=torch.float64)
    values = potential(s) + noise * torch.randn(600, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    model = PairModel(FOUR, 4, PairPrior(0.5, 4.0, 4.0))
    model.fit_values(s, values, noise)
    before = model.log_evidence(model.prior)
    for _ in range(5):
        model.improve_prior()
    assert model.log_evidence(model.prior) > before + 10.0
    error = sampling_error(model, new, potential(new))
    assert float(error.square().mean().sqrt()) < 0.3
    assert 0.6 < float((error / model.std(new)).square().mean()) < 1.6


def test_slopes_of_values_sharpen_the_model() -> None:
    s, new = uniform(FOUR, 100, 4), uniform(FOUR, 2000, 5)
    exact = s.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(potential(exact).sum(), exact)
    slopes[::7, 1] = torch.nan
    noise = torch.full((100,), 0.1, dtype=torch.float64)
    errors = []
    for extra in ((), (slopes, 3 * noise[:, None].expand(slopes.shape))):
        model = PairModel(FOUR, 4, PairPrior(0.5, 4.0, 4.0))
        model.fit_values(s, potential(s), noise, *extra)
        error = sampling_error(model, new, potential(new))
        errors.append(float(error.square().mean().sqrt()))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("mean_force", [True, False])
def test_model_learns_from_weights_of_a_poor_flow(mean_force: bool) -> None:
    """Weights have a relative variance of 3, and slopes a standard deviation of 4 kT; each round is new."""
    model = PairModel(FOUR, 4, PairPrior(1.0, 1.0, 1.0))
    new = uniform(FOUR, 2000, 7)
    errors = [float(sampling_error(model, new, potential(new)).square().mean().sqrt())]
    for seed in range(3):
        s = uniform(FOUR, 4000, 10 + seed).requires_grad_()
        exact = potential(s)
        (gradient,) = torch.autograd.grad(exact.sum(), s)
        s, exact = s.detach(), exact.detach()
        generator = torch.Generator().manual_seed(20 + seed)
        noise = torch.randn(4000, 5, generator=generator, dtype=torch.float64)
        width = math.sqrt(math.log(4.0))
        log_weights = width * noise[:, 0] - 0.5 * width**2 - exact + 50.0 * seed  # the constant of a round is free
        slopes = -gradient + 4.0 * noise[:, 1:] if mean_force else None
        learn(model, s, log_weights, slopes, truncation=50.0)
        errors.append(float(sampling_error(model, new, potential(new)).square().mean().sqrt()))
    assert errors[-1] < (0.2 if mean_force else 0.25) and errors[-1] < errors[1] < 0.4 * errors[0]
    ratio = sampling_error(model, new, potential(new)) / model.std(new)
    assert 0.4 < float(ratio.square().mean()) < 2.0


def test_model_resumes_bit_for_bit() -> None:
    model = PairModel(FOUR, 3, PairPrior(1.0, 1.0, 1.0))
    s = uniform(FOUR, 300, 8)
    learn(model, s, -potential(s), None, 50.0)
    other = PairModel(FOUR, 3, PairPrior(0.5, 2.0, 2.0))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.mean(s), model.mean(s)) and torch.equal(other.std(s), model.std(s))


def test_constant_of_truncated_weights() -> None:
    excess = torch.tensor([-2.0, 0.0, 1.0, 40.0, -torch.inf], dtype=torch.float64)
    a = constant_of(excess, 3.0)
    assert float((excess + a).exp().clamp(max=3.0).mean()) == pytest.approx(1.0)


def test_truncation_is_relative_to_the_model() -> None:
    mean = torch.tensor([0.0, 10.0, 0.0, 10.0, 0.0, 0.0], dtype=torch.float64)
    excess = torch.tensor([0.0, 0.0, 0.5, 9.0, torch.nan, -torch.inf], dtype=torch.float64)
    cut, share = truncated(excess - mean, mean, 3.0)
    assert torch.equal(cut[:3], excess[:3] - mean[:3]) and cut[5] == -torch.inf and cut[4].isnan()
    limit = float(cut[3] + mean[3])
    ratios = [1.0, 1.0, math.exp(0.5)]
    assert math.exp(limit) == pytest.approx(3.0 * (sum(ratios) + math.exp(limit)) / 6)
    kept = sum(ratios) + math.exp(limit)
    assert share == pytest.approx(1.0 - kept / (sum(ratios) + math.exp(9.0)))


def test_chains_sample_the_density_below_the_ceiling() -> None:
    """Marginals of two CVs of a density with wells apart, against sums over the grid."""

    def energy(s: torch.Tensor) -> torch.Tensor:
        value = potential(s)
        return torch.where(value < 1.5, value, torch.inf)

    s = uniform(FOUR, 4000, 9)
    s = s[energy(s).isfinite()][:1000]
    generator = torch.Generator().manual_seed(10)
    known, drawn = s[:50].clone(), []
    for _ in range(60):
        s = move(FOUR, energy, s, known, generator, steps=10, step=torch.full((4,), 0.8, dtype=torch.float64))
        drawn.append(s)
    fine = torch.from_numpy(FOUR.grid(2))
    weights = torch.cat([torch.exp(-energy(part)) for part in fine.split(200_000)]).numpy()
    rough = CollectiveVariables(("a", "b"), (-math.pi,) * 2, (math.pi,) * 2, (True,) * 2, bins=(5, 5))
    exact, counts = rough.histogram(fine[:, :2].numpy(), weights), rough.histogram(torch.cat(drawn[20:])[:, :2].numpy())
    assert energy(s).isfinite().all()
    assert forward_kld(exact / exact.sum(), counts / counts.sum()) < 3e-3


def test_joint_weights_give_maps_and_populations() -> None:
    """Two sets, drawn from other densities than the target, with weights of unknown constants and variance 1."""
    maps = (Map((0, 1), FOUR.subset((0, 1))), Map((3, 2), FOUR.subset((3, 2))))
    states = SimpleNamespace(names=("low",), counts=lambda s, w: np.array([w[s[:, 0] < 0].sum()]))
    problem = SimpleNamespace(maps=maps, states=states)
    samples = JointSamples(4, groups=8)
    for seed, tilt in enumerate((0.0, 0.5)):
        s = uniform(FOUR, 200_000, 30 + seed)
        generator = torch.Generator().manual_seed(40 + seed)
        accepted = torch.rand(len(s), generator=generator, dtype=torch.float64) < torch.exp(tilt * (s[:, 0].cos() - 1))
        s = s[accepted]
        noise = torch.randn(len(s), generator=generator, dtype=torch.float64) * math.sqrt(math.log(2.0))
        log_weights = -potential(s) - tilt * s[:, 0].cos() + noise + 100.0 * seed
        log_weights[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=torch.float64)
        assert samples.add(s, log_weights, torch.arange(len(s)) % 8, new_set=True) == 2
    grid = torch.from_numpy(FOUR.grid())
    p = torch.softmax(-potential(grid), 0).reshape(FOUR.bins).numpy()
    flat = [np.full((20, 20), 1 / 400)] * 2
    estimate, facts = samples.estimate(problem, flat, (3, 4, 5))
    assert isinstance(estimate, Estimate) and estimate.populations is not None
    exact = p.sum((2, 3)), p.sum((0, 1)).T
    klds = [forward_kld(of_map, pmf.probability) for of_map, pmf in zip(exact, estimate.pmfs, strict=True)]
    assert max(klds) < 1e-3
    assert 0.3 < np.mean(klds) / facts["expected_kld"] < 3.0
    assert estimate.populations["low"] == pytest.approx(p[:10].sum(), abs=0.01)
    rough = [of_map * (1 + 0.5 * np.cos(np.arange(20) * np.pi / 10)) for of_map in exact]
    ratio, smoother = samples.estimate(problem, [model / model.sum() for model in rough], (1, 2, 3))
    assert isinstance(ratio, Estimate)
    klds = [forward_kld(of_map, pmf.probability) for of_map, pmf in zip(exact, ratio.pmfs, strict=True)]
    assert max(klds) < 5e-4
    assert smoother["expected_kld"] < 0.8 * facts["expected_kld"]  # the ratio is smoother than the map
    weights = samples.weights()
    for number in range(2):
        own = weights[samples.set == number]
        assert float(own.sum()) == pytest.approx(float(own.sum() ** 2 / own.square().sum()))
    samples.clear()
    assert len(samples) == samples.sets == 0 and samples.weightless


@pytest.mark.parametrize("axes", [(1,), (3, 1), (0, 2, 3)])
def test_maps_of_the_model_are_sums_over_the_grid(axes: tuple[int, ...]) -> None:
    model = PairModel(FOUR, 3, PairPrior(0.5, 3.0, 3.0))
    s = uniform(FOUR, 3000, 50)
    model.fit_values(s, potential(s), torch.full((3000,), 0.1, dtype=torch.float64))
    p = torch.softmax(-model.mean(torch.from_numpy(FOUR.grid())), 0).reshape(FOUR.bins)
    kept = sorted(axes)
    exact = p.sum([axis for axis in range(4) if axis not in axes]).permute([kept.index(axis) for axis in axes])
    found = marginal(model, Map(axes, FOUR.subset(axes)), s, -model.mean(s))
    assert found.shape == exact.shape
    assert forward_kld(exact.numpy(), found.numpy()) < 2e-3


def test_verdict() -> None:
    moves, facts = torch.full((20,), 6.0), {"expected_kld": 1e-3}
    history = [{"unfitted": False, "uncertain_share": 0.0}, {}]
    assert warnings_of(history, facts, moves) == []
    assert "harmonic" in warnings_of([], {}, None)[0]
    some = torch.cat([torch.zeros(3), torch.full((17,), 8.0)])
    for present, found_facts, text in (
        (None, facts, "no sampling round yet"),
        (0.5 * moves, facts, "accepted 3 proposals of the flow on average"),
        (some, facts, "15% of the walkers accepted no proposal"),
        (moves, {"expected_kld": 0.1}, "expected forward KLD is 1.0e-01"),
        (moves, {}, "expected forward KLD is unknown"),
    ):
        (found,) = warnings_of(history, found_facts, present)
        assert text in found
    lost = [{"unfitted": True, "uncertain_share": 0.09}]
    assert len(warnings_of(lost, facts, moves)) == 2
