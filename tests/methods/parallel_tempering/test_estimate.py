"""Weights and PMF from samples of all temperatures, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.lib.estimators.drift import SIGNIFICANT
from cgbench_methods.lib.estimators.exposure import exposure
from cgbench_methods.lib.estimators.jackknife import student_factor
from cgbench_methods.parallel_tempering import estimate
from cgbench_methods.parallel_tempering.estimate import Tempered
from cgbench_methods.parallel_tempering.reweighting import Reweighting, reweighting

LADDER = np.array([1.0, 1.5, 2.2])
DEGREES = 8
TORUS = CollectiveVariables(("phi", "psi"), (-math.pi, -math.pi), (math.pi, math.pi), (True, True), (40, 40))
PHI = CollectiveVariables(("phi",), (-math.pi,), (math.pi,), (True,), (40,))
LINE = CollectiveVariables(("s",), (-1.0,), (1.0,), (False,), (50,))


def oscillators(samples: int, ladders: int, seed: int) -> torch.Tensor:
    """Energies of oscillators in equilibrium, ``[samples, ladders, temperatures]``, plus a constant."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(30.0 + LADDER * random.gamma(0.5 * DEGREES, size=(samples, ladders, len(LADDER))))


def test_free_energies_of_oscillators() -> None:
    """f = -(degrees / 2) ln(T / T0), plus the constant at its temperature; 30 parts of the samples give the error."""
    truth = -0.5 * DEGREES * np.log(LADDER) + 30.0 * (1 / LADDER - 1)
    parts = np.array([reweighting(oscillators(100, 4, seed), LADDER, 10_000).free_energy for seed in range(30)])
    z = (parts.mean(0) - truth)[1:] / (parts.std(0, ddof=1)[1:] / math.sqrt(len(parts)))
    assert np.abs(z).max() < 4 and parts.std(0)[1:].max() < 0.1


def test_weights_give_averages_at_the_lowest_temperature() -> None:
    """The mean of the energy and of its square over all samples, weighted, are those at T0."""
    moments = []
    for seed in range(30):
        energies = oscillators(100, 4, seed)
        weights = np.exp(reweighting(energies, LADDER, 10_000).log_weights(energies.numpy()) + 30.0)
        assert weights.sum() * np.exp(-30.0) == pytest.approx(1.0, abs=1e-5)  # up to f of T0, which is zero
        u = energies.numpy() - 30.0
        moments.append([(weights * u**power).sum() / weights.sum() for power in (1, 2)])
    half = 0.5 * DEGREES
    z = (np.mean(moments, 0) - [half, half * (half + 1)]) / (np.std(moments, 0, ddof=1) / math.sqrt(30))
    assert np.abs(z).max() < 4


@pytest.mark.parametrize("largest", [260.0, 1e5, 1e10])
def test_weights_of_many_energies_are_exact_whatever_the_largest(largest: float) -> None:
    """Against the formula of the module, ``ln w = -u - ln sum_k N_k exp(f_k - b_k u)``, in extended precision."""
    counts, free_energy = np.array([5.0, 3.0, 2.0]), np.array([0.0, -20.0, -35.0])
    energies = np.random.default_rng(1).uniform(-40.0, 260.0, (3, 10_000))
    energies[0, :3] = np.nan, np.inf, -np.inf
    energies[2, 7] = largest
    found = Reweighting(1 / LADDER, counts, free_energy).log_weights(energies)
    assert found.shape == energies.shape and np.isnan(found[0, :3]).all()
    u = energies.ravel()[3:].astype(np.longdouble)
    terms = np.log(counts) + free_energy - u[:, None] / LADDER
    highest = terms.max(1)
    exact = -u - highest - np.log(np.exp(terms - highest[:, None]).sum(1))
    np.testing.assert_allclose(found.ravel()[3:], exact.astype(np.float64), rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("largest", [1e5, 1e7, 1e10, 1e30])
def test_one_enormous_energy_leaves_free_energies_as_they_are(largest: float) -> None:
    """Of 6,000 samples, all of which MBAR is solved with; the exact free energies are known."""
    energies = oscillators(500, 4, 1)
    plain = reweighting(energies, LADDER, 10_000)
    energies[499, 3, 2] = largest
    found = reweighting(energies, LADDER, 10_000)
    truth = -0.5 * DEGREES * np.log(LADDER) + 30.0 * (1 / LADDER - 1)
    np.testing.assert_allclose(found.free_energy, plain.free_energy, atol=5e-3)
    np.testing.assert_allclose(found.free_energy, truth, atol=0.1)


def test_unusable_samples_and_empty_temperatures() -> None:
    energies = oscillators(200, 4, 0)
    energies[::2, 1] = torch.nan
    few = reweighting(energies, LADDER, 10_000)
    assert few.counts.tolist() == [700.0] * 3
    energies[:, :, 1] = torch.nan
    without = reweighting(energies, LADDER, 10_000)
    assert len(without.free_energy) == 2
    assert without.free_energy[1] == pytest.approx(few.free_energy[2], abs=0.3)
    energies[:, :, 1:] = torch.nan
    alone = reweighting(energies, LADDER, 10_000)
    assert np.ptp(alone.log_weights(energies[:, :, 0].numpy()[1::2])) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="no sample is usable"):
        reweighting(energies * torch.nan, LADDER, 10_000)


def torus_energy(s: np.ndarray) -> np.ndarray:
    return 3.0 * np.cos(s[..., 0]) + 1.5 * np.cos(2 * s[..., 1]) - np.sin(s[..., 0] - s[..., 1])


def torus_samples(samples: int, ladders: int, seed: int) -> torch.Tensor:
    """Exact samples of ``torus_energy`` plus six further degrees of freedom, at all temperatures."""
    random = np.random.default_rng(seed)
    grid = TORUS.grid()
    columns = []
    for temperature in LADDER:
        p = np.exp(-torus_energy(grid) / temperature)
        s = grid[random.choice(len(grid), size=(samples, ladders), p=p / p.sum())]
        u = torus_energy(s) + temperature * random.gamma(3.0, size=s.shape[:2])
        columns.append(np.concatenate([u[..., None], s], axis=2))
    return torch.from_numpy(np.stack(columns, axis=2)).float()


def truth() -> np.ndarray:
    p = np.exp(-torus_energy(TORUS.grid())).reshape(TORUS.bins)
    return p / p.sum()


def test_pmf_of_all_and_of_some_collective_variables() -> None:
    """From 19,200 samples; the histogram of those at T0 alone is twenty times worse."""
    samples = torus_samples(400, 16, 3)
    tempered = Tempered(samples, LADDER, 8, 10_000)
    orders = (2, 3, 4, 5, 6)
    both = tempered.combine((0, 1), TORUS, orders)
    assert forward_kld(truth(), both.pmf.probability) < 2e-3
    plain = TORUS.histogram(samples[:, :, 0, 1:].reshape(-1, 2).numpy()) + 0.5
    assert forward_kld(truth(), plain / plain.sum()) > 4e-2
    one = tempered.combine((0,), PHI, orders)
    assert forward_kld(truth().sum(1), one.pmf.probability) < 5e-4
    assert tempered.usable == 400 * 16 * 3 and 6400 < tempered.effective_sample_size < 19_200
    assert both.facts["visited_part_of_the_grid"] > 0.8 and both.facts["expected_kld"] < 5e-3


def test_errors_of_the_jackknife_are_the_spread_of_independent_runs() -> None:
    low = truth().sum(1) > 1e-3
    found = [Tempered(torus_samples(60, 16, seed), LADDER, 4, 1_000) for seed in range(20)]
    pmfs = [each.combine((0,), PHI, (3,)).pmf for each in found]
    aligned = [-np.log(pmf.probability) + (truth().sum(1) * np.log(pmf.probability)).sum() for pmf in pmfs]
    claimed = np.mean([pmf.free_energy_std**2 for pmf in pmfs], axis=0)[low].mean() / student_factor(4) ** 2
    spread = np.var(aligned, axis=0, ddof=1)[low].mean()
    assert math.sqrt(claimed / spread) == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("largest", [1e7, 1e30, math.inf])
def test_one_enormous_energy_does_not_change_the_pmf(largest: float) -> None:
    samples = torus_samples(500, 16, 5)
    spoiled = samples.clone()
    spoiled[3, 3, 2, 0] = largest  # a sample that free energies are not solved with
    one, other = (Tempered(each, LADDER, 4, 5_000) for each in (samples, spoiled))
    assert other.effective_sample_size == pytest.approx(one.effective_sample_size, rel=1e-3)
    found, expected = (each.combine((0,), PHI, (3,)).pmf.probability for each in (other, one))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_unusable_samples_have_no_weight() -> None:
    samples = torus_samples(100, 16, 5)
    spoiled = torch.cat([samples, torch.full_like(samples[:20], torch.nan)])
    one, other = (Tempered(each, LADDER, 4, 100_000).combine((0,), PHI, (3,)).pmf for each in (samples, spoiled))
    np.testing.assert_allclose(one.probability, other.probability, rtol=1e-6)


# ---- high places ----------------------------------------------------------------------------------

HOT = np.array([1.0, 1.8, 3.2, 5.8, 10.0, 20.0])
_X = TORUS.centers(0)
PLATEAU = 2.0 * (1 - np.cos(_X))[:, None] + 40.0 / (1 + np.exp((1.2 - np.abs(_X)) / 0.3))[None, :]


def climbing(samples: int, ladders: int, seed: int) -> torch.Tensor:
    """Equilibrium in the free energy `PLATEAU` with other degrees of freedom, as for `Tempered`."""
    random = np.random.default_rng(seed)
    found = np.empty((samples, ladders, len(HOT), 3), np.float32)
    for k, temperature in enumerate(HOT):
        p = np.exp(-PLATEAU / temperature).ravel()
        chosen = random.choice(p.size, (samples, ladders), p=p / p.sum())
        inside = random.uniform(-0.5, 0.5, (2, samples, ladders)) * 2 * math.pi / len(_X)
        found[..., k, 0] = PLATEAU.ravel()[chosen] + temperature * random.gamma(4.0, size=chosen.shape)
        for axis, index in enumerate(np.divmod(chosen, len(_X))):
            found[..., k, 1 + axis] = _X[index] + inside[axis]
    return torch.from_numpy(found)


def test_places_that_hot_walkers_alone_visit_do_not_spoil_the_basin(monkeypatch) -> None:
    """A plateau at 40 kT, where half of the hottest walkers are, with a steep slope that low orders do not follow."""
    truth = np.exp(-PLATEAU) / np.exp(-PLATEAU).sum()
    orders = (2, 3, 4, 6, 8, 12, 16)
    tempered = [Tempered(climbing(300, 16, seed), HOT, 8, 20_000) for seed in range(3)]
    for one in tempered:
        assert forward_kld(truth, one.combine((0, 1), TORUS, orders).pmf.probability) < 5e-3
    monkeypatch.setattr(estimate, "RANGE", 100.0)
    assert forward_kld(truth, tempered[0].combine((0, 1), TORUS, orders).pmf.probability) > 1.0


def test_errors_contain_what_the_walkers_have_not_forgotten() -> None:
    """In the first half, walkers are in one half of the basin three times as often as later."""
    samples = climbing(400, 16, 5)
    random = torch.rand(200, 16, len(HOT), generator=torch.Generator().manual_seed(1))
    moved = (samples[:200, :, :, 1] > 0) & (random < 0.5)
    drifting = samples.clone()
    drifting[:200, :, :, 1] = torch.where(moved, -1.0, 1.0) * samples[:200, :, :, 1]
    still, drifted = (Tempered(one, HOT, 8, 20_000).combine((0,), PHI, (2, 3, 4)) for one in (samples, drifting))
    assert still.facts["drift"] < SIGNIFICANT < drifted.facts["drift"]
    truth = np.exp(-PLATEAU).sum(1) / np.exp(-PLATEAU).sum()
    for found in (still, drifted):
        std = found.pmf.free_energy_std
        assert std is not None
        error = np.log(truth / found.pmf.probability)
        error -= (truth * error).sum()
        assert (np.abs(error) < 1.96 * std)[truth > 1e-3].mean() > 0.85
        assert found.facts["expected_kld"] == pytest.approx(0.5 * (found.pmf.probability * std**2).sum())


# ---- exposure -------------------------------------------------------------------------------------


def test_exposure_of_equal_weights_is_their_inverse() -> None:
    visits = np.random.default_rng(0).poisson(20.0, 50)
    visits[20:30] = 0
    found = exposure(LINE, 0.2 * visits, 0.04 * visits, visits)
    np.testing.assert_allclose(found, 5.0, rtol=1e-6)


def test_exposure_does_not_follow_single_weights() -> None:
    """With a few samples of random weights in each bin, visits over exposure are the mean of their sum.

    With the exposure of each bin alone they are much less: bins with large weights then count for little.
    """
    random = np.random.default_rng(2)
    weights = random.exponential(size=(50, 5))
    total, squares = weights.sum(1), (weights**2).sum(1)
    found = exposure(LINE, total, squares, np.full(50, 5))
    fitted = (found * total).sum() / found.sum()
    assert fitted == pytest.approx(total.mean(), rel=0.02)
    assert np.log(found).std() < 0.5 * np.log(total / squares).std()
    alone = total / squares
    assert (alone * total).sum() / alone.sum() < 0.9 * total.mean()


def test_exposure_follows_a_steep_slope() -> None:
    """Weights grow by a factor of 2.2 from bin to bin, with a hundred samples in each: the inverse of the weight."""
    weight = np.exp(0.8 * np.arange(50.0))
    found = exposure(LINE, 100 * weight, 100 * weight**2, np.full(50, 100))
    np.testing.assert_allclose(np.log(found)[2:-2], -np.log(weight)[2:-2], atol=0.01)
