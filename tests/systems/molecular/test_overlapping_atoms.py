"""Coinciding atoms and non-finite positions: no crash, and an infinite or very large energy."""

from __future__ import annotations

import pytest
import torch

from cgbench.contracts.problem import Problem
from cgbench.counting.anomalies import Anomalies
from cgbench.counting.ledger import Ledger
from cgbench_systems.aldp import AlanineDipeptide

WAYS = ("two bonded atoms", "two distant atoms", "nearly the same", "all at the origin", "on a line", "NaN", "infinite")


def configurations(x: torch.Tensor) -> torch.Tensor:
    """One invalid configuration for each of `WAYS`, between two valid ones."""
    changed = x.repeat(len(WAYS) + 2, 1, 1)
    changed[1, 1] = x[0]
    changed[2, 20] = x[0]
    changed[3, 20] = x[0] + 1e-9
    changed[4] = 0.0
    changed[5, :, 1:] = 0.0
    changed[6, 3, 1] = torch.nan
    changed[7, 3, 1] = torch.inf
    return changed


@pytest.mark.parametrize("engine", [*AlanineDipeptide.engines, "torch without kernels"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_their_energy_is_infinite_or_very_large(engine: str, dtype: torch.dtype, monkeypatch) -> None:
    if engine not in AlanineDipeptide.engines:
        engine = "torch"
        monkeypatch.setenv("CGBENCH_NATIVE", "0")
    anomalies = Anomalies()
    problem = Problem(AlanineDipeptide(engine=engine), Ledger(None), anomalies)
    x = configurations(problem.initial_configuration().to(dtype))
    energy, gradient = problem.reduced_energy_and_gradient(x)
    assert not energy.isnan().any() and gradient.isfinite().all()
    lowest = problem.reduced_energy_and_gradient(x[:1])[0]
    torch.testing.assert_close(energy[[0, -1]], lowest.expand(2), rtol=1e-5, atol=1e-3)  # valid ones are not affected
    assert (energy[1:-1] > 1e10).all()
    for number, way in enumerate(WAYS, start=1):
        if way not in ("nearly the same", "on a line"):
            assert energy[number].isposinf(), way
            assert not gradient[number].any(), way
    count, occasions = anomalies.counts()["nonfinite_energy"]
    assert count == int(energy.isinf().sum()) >= 5 and occasions == len(x) + 1


def test_padding_for_the_compiled_kernel_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is padded with its first configuration, which may be an invalid one."""
    from cgbench_systems.molecular.forcefield import TorchForceField
    from tests.systems.alanine import make_system

    monkeypatch.setenv("CGBENCH_NATIVE", "0")
    field = TorchForceField.from_openmm(make_system(), 300.0)
    x = configurations(AlanineDipeptide().initial_configuration()).flip(0)[1:]
    plain = field.energy_and_gradient(x)
    field._compiled = field._kernel
    for mine, theirs in zip(field.energy_and_gradient(x), plain, strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True)


@pytest.mark.parametrize("steps", [0, 2])
def test_a_walker_whose_atoms_collide_is_restored(steps: int) -> None:
    """It continues from the last start of a block where its energy was finite: this one, or the one before."""
    from cgbench_methods.lib.sampling.walkers import end_block, make_walkers

    anomalies = Anomalies()
    problem = Problem(AlanineDipeptide(), Ledger(None), anomalies)
    start = problem.initial_configuration().repeat(3, 1, 1)
    options = {"time_step": 0.001, "friction": 1.0, "step_size": 0.1}
    dynamics = make_walkers(problem, start, torch.Generator().manual_seed(0), **options)
    dynamics.step(5)
    assert not end_block(problem, dynamics).any()
    before = dynamics.positions.clone()
    dynamics.step(steps)
    collided = dynamics.positions.clone()
    collided[1, 20] = collided[1, 0]
    dynamics.positions = collided
    dynamics.step(5)
    assert end_block(problem, dynamics).tolist() == [False, True, False]
    assert torch.equal(dynamics.positions[1], (before if steps else start)[1].to(before))
    dynamics.step(20)
    assert not end_block(problem, dynamics).any()
    assert anomalies.counts()["diverged_walker"] == (1, 9)
