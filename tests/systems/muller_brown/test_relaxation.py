"""How fast plain Monte Carlo on Müller-Brown forgets its start: what the MD curve takes for granted."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from scipy.sparse.linalg import eigsh

from cgbench_methods.lib.sampling.metropolis import Metropolis
from cgbench_systems.muller_brown import MullerBrown

ROOT = Path(__file__).parents[3]
STEP_SIZE = 0.15  # of preset `long` of md
CROSSES = -0.8  # s of the highest barrier, roughly: the basin of the start is to its left
HIGHEST = 25.0  # kT above the minimum


def relaxation_times(spacing: float) -> np.ndarray:
    """The three slowest relaxation times of random-walk Metropolis on a grid, in steps.

    The transition matrix ``P`` of proposals between grid points is made symmetric by ``sqrt(p_i / p_j) P_ij``; its
    eigenvalues are those of ``P``.
    """
    axes = np.arange(-2.2, 1.6, spacing), np.arange(-0.9, 2.6, spacing)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    energy = MullerBrown().reduced_energy(torch.from_numpy(grid.reshape(-1, 2))).numpy().reshape(grid.shape[:2])
    kept = energy < energy.min() + HIGHEST
    number = np.where(kept, np.cumsum(kept).reshape(kept.shape) - 1, -1)
    reach = math.ceil(4.5 * STEP_SIZE / spacing)
    shifts = np.arange(-reach, reach + 1)
    proposal = np.exp(-0.5 * (shifts * spacing / STEP_SIZE) ** 2)
    proposal /= proposal.sum()
    entries, leaving = [], np.zeros(kept.sum())
    for a in shifts:
        for b in shifts:
            here = tuple(slice(max(0, -n), size - max(0, n)) for n, size in zip((a, b), kept.shape, strict=True))
            there = tuple(slice(max(0, n), size - max(0, -n)) for n, size in zip((a, b), kept.shape, strict=True))
            both = kept[here] & kept[there] & ((a, b) != (0, 0))
            rise = (energy[there] - energy[here])[both]
            share = proposal[a + reach] * proposal[b + reach]
            entries.append((number[here][both], number[there][both], share * np.exp(-0.5 * np.abs(rise))))
            leaving[number[here][both]] += share * np.exp(-np.maximum(rise, 0))
    rows, columns, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    matrix = sparse.csr_matrix((values, (rows, columns)), shape=(kept.sum(),) * 2) + sparse.diags(1 - leaving)
    one, *others = np.sort(eigsh(matrix, k=4, which="LA", return_eigenvectors=False))[::-1]
    assert one == pytest.approx(1, abs=1e-12)
    return -1 / np.log(others)


def population() -> float:
    """Equilibrium population beyond the barrier, from the exact PMF."""
    pmf = MullerBrown().reference().pmf
    return float(pmf.probability[pmf.cvs.centers(0) > CROSSES].sum())


def test_one_mode_is_slow() -> None:
    """7,200 steps, whatever the spacing of the grid; all others are below 50."""
    for spacing in (0.1, 0.06):
        slow, *fast = relaxation_times(spacing)
        assert slow == pytest.approx(7200, rel=0.005) and max(fast) < 50


def test_walkers_relax_as_the_grid_says() -> None:
    """Of 4,096 walkers from one start, as many have crossed after 2,000 steps as the slowest mode says."""
    system, walkers, steps = MullerBrown(), 4096, 2000
    start = system.initial_configuration().expand(walkers, 2)
    dynamics = Metropolis(system.reduced_energy, start, STEP_SIZE, torch.Generator().manual_seed(1))
    dynamics.step(steps)
    crossed = float((system.collective_variables(dynamics.positions) > CROSSES).double().mean())
    expected = population() * (1 - math.exp(-steps / 7200))
    assert crossed == pytest.approx(expected, abs=3 * math.sqrt(expected / walkers))


def test_walkers_of_the_md_curve_are_long_enough() -> None:
    """The shortest have 34 relaxation times; their start costs a forward KLD of 1.2e-5 at most.

    A walker of L steps lacks the share tau / L of the population beyond the barrier, on average.
    """
    paths = list((ROOT / "runs" / "muller_brown" / "md" / "long").glob("*/record.json"))
    assert paths
    for path in paths:
        config = json.loads(path.read_text())["config"]
        shortest = config["steps"] / 8  # eight walkers take over where one ends, and so on
        assert config["step_size"] == STEP_SIZE and shortest > 33 * 7200
        lacking, p = 7200 / shortest, population()
        assert -p * math.log(1 - lacking) - (1 - p) * math.log1p(p * lacking / (1 - p)) < 1.2e-5
