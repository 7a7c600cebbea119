"""Data that the recipes keep for figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.cgflow.common.stages import Stages, efficiency_map

TORUS = CollectiveVariables(("phi", "psi"), (-math.pi,) * 2, (math.pi,) * 2, (True, True))
LINE = CollectiveVariables(("s",), (-2.5,), (1.1,), (False,), unit="")


def test_efficiency_by_place() -> None:
    """Equal weights give 1; weights of which one in k is not zero give 1/k."""
    left = torch.full((1000, 1), -2.3, dtype=torch.float64)
    right = torch.full((1000, 1), 0.9, dtype=torch.float64)
    few = torch.full((5, 1), -0.5, dtype=torch.float64)
    one_in_four = torch.where(torch.arange(1000) % 4 == 0, 0.7, -torch.inf)
    excess = torch.cat([torch.full((1000,), 0.3), one_in_four, torch.zeros(5)]).double()
    found = efficiency_map(LINE, torch.cat([left, right, few]), excess).numpy()
    assert found.shape == (50,)
    assert found[2] == pytest.approx(1.0) and found[-3] == pytest.approx(0.25)
    assert np.isnan(found[24:30]).all()


def test_efficiency_keeps_the_axes_and_closes_the_torus() -> None:
    s = torch.tensor([[-3.1, 1.6]], dtype=torch.float64).repeat(200, 1)
    found = np.isfinite(efficiency_map(TORUS, s, torch.zeros(200, dtype=torch.float64)).numpy())
    assert found.shape == (50, 50)
    assert found[0, 37] and found[49, 37] and not found[37, 0] and not found[25, 37]


def fill(cvs: CollectiveVariables, points: list[int]) -> Stages:
    stages = Stages(cvs)
    cells = int(np.prod(cvs.bins))
    for number, count in enumerate(points):
        mean = torch.linspace(0, 5, cells, dtype=torch.float64) + number
        chosen = torch.full((count, len(cvs)), float(number), dtype=torch.float64)
        stages.add("train", 100 * number, mean, 0.1 * mean, 0.4, chosen)
    return stages


def test_first_middle_and_last_stage_with_points() -> None:
    arrays = fill(TORUS, [0, 2, 1, 3, 1, 2, 0, 0]).arrays()
    assert arrays["stage_evaluations"].tolist() == [100, 300, 500]
    assert arrays["stage_free_energy"].shape == (3, 100, 100) and arrays["stage_free_energy"].dtype == np.float32
    assert arrays["stage_of_point"].tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert arrays["stage_points"][:, 0].tolist() == [1, 1, 3, 3, 3, 5, 5]
    assert fill(TORUS, [0, 0]).arrays() == {}


def test_all_stages_of_one_cv_survive_a_checkpoint() -> None:
    stages = fill(LINE, [0, 2, 1, 3, 0])
    again = Stages(LINE)
    again.load_state_dict(stages.state_dict())
    arrays = again.arrays()
    assert len(arrays["stage_name"]) == 5 and np.allclose(
        arrays["stage_free_energy"][3], np.linspace(0, 5, 100), atol=1e-3
    )
    assert all(np.array_equal(value, arrays[name]) for name, value in stages.arrays().items())
