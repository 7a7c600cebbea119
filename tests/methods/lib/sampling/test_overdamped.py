"""MALA and overdamped Langevin dynamics against exact distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench.errors import UserError
from cgbench.running.run import prepare
from cgbench_methods.lib.sampling.overdamped import Overdamped
from cgbench_systems.muller_brown import MullerBrown, exact_probability

STIFFNESS = 2.0


def well(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return 0.5 * STIFFNESS * (x**2).sum(1), STIFFNESS * x


def variance(adjusted: bool, step_size: float) -> tuple[float, float]:
    """Return the variance of independent walkers in the well after relaxation, and its standard error."""
    generator = torch.Generator().manual_seed(3)
    walkers = Overdamped(well, torch.zeros(20_000, 2, dtype=torch.float64), step_size, generator, adjusted)
    walkers.step(120)
    found = float((walkers.positions**2).mean())
    return found, found * math.sqrt(2 / walkers.positions.numel())


def test_mala_has_the_exact_variance_in_a_harmonic_well() -> None:
    for step_size in (0.4, 0.9):
        found, error = variance(True, step_size)
        assert abs(found - 1 / STIFFNESS) < 4 * error


def test_overdamped_langevin_has_the_variance_of_its_time_step() -> None:
    """``1 / (k (1 - a^2 k / 4))``, which is far from ``1 / k`` at this step size."""
    found, error = variance(False, 0.9)
    assert abs(found - 1 / (STIFFNESS * (1 - 0.9**2 * STIFFNESS / 4))) < 4 * error
    assert found - 1 / STIFFNESS > 20 * error


def test_mala_keeps_the_density_of_muller_brown() -> None:
    """Walkers drawn from the density by quadrature still have it after 60 steps: by chi-square, z < 4."""
    system = MullerBrown()
    axes = torch.linspace(-2.2, 1.6, 761, dtype=torch.float64), torch.linspace(-0.8, 2.6, 681, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 2)
    p = torch.exp(-system.reduced_energy_and_gradient(grid)[0])
    generator = torch.Generator().manual_seed(5)
    start = grid[torch.multinomial(p, 20_000, replacement=True, generator=generator)]
    start = start + 0.005 * (torch.rand(start.shape, generator=generator, dtype=torch.float64) - 0.5)
    walkers = Overdamped(system.reduced_energy_and_gradient, start, 0.12, generator, True)
    walkers.step(60)
    assert 0.3 < walkers.accepted < 0.98
    moved = (walkers.positions - start).square().sum(1).sqrt()
    assert float(moved.median()) > 0.1
    exact = exact_probability(system.cvs)
    counts = system.cvs.histogram(system.collective_variables(walkers.positions).numpy())
    often = 20_000 * exact > 20
    found, expected = np.append(counts[often], counts[~often].sum()), np.append(exact[often], exact[~often].sum())
    chi2, freedom = ((found - 20_000 * expected) ** 2 / (20_000 * expected)).sum(), len(found) - 1
    assert freedom > 10 and (chi2 - freedom) / math.sqrt(2 * freedom) < 4


@pytest.mark.parametrize("dynamics", ["metropolis", "mala", "overdamped_langevin"])
def test_md_with_each_dynamics_finds_the_basin(dynamics: str, tmp_path) -> None:
    """Evaluations whose gradient was used are recorded apart; the start is evaluated once."""
    overrides = [f"dynamics={dynamics}", "walkers=100", "steps=300", "equilibration_steps=50", "step_size=0.06"]
    record = prepare("muller_brown", "md", preset="smoke", out=tmp_path, threads=1, overrides=overrides).execute()
    assert record.status == "finished" and record.evaluations.total == 100 * (300 + 50 + 1)
    assert record.evaluations.with_gradient == (0 if dynamics == "metropolis" else record.evaluations.total)
    assert ("dynamics" in record.config) == (dynamics != "metropolis")  # published configurations do not have the key


def test_a_diverged_walker_returns_to_the_start_of_the_block() -> None:
    start = torch.tensor([[0.1], [0.2]], dtype=torch.float64)
    walkers = Overdamped(
        lambda x: (torch.where(x[:, 0] > 0.15, math.inf, 0.0), torch.zeros_like(x)),
        start.clone(),
        1e-3,
        torch.Generator().manual_seed(0),
        False,
    )
    walkers.step(3)
    assert walkers.restore_diverged().tolist() == [False, True]
    assert walkers.positions[1] == start[1] and walkers.positions[0] != start[0]


def test_molecules_keep_their_langevin_dynamics(tmp_path) -> None:
    with pytest.raises(UserError, match="systems without masses"):
        prepare("aldp", "md", preset="smoke", out=tmp_path, threads=1, overrides=["dynamics=mala"])


def test_a_gradient_counts_only_if_it_is_asked_for() -> None:
    ledger = Ledger()
    problem = Problem(MullerBrown(), ledger)
    x = problem.initial_configuration().expand(3, 2)
    problem.reduced_energy(x)
    assert (ledger.total, ledger.with_gradient) == (3, 0)
    problem.reduced_energy(x.clone().requires_grad_())
    problem.reduced_energy_and_gradient(x)
    assert (ledger.total, ledger.with_gradient) == (9, 6)
