"""The equilibrium configurations for scoring densities, against the certificate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cgbench.contracts.pmf import basin_mask
from cgbench.scoring.referee import Referee
from cgbench_systems.aldp import AlanineDipeptide


@pytest.fixture(scope="module")
def samples(aldp: AlanineDipeptide) -> torch.Tensor:
    return aldp.reference_samples()


def test_they_are_in_the_state_space_and_all_different(aldp, samples) -> None:
    assert samples.shape == (2000, 22, 3) and samples.dtype == torch.float64
    assert bool(aldp.coordinates.in_state_space(samples).all())
    assert len(np.unique(samples[:, 8].numpy(), axis=0)) == 2000


def test_mean_energy_is_the_certified_one(aldp, samples) -> None:
    """The samples are independent apart from their starts (z < 4)."""
    energy = aldp.reduced_energy_and_gradient(samples)[0].numpy()
    certified = Referee(aldp).reference.details["mean_reduced_energy"]
    error = math.hypot(energy.std(ddof=1) / math.sqrt(len(energy)), certified["standard_error"])
    assert energy.mean() == pytest.approx(certified["value"], abs=4 * error) and error < 0.2


def test_basins_hold_their_share(aldp, samples) -> None:
    probability = Referee(aldp).reference.pmf.probability
    counts = aldp.cvs.histogram(aldp.collective_variables(samples).numpy())
    for basin in aldp.basins:
        mask = basin_mask(aldp.cvs, basin.contains)
        share = probability[mask].sum()
        error = math.sqrt(share * (1 - share) / len(samples))
        assert counts[mask].sum() / len(samples) == pytest.approx(share, abs=4 * error)


def test_symmetry_number_counts_the_exchanges_of_equal_hydrogens(aldp) -> None:
    assert aldp.coordinates.symmetry_number == 27
    assert aldp.coordinate_sets["literature"].symmetry_number == 1
