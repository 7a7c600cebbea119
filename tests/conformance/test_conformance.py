"""The promises of the harness, kept by every registered method on every registered system.

The checks are those of ``cgbench check``. What they count is counted once more here, in the innermost functions of the
potentials, which only these tests know.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from cgbench.conformance import CHECKS
from cgbench.contracts.system import maps_of

FILES = ("record.json", "curve.csv", "pmf.npz", "pmf.png")


@pytest.mark.parametrize("name", CHECKS)
def test_check(name: str, checked) -> None:
    _ = checked.whole  # made while the potential counts
    assert CHECKS[name](checked.pair)


def test_ledger_equals_the_counter_in_the_potential(ended) -> None:
    record = ended.whole.ended
    assert record.status == "finished"
    assert record.evaluations.total == ended.evaluations > 0
    assert sum(record.evaluations.by_phase.values()) == ended.evaluations
    assert "unassigned" not in record.evaluations.by_phase


def test_record_is_valid_json_and_complete(ended) -> None:
    folder = ended.whole.folder
    record = json.loads((folder / "record.json").read_text())
    assert record["schema_version"] == 3 and record["status"] == "finished"
    assert record["config_hash"] and record["system_version"] and record["reference"]["sha256"]
    assert set(record["metrics"]) == set(ended.prepare("names").referee.metric_names)
    metrics = record["metrics"]
    claims = metrics["coverage_68"] is not None  # not every method has errors
    assert all(value is not None for name, value in metrics.items() if claims or not name.startswith("coverage"))
    assert record["provenance"]["packages"]["torch"]
    assert all((folder / name).exists() for name in FILES)
    with np.load(folder / "pmf.npz") as arrays:
        assert arrays["probability"].sum() == pytest.approx(1.0)
        assert arrays["free_energy"].min() == 0.0
        for axis, bins in enumerate(maps_of(ended.pair.plan.system)[0].cvs.bins):
            assert arrays[f"centers_{axis}"].shape == (bins,)


def test_budget_is_never_passed_in_the_potential(checked) -> None:
    budget = int(0.8 * checked.evaluations)
    with checked.counter() as counter:
        run = checked.prepare("budget", budget=budget)
        record = run.execute()
    assert record.status in ("budget", "failed")
    assert record.evaluations.total == counter.count <= budget
    assert "the budget" in record.reason
    assert (run.folder.path / "pmf.npz").exists() == bool(run.curve) == (record.status == "budget")
