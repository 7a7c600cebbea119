"""Numerical failures in the training of flows: steps, weighted samples, ensembles and weights."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.problem import Problem
from cgbench.counting.anomalies import Anomalies
from cgbench.counting.ledger import Ledger
from cgbench.running.run import Run, prepare
from cgbench_methods.cgflow.harmonic import flow as harmonic_flow
from cgbench_methods.cgflow.harmonic.atlas.minima import STIFFEST, HarmonicMinima
from cgbench_methods.cgflow.harmonic.fit.samples import WeightedSamples
from cgbench_methods.cgflow.published import labels as published_labels
from cgbench_methods.cgflow.published import training as published_training
from cgbench_methods.cgflow.published.ensemble import NetworkEnsemble
from cgbench_methods.flow_ais_bootstrap.ais import AnnealedImportanceSampling, Points, hmc_transition
from cgbench_methods.flow_ais_bootstrap.config import EstimateConfig
from cgbench_methods.lib.estimators.importance import effective_sample_size, free_energies, largest_share
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate
from cgbench_methods.lib.estimators.weighted_histogram import WeightedHistogram
from cgbench_methods.lib.flows.steps import sound_step
from cgbench_systems.muller_brown import MullerBrown

LINE = CollectiveVariables(("s",), (-2.5,), (1.1,), (False,), unit="")
PUBLISHED = ("recipe.by_energy.epochs_first=2", "recipe.by_energy.samples=4", "recipe.seeding.steps=40")
PUBLISHED += ("recipe.by_example.epochs=2", "recipe.ensemble.epochs=2", "recipe.walk.max_steps=40")
PUBLISHED += ("recipe.walk.max_iterations=1", "recipe.ensemble.hidden=[8]", "recipe.flow.gaussian_hidden=[8]")


def problem() -> Problem:
    return Problem(MullerBrown(), Ledger(None), Anomalies())


def counts(given: Problem) -> dict[str, tuple[int, int]]:
    return {kind: tuple(pair) for kind, pair in given._anomalies.state_dict().items()}


# ---- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, "loss"])
def test_one_step_without_a_finite_gradient_leaves_adam_unchanged(broken: float | str, clip_norm: float | None) -> None:
    given = problem()
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    twin = copy.deepcopy(layer)
    optimiser, other = (torch.optim.Adam(one.parameters(), lr=0.1) for one in (layer, twin))
    x = torch.ones(4, 3)

    def step(module: torch.nn.Module, optimiser: torch.optim.Optimizer, sound: bool) -> bool:
        optimiser.zero_grad(set_to_none=True)
        module(x).square().mean().backward()
        if not sound and broken != "loss":
            module.weight.grad[0, 0] = broken
        return sound_step(given, optimiser, clip_norm=clip_norm, sound=sound or broken != "loss")

    for number in range(4):
        assert step(layer, optimiser, number != 1) == (number != 1)
    for _ in range(3):
        assert step(twin, other, True)
    for mine, theirs in zip(layer.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine.isfinite().all()
    assert counts(given)["skipped_step"] == (1, 7)


def spoil(flow: torch.nn.Module) -> None:
    next(iter(flow.parameters())).grad.fill_(torch.nan)


def once(function, number: int, after):
    """Change the result of one of the calls."""
    calls = []

    def changed(*args, **options):
        result = function(*args, **options)
        calls.append(1)
        return after(args, result) if len(calls) == number else result

    return changed


def check_flow(job: Run, skipped: int) -> None:
    record = job.execute()
    assert record.status == "finished", record.reason
    assert record.anomalies["skipped_step"].count == skipped
    owner = getattr(job.method, "recipe", job.method)
    moments = [value for state in owner.optimiser.state.values() for value in state.values()]
    assert len(moments) > 3
    for tensor in [*owner.flow.parameters(), *moments]:
        assert tensor.isfinite().all()


@pytest.mark.parametrize("path_gradients", [True, False])
def test_harmonic_recipe_skips_a_step(path_gradients: bool, tmp_path: Path, monkeypatch) -> None:
    def after(args, result):
        spoil(args[0])
        return result

    name = "path_gradient_step" if path_gradients else "plain_gradient_step"
    monkeypatch.setattr(harmonic_flow, name, once(getattr(harmonic_flow, name), 2, after))
    overrides = (f"recipe.training.path_gradients={str(path_gradients).lower()}",)
    check_flow(prepare("muller_brown", "cgflow_al", preset="smoke", overrides=overrides, out=tmp_path), 1)


@pytest.mark.parametrize("name", ["by_example_loss", "reverse_kl_losses"])
def test_published_recipe_skips_a_step(name: str, tmp_path: Path, monkeypatch) -> None:
    def after(args, result):  # finite, but its gradient is not
        if name == "by_example_loss":
            return result * torch.nan
        root = torch.sqrt(0.0 * next(iter(args[0].parameters())).sum())
        return result[0] + root, result[1]

    monkeypatch.setattr(published_training, name, once(getattr(published_training, name), 2, after))
    check_flow(prepare("muller_brown", "cgflow_al", preset="paper", overrides=PUBLISHED, out=tmp_path), 1)


def test_flow_ais_bootstrap_skips_a_step(tmp_path: Path) -> None:
    job = prepare("muller_brown", "flow_ais_bootstrap", preset="smoke", out=tmp_path)
    correct = job.method.buffer.correct

    def after(args, result):
        return result * torch.nan

    job.method.buffer.correct = once(correct, 3, after)
    check_flow(job, 1)
    assert all(math.isfinite(entry["loss"]) for entry in job.method.history[-2:])


# ---- weighted samples -----------------------------------------------------------------------------


def store(count: int = 400) -> WeightedSamples:
    generator = torch.Generator().manual_seed(3)
    found = WeightedSamples(LINE)
    s = -2.5 + 3.6 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    noise = 0.1 * torch.randn(count, generator=generator, dtype=torch.float64)
    found.add(s, -s[:, 0].square() + noise, -2 * s)
    return found


def model() -> FourierSurrogate:
    return FourierSurrogate(LINE, 8, 0.4, 4.0)


def test_weights_that_are_not_finite_change_nothing() -> None:
    samples, plain = store(), store()
    broken = torch.tensor([torch.nan, torch.inf]).double()
    assert samples.add(torch.zeros(2, 1).double(), broken, torch.zeros(2, 1).double(), new_group=False) == 2
    fits = []
    for each in (samples, plain):
        surrogate = model()
        each.fit(surrogate, 50.0)
        fits.append(surrogate.coefficients)
    assert torch.equal(*fits)


def test_samples_without_any_weight() -> None:
    samples = WeightedSamples(LINE)
    assert samples.weightless
    assert samples.add(torch.zeros(5, 1).double(), torch.full((5,), -torch.inf).double()) == 0
    assert samples.weightless and len(samples) == 5
    samples.add(torch.zeros(1, 1).double(), torch.zeros(1).double())
    assert not samples.weightless
    assert effective_sample_size(torch.full((5,), -torch.inf)) == 0.0


def test_one_weight_at_1e300_is_truncated() -> None:
    samples, surrogate = store(), model()
    samples.fit(surrogate, 50.0)
    before = surrogate.on_grid()[0]
    samples.add(torch.zeros(1, 1).double(), torch.tensor([300 * math.log(10)]).double(), new_group=False)
    samples.fit(surrogate, 50.0)
    after = surrogate.on_grid()[0]
    assert after.isfinite().all()
    away = torch.from_numpy(LINE.grid()[:, 0] < -0.5)
    change = (after - before)[away]
    assert float(change.std()) < 0.5  # one sample of 401 changes the fit in its neighbourhood only
    quality = samples.quality(surrogate, samples.last_group)
    assert quality["largest_share"] == pytest.approx(1.0) and math.isfinite(quality["effective_sample_size"])


def test_a_failed_fit_leaves_the_model_as_it_was(tmp_path: Path, monkeypatch) -> None:
    job = prepare("muller_brown", "cgflow_al", preset="smoke", out=tmp_path)
    recipe = job.method.recipe
    estimates = recipe.estimates()
    next(estimates)
    next(estimates)
    before, variances = recipe.surrogate.mean(torch.zeros(1, 1).double()), recipe.samples.variances.state_dict()

    def no_fit(self, surrogate, truncation, sweeps=2):
        surrogate.coefficients = surrogate.coefficients * torch.nan
        surrogate._on_grid, self.variances.dispersion = None, math.nan

    def flat(self, surrogate, truncation, sweeps=2):
        surrogate._inverse_factor, surrogate._on_grid = torch.zeros_like(surrogate._inverse_factor), None

    def singular(self, surrogate, truncation, sweeps=2):
        no_fit(self, surrogate, truncation)
        torch.linalg.cholesky(-torch.eye(2))

    for broken in (no_fit, flat, singular):
        monkeypatch.setattr(WeightedSamples, "fit", broken)
        recipe._fit_surrogate()
        assert torch.equal(recipe.surrogate.mean(torch.zeros(1, 1).double()), before)
        assert recipe.samples.variances.dispersion == variances["dispersion"]
        assert torch.equal(recipe.samples.variances.field, variances["field"])
        assert any("could not be fitted" in warning for warning in recipe.diagnostics()["warnings"])
    assert job.anomalies.counts()["collapsed_ensemble"][0] == 3


def test_minima_whose_hessian_cannot_be_inverted_are_skipped() -> None:
    class Target:
        def energy_and_gradients(self, s: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
            stiffness = torch.where(s[:, :1] > 0, 1e3 * STIFFEST, 1.0)
            return 0.5 * (stiffness * y * y).sum(1), stiffness * y, torch.zeros_like(s)

    s = torch.tensor([[-1.0], [1.0], [-2.0]]).double()
    unit = torch.eye(2).double().expand(3, 2, 2)
    options = {"steps": 3, "tolerance": 0.1, "stiffness_floor": 0.05}
    minima = HarmonicMinima.find(Target(), s, torch.zeros(3, 2).double(), unit, **options)
    assert minima.s[:, 0].tolist() == [-1.0, -2.0] and minima.free_energy.isfinite().all()


def test_a_search_that_finds_no_minimum_ends(tmp_path: Path) -> None:
    job = prepare("muller_brown", "cgflow_al", preset="smoke", out=tmp_path)
    recipe = job.method.recipe
    recipe.search.extend = lambda s: 0
    list(recipe.search.grow())
    assert len(recipe.minima) == 1


# ---- ensembles ------------------------------------------------------------------------------------


def ensemble() -> NetworkEnsemble:
    return NetworkEnsemble(4, 1, (8,), torch.Generator().manual_seed(1))


FIT = {"share": 0.8, "epochs": 20, "batch": 32, "learning_rate": 1e-2}


@pytest.mark.parametrize("value", [0.0, 7.5])
def test_constant_labels_are_fitted_twice_and_have_no_spread(value: float) -> None:
    given, networks = problem(), ensemble()
    x = torch.linspace(-1, 1, 50).double()[:, None]
    fitted = []
    fit = networks.fit
    networks.fit = lambda *args, **options: (fit(*args, **options), fitted.append(networks.weights[0].clone()))
    assert not networks.fit_with_spread(x, torch.full((50,), value).double(), given, **FIT)
    mean, std = networks.mean_and_std(x)
    assert mean.numpy() == pytest.approx(value, abs=1e-4) and std.isfinite().all()
    assert counts(given)["collapsed_ensemble"] == (2, 2)
    assert len(fitted) == 2 and not torch.equal(*fitted)


def test_an_ensemble_with_spread_is_fitted_once_and_a_broken_one_again() -> None:
    given, networks, plain = problem(), ensemble(), ensemble()
    x = torch.linspace(-1, 1, 50).double()[:, None]
    labels = x[:, 0].square()
    assert networks.fit_with_spread(x, labels, given, **FIT)
    plain.fit(x, labels, **FIT)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(networks.weights, plain.weights, strict=True))
    assert counts(given) == {"skipped_step": (0, 40), "collapsed_ensemble": (0, 1)}
    initialise, calls = networks.initialise, []

    def diverged_at_first() -> None:
        initialise()
        calls.append(1)
        if len(calls) == 1:
            networks.weights[0].fill_(torch.nan)

    networks.initialise = diverged_at_first
    assert networks.fit_with_spread(x, labels, given, **FIT)
    assert networks.mean_and_std(x)[0].isfinite().all()
    assert counts(given) == {"skipped_step": (40, 120), "collapsed_ensemble": (1, 3)}


def test_active_learning_with_a_collapsed_ensemble_warns(tmp_path: Path, monkeypatch) -> None:
    constant = lambda log_weights, clip_largest=0: torch.zeros(len(log_weights), dtype=torch.float64)  # noqa: E731
    monkeypatch.setattr(published_labels, "free_energies", constant)
    record = prepare("muller_brown", "cgflow_al", preset="paper", overrides=PUBLISHED, out=tmp_path).execute()
    assert record.status == "finished" and record.anomalies["collapsed_ensemble"].count == 2
    assert any("no spread in iteration 1" in warning for warning in record.diagnostics["warnings"])


def test_labels_whose_square_overflows_are_skipped(tmp_path: Path, monkeypatch) -> None:
    def labels(log_weights: torch.Tensor, clip_largest: int = 0) -> torch.Tensor:
        found = free_energies(log_weights, clip_largest)
        found[0], found[1] = 1e30, torch.nan
        return found

    monkeypatch.setattr(published_labels, "free_energies", labels)
    record = prepare("muller_brown", "cgflow_al", preset="paper", overrides=PUBLISHED, out=tmp_path).execute()
    assert record.status == "finished" and record.anomalies["unusable_sample"].count >= 2
    assert "collapsed_ensemble" not in record.anomalies


# ---- weights --------------------------------------------------------------------------------------


def test_share_of_the_largest_weight() -> None:
    assert largest_share(torch.zeros(4)) == pytest.approx(0.25)
    assert largest_share(torch.tensor([0.0, 690.0, torch.nan, torch.inf, -torch.inf])) == pytest.approx(1.0)
    assert largest_share(torch.full((3,), -torch.inf)) == 0.0 == largest_share(torch.zeros(0))
    assert effective_sample_size(torch.tensor([0.0, 0.0, torch.nan, torch.inf])) == pytest.approx(0.5)


def histogram(sets: list[tuple[torch.Tensor, torch.Tensor]], **options) -> WeightedHistogram:
    found = WeightedHistogram(LINE, EstimateConfig(**options))
    for s, log_weights in sets:
        found.add(s, log_weights, len(s))
    return found


def draws(count: int, shift: float = 0.0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(4)
    s = [-0.7 + 0.5 * torch.randn(200, 1, generator=generator, dtype=torch.float64) for _ in range(count)]
    return [(each, -each[:, 0].square() + shift) for each in s]


@pytest.mark.parametrize("truncation", [1000.0, None])
def test_histogram_with_one_weight_at_1e300(truncation: float | None) -> None:
    sets = draws(6)
    sets[3][1][7] = 300 * math.log(10)
    found = histogram(sets, truncation=truncation)
    assert np.isfinite(found.pmf().probability).all() and 0.0 < found.effective_samples < 1200
    assert 0.0 < found.flow_effective_sample_size < 1.0
    if truncation is None:
        assert found.largest_share > 0.99
    else:
        plain = histogram(draws(6))
        assert found.truncated == 1 and plain.largest_share < 0.01
        assert found.largest_share < 0.9 and found.log_normalisation < plain.log_normalisation + 2.0


def test_samples_that_are_not_finite_have_no_weight() -> None:
    found, plain = histogram([]), histogram([])
    for s, log_weights in draws(4):
        plain.add(s, log_weights, 203)
        spoilt = torch.cat([s, torch.tensor([[torch.nan], [torch.inf], [0.0]]).double()])
        found.add(
            spoilt,
            torch.cat([log_weights, torch.tensor([0.0, torch.nan, torch.nan]).double()]).masked_fill(
                ~spoilt.isfinite().all(1), -torch.inf
            ),
            203,
        )
    np.testing.assert_array_equal(found.halves, plain.halves)


def test_weights_that_grow_beyond_a_float_are_rescaled() -> None:
    """Weights of a flow in training, which grow from set to set by more than a float64 can hold in all."""
    steps = [5.0 * number for number in range(300)]
    sets = [(s, log_weights + shift) for (s, log_weights), shift in zip(draws(300), steps, strict=True)]
    found = histogram(sets, truncation=None)
    late = histogram(sets[-60:], truncation=None)
    assert np.isfinite(found.halves).all() and found.offset > 1000
    assert found.log_normalisation == pytest.approx(late.log_normalisation - math.log(5.0), abs=0.3)
    np.testing.assert_allclose(found.pmf().probability, late.pmf().probability, atol=0.02)


def test_annealing_without_a_single_chain_and_with_broken_ends() -> None:
    def log_density(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return -0.5 * z.square().sum(1), -z

    generator = torch.Generator().manual_seed(1)
    options = {"distributions": 2, "leapfrog_steps": 2, "step_size": 0.3, "generator": generator}
    ais = AnnealedImportanceSampling(log_density, log_density, **options)
    ends, log_weights = ais.run(Points.at(torch.zeros(0, 2), log_density, log_density))
    assert len(ends.z) == len(log_weights) == 0
    assert ais.step_sizes == [0.3, 0.3] and ais.acceptance == [0.0, 0.0]
    start = Points.at(torch.zeros(50, 2), log_density, log_density)
    for value in (torch.nan, torch.inf, -torch.inf):
        broken = lambda z, value=value: (torch.full((len(z),), value), torch.zeros_like(z))  # noqa: E731
        ends, acceptance = hmc_transition(start, 1.0, 0.1, 1, log_density, broken, generator)
        assert not acceptance.any() and torch.equal(ends.z, start.z)
