"""Scores of the default presets, within bands measured over several seeds: a loss of accuracy fails here.

Forward KLD of the final PMF:

- aldp, cgflow_al, seeds 0 to 4: the harmonic minima alone have 5.9e-3, 4.6e-3, 8.5e-3, 7.4e-3, 2.6e-3 after 3,500 to
  3,900 evaluations; one round of training later (6,700 to 7,100) the PMF has 1.2e-3, 5.2e-4, 5.5e-4, 3.4e-4, 6.1e-4.
  Before the slopes of the minima were used, it had 4.1e-3 (median of seeds 0 to 5) at 9,100.
- muller_brown: cgflow_al, seeds 0 to 4, 2.4e-6 to 8.6e-6; cgflow_grid, seeds 0 to 4, 3.1e-6 to 7.5e-6. Seed 0 has
  4.7e-6 and 4.6e-6. With one start for each minimum, cgflow_al had 1.0e-5 without training, 1.7e-5 without the mean
  force.

Effective sample size of the fourth training round on muller_brown: 0.961 to 0.978 in ten runs of both methods; 0.88 to
0.90 without training, 0.94 to 0.96 without path gradients.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from cgbench.running.run import prepare, run


def test_alanine_dipeptide_at_seven_thousand_evaluations(tmp_path: Path) -> None:
    """Medians of three seeds, which end after the search for minima and one or two rounds of training."""
    harmonic, trained, states = [], [], []
    for seed in (0, 1, 2):
        job = prepare("aldp", "cgflow_al", seed=seed, budget=7_500, out=tmp_path, threads=1)
        record = job.execute()
        assert record.status == "budget" and record.evaluations.total <= 7_500
        klds = [row["forward_kld"] for row in job.curve]
        harmonic.append(klds[0])
        trained.append(klds[-1])
        states.append(abs(record.metrics["delta_f_error/phi>0"]))
    assert statistics.median(harmonic) < 1.5e-2
    assert statistics.median(trained) < 1.2e-3 and max(trained) < 4e-3
    assert statistics.median(states) < 0.25  # kT


@pytest.mark.parametrize("method", ["cgflow_al", "cgflow_grid"])
def test_muller_brown(method: str, tmp_path: Path) -> None:
    record = run("muller_brown", method, out=tmp_path, threads=1)
    assert record.status == "finished" and record.evaluations.total < 7_000
    assert record.metrics["forward_kld"] < 1e-5
    assert record.diagnostics["rounds"][3]["effective_sample_size"] > 0.965
    for basin in ("intermediate", "product (lower right)"):
        assert abs(record.metrics[f"delta_f_error/{basin}"]) < 0.03  # kT; at most 0.02
    assert record.metrics["coverage_95"] >= 0.8  # of the claimed errors; at least 0.87
