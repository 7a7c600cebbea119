"""Weighted samples of a trained flow, from the checkpoint of a run, against an exact PMF."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cgbench.errors import UserError
from cgbench.running.registry import build_system
from cgbench.running.run import run, trained_method


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    run("muller_brown", "cgflow_al", preset="smoke", budget=175, out=out, threads=1)  # one less than it would use
    return out / "muller_brown" / "cgflow_al" / "smoke" / "seed-0"


def test_the_weights_give_the_exact_populations_and_are_counted(folder: Path) -> None:
    system = build_system("muller_brown")
    method = trained_method(folder, system)
    drawn = method.weighted_samples(100_000, torch.Generator().manual_seed(5))
    assert drawn is not None
    assert method.problem.evaluations == 100_000
    s, log_weights = drawn
    weights = torch.exp(log_weights - log_weights.max()).numpy()
    parts = [
        system.cvs.histogram(points, values)
        for points, values in zip(np.array_split(s.numpy(), 20), np.array_split(weights, 20), strict=True)
    ]
    # the flow was hardly trained and has not found the third basin, so the first two are compared with each other
    first, second = np.array_split(np.arange(system.reference().pmf.probability.size), 8)[:2]
    exact = system.reference().pmf.probability.ravel()
    expected = exact[first].sum() / (exact[first].sum() + exact[second].sum())
    inside = np.array([one.ravel()[first].sum() for one in parts])
    total = inside + np.array([one.ravel()[second].sum() for one in parts])
    share = inside.sum() / total.sum()
    error = (inside - share * total).std(ddof=1) * len(parts) ** 0.5 / total.sum()
    assert error < 0.005
    assert abs(share - expected) < 4 * error


def test_drawing_changes_nothing_and_is_reproducible(folder: Path) -> None:
    method = trained_method(folder, build_system("muller_brown"))
    first, second = (method.weighted_samples(50, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first is not None and second is not None
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_mistakes_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        trained_method(tmp_path, build_system("muller_brown"))
    with pytest.raises(UserError, match="holds a run on muller_brown, version .+, not on aldp"):
        trained_method(folder, build_system("aldp"))
    copy = shutil.copytree(folder, tmp_path / "copy")
    for name in ("latest.pt", "previous.pt"):
        (copy / "checkpoint" / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match="has no checkpoint; a run that finishes removes it"):
        trained_method(copy, build_system("muller_brown"))
