"""Importance weights against sums written out and distributions that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cgbench_methods.lib.estimators.importance import (
    effective_sample_size,
    free_energies,
    kish,
    largest_share,
    pareto_tail_index,
)


def test_free_energies_are_those_of_the_mean_weight() -> None:
    log_weights = torch.log(torch.tensor([[1.0, 2.0, 3.0, 10.0]], dtype=torch.float64))
    assert float(free_energies(log_weights)) == pytest.approx(-math.log(4.0))
    assert float(free_energies(log_weights, clip_largest=3)) == pytest.approx(-math.log(7.0 / 4))


def test_effective_sample_size_of_known_weights() -> None:
    log_weights = torch.log(torch.tensor([1.0, 2.0, 3.0, 10.0], dtype=torch.float64))
    assert float(effective_sample_size(log_weights)) == pytest.approx(16**2 / 114 / 4)
    assert float(effective_sample_size(torch.zeros(50))) == pytest.approx(1.0)
    assert float(effective_sample_size(torch.tensor([0.0, *[-math.inf] * 3]))) == pytest.approx(0.25)
    assert effective_sample_size(torch.full((3,), -math.inf)) == 0.0 == effective_sample_size(torch.zeros(0))
    several = effective_sample_size(torch.tensor([[0.0, 0.0], [5000.0, 0.0]]))  # of weights beyond any float, too
    assert several.tolist() == pytest.approx([1.0, 0.5])


def test_both_forms_of_the_effective_sample_size_agree(generator) -> None:
    log_weights = 2.0 * torch.randn(7, 300, generator=generator, dtype=torch.float64)
    weights = log_weights.exp().numpy()
    total, squares = weights.sum(1), (weights**2).sum(1)
    np.testing.assert_allclose(kish(total, squares, 300), effective_sample_size(log_weights), rtol=1e-12)
    np.testing.assert_allclose(kish(total, squares), 300 * effective_sample_size(log_weights), rtol=1e-12)
    assert kish(0.0, 0.0) == 0.0 and kish(12.0, 48.0) == 3.0


def test_largest_share_of_known_weights() -> None:
    log_weights = torch.log(torch.tensor([1.0, 2.0, 3.0, 10.0]))
    assert largest_share(log_weights - 900.0) == pytest.approx(10 / 16, rel=1e-4)  # float32 is exact to 6e-5 there
    assert largest_share(torch.full((3,), -math.inf)) == 0.0


@pytest.mark.parametrize("shape", [0.2, 0.9])
def test_pareto_tail_index(shape, generator) -> None:
    uniform_numbers = torch.rand(40_000, generator=generator, dtype=torch.float64)
    log_weights = -shape * uniform_numbers.log()  # Pareto: the tail index is `shape`
    assert pareto_tail_index(log_weights) == pytest.approx(shape, abs=0.15)
