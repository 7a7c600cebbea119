"""Routes that confirm a reference, on a molecule whose PMF is known, and what they say about its uncertainty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cgbench.contracts.pmf import basin_mask
from cgbench.contracts.reference import Reference
from cgbench.errors import UserError
from cgbench_systems.molecular.reference.confirming.frozen import (
    DoubleStepRoute,
    FrozenRoute,
    HalfStepRoute,
    MetropolisRoute,
)
from cgbench_systems.molecular.reference.confirming.importance import ImportanceRoute
from cgbench_systems.molecular.reference.confirming.uncertainty import (
    basin_checks,
    basin_differences,
    total_uncertainty,
)
from tests.systems.molecular.reference.small_molecule import Chain


class SmallHalf(HalfStepRoute):
    walkers, groups, heating, equilibration, block_steps, stride = 256, 16, 100, 4, 100, 10


class SmallDouble(DoubleStepRoute):
    walkers, groups, heating, equilibration, block_steps, stride = 256, 16, 100, 4, 100, 5


class SmallMetropolis(MetropolisRoute):
    walkers, groups, heating, equilibration, block_steps, stride, length = 256, 16, 100, 4, 200, 10, 10


class KnownChain(Chain):
    """The chain, whose reference is the exact PMF."""

    def reference(self) -> Reference:
        return Reference(self.exact(), None, 0.0, "exact", "")


@pytest.mark.parametrize("kind", [SmallHalf, SmallDouble, SmallMetropolis])
def test_populations_are_exact_and_a_route_continues_bit_identically(kind: type[FrozenRoute], tmp_path: Path) -> None:
    chain = KnownChain()
    route = kind(chain, tmp_path)
    route.run(20, progress=lambda text: None)
    mask = basin_mask(chain.cvs, chain.basins[1].contains)
    groups = route.group_histograms()
    shares = groups[:, mask].sum(1) / groups.sum(axis=(1, 2))
    error = shares.std(ddof=1) / len(shares) ** 0.5
    assert error < 0.03
    assert abs(shares.mean() - chain.exact().population(mask)) < 4 * error
    route.checkpoint.unlink()
    kind(chain, tmp_path).run(2, progress=lambda text: None)
    continued = kind(chain, tmp_path)
    assert continued.load()
    continued.run(3, progress=lambda text: None)
    np.testing.assert_array_equal(np.array(continued.blocks), np.array(route.blocks[:3]))


class Uniform:
    """Draws s over the domain; the weights are exact."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def weighted_samples(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        s = (2 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 1) * torch.pi
        p = self.chain.exact().probability.ravel()
        return s, 700.0 + torch.from_numpy(np.log(p[self.chain.cvs.bin_index(s.numpy())]))


def test_importance_sampling_finds_the_populations(tmp_path: Path) -> None:
    chain = KnownChain()
    with pytest.raises(UserError, match="--from"):
        ImportanceRoute(chain, tmp_path).run(1)
    whole = ImportanceRoute(chain, tmp_path, sampler=Uniform(chain))
    whole.run(3, progress=lambda text: None)
    whole.checkpoint.unlink()
    ImportanceRoute(chain, tmp_path, sampler=Uniform(chain)).run(1, progress=lambda text: None)
    second = ImportanceRoute(chain, tmp_path, sampler=Uniform(chain))
    assert second.load()
    second.run(3, progress=lambda text: None)
    np.testing.assert_array_equal(np.array(whole.blocks), np.array(second.blocks))
    groups = second.group_histograms()
    assert len(groups) == 12 and second.steps == 60_000
    basins = {
        basin.name: {
            "population": chain.exact().population(basin_mask(chain.cvs, basin.contains)),
            "free_energy_standard_error_kT": 0.0,
        }
        for basin in chain.basins
    }
    top = max(one["population"] for one in basins.values())
    for one in basins.values():
        one["free_energy_kT"] = float(np.log(top / one["population"]))
    (found,) = basin_differences(chain, basins, groups).values()
    assert abs(found["z"]) < 4 and found["standard_error_kT"] < 0.02
    p = chain.exact().probability
    size, _ = second.quality()
    assert size == pytest.approx(60_000 / (p.size * (p**2).sum()), rel=0.02)


def test_differences_and_their_errors_are_those_of_drawn_histograms() -> None:
    chain, random = KnownChain(), np.random.default_rng(0)
    p = chain.exact().probability
    values = [p[basin_mask(chain.cvs, basin.contains)].sum() for basin in chain.basins]
    names = [basin.name for basin in chain.basins]
    top = max(values)
    basins = {
        name: {"population": v, "free_energy_standard_error_kT": 0.0, "free_energy_kT": np.log(top / v)}
        for name, v in zip(names, values, strict=True)
    }
    z = []
    for _ in range(200):
        groups = random.multinomial(2000, p.ravel(), size=16).reshape(16, *p.shape).astype(float)
        (one,) = basin_differences(chain, basins, groups).values()
        z.append(one["z"])
        assert one["standard_error_kT"] == pytest.approx((sum(1 / v for v in values) / 32_000) ** 0.5, rel=0.6)
    assert abs(np.mean(z)) < 4 / 200**0.5
    assert 0.85 < np.std(z) < 1.3  # Student's t of 15 degrees of freedom: 1.07


def test_the_bias_of_the_reference_follows_from_each_route() -> None:
    bias = 0.04  # of the reference, of second order in the step
    basins = {"rare": {"free_energy_standard_error_kT": 0.003}}

    def route(difference: float, error: float, factor: float | None) -> dict[str, object]:
        one = {"difference_kT": difference, "standard_error_kT": error, "z": difference / error}
        return {"bias_per_difference": factor, "basins": {"rare": one}}

    double = DoubleStepRoute.bias_per_difference.fget(DoubleStepRoute)  # type: ignore[attr-defined]
    half = HalfStepRoute.bias_per_difference.fget(HalfStepRoute)  # type: ignore[attr-defined]
    routes = {
        "umbrella": route(0.5, 0.3, None),
        "double_step": route(3 * bias, 0.012, double),
        "half_step": route(-0.75 * bias, 0.012, half),
        "metropolis": route(-bias, 0.012, -1.0),
    }
    for name in routes:
        only = {name: routes[name]}
        entry = total_uncertainty(basins, only)["rare"]
        assert ("bias_kT" in entry) == (name != "umbrella")
        if name != "umbrella":
            assert entry["bias_kT"] == pytest.approx(bias)
    entry = total_uncertainty(basins, routes)["rare"]
    assert entry["by_route"] == "double_step"
    assert entry["bias_standard_error_kT"] == pytest.approx(0.004)
    assert entry["bias_bound_kT"] == pytest.approx(bias + 1.96 * 0.004)
    assert entry["of_route"] == "double_step"
    assert entry["largest_difference_kT"] == pytest.approx(3 * bias - 1.96 * 0.012)


def test_a_check_fails_from_three_standard_errors() -> None:
    one = {"difference_kT": 0.031, "standard_error_kT": 0.01, "z": 3.1}
    assert not basin_checks("half_step", {"rare": one})[0].passed
    assert basin_checks("half_step", {"rare": one | {"z": -2.9}})[0].passed
