"""Lengths along CVs of different units."""

from __future__ import annotations

import math

import pytest
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.lengths import apart, units

ANGLES = CollectiveVariables(("phi", "psi"), (-math.pi,) * 2, (math.pi,) * 2, (True, True))
MIXED = CollectiveVariables(("angle", "distance"), (-180.0, 0.2), (180.0, 1.0), (True, False))


def test_radians_of_torsions_are_left_as_they_are() -> None:
    assert units(ANGLES).tolist() == [1.0, 1.0]
    a, b = torch.rand(2, 50, 2, dtype=torch.float64)
    assert torch.equal(apart(ANGLES, a, b), ANGLES.difference(a, b).norm(dim=1))


def test_a_whole_domain_counts_as_two_pi() -> None:
    a, b = torch.tensor([[-170.0, 0.2], [0.0, 0.2]]), torch.tensor([170.0, 1.0])
    expected = [math.hypot(math.radians(20), 2 * math.pi), math.hypot(math.radians(170), 2 * math.pi)]
    assert apart(MIXED, a, b).tolist() == pytest.approx(expected, rel=1e-6)
    assert apart(MIXED, a[:, None], a[None]).shape == (2, 2)
