"""The promises of the harness, kept by every registered method on every registered system.

The checks are those of ``cgbench check``. What they count is counted once more here, in the innermost functions of the
potentials, which only these tests know.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from cgbench.conformance import CHECKS, Pair

FILES = ("record.json", "curve.csv", "pmf.npz", "pmf.png")


@pytest.mark.parametrize("name", CHECKS)
def test_check(name: str, checked: Pair) -> None:
    assert CHECKS[name](checked)


def test_ledger_equals_the_counter_in_the_potential(start, counter) -> None:
    run = start()
    record = run.execute()
    assert record.status == "finished"
    assert record.evaluations.total == counter.count > 0
    assert sum(record.evaluations.by_phase.values()) == counter.count
    assert "unassigned" not in record.evaluations.by_phase


def test_budget_is_never_passed_in_the_potential(start, counter, checked) -> None:
    budget = int(0.8 * checked.whole.ended.evaluations.total)
    counter.count = 0
    run = start("budget", budget=budget)
    record = run.execute()
    assert record.status in ("budget", "failed")
    assert record.evaluations.total == counter.count <= budget
    assert "would exceed the budget" in record.reason
    assert (run.folder.path / "pmf.npz").exists() == bool(run.curve) == (record.status == "budget")


def test_record_is_valid_json_and_complete(checked: Pair) -> None:
    folder = checked.whole.folder
    record = json.loads((folder / "record.json").read_text())
    assert record["schema_version"] == 1 and record["status"] == "finished"
    assert record["config_hash"] and record["system_version"] and record["reference"]["sha256"]
    assert set(record["metrics"]) == set(checked.prepare("names").referee.metric_names)
    assert record["provenance"]["packages"]["torch"]
    assert all((folder / name).exists() for name in FILES)
    with np.load(folder / "pmf.npz") as arrays:
        assert arrays["probability"].sum() == pytest.approx(1.0)
        assert arrays["free_energy"].min() == 0.0
        for axis, bins in enumerate(checked.plan.system.cvs.bins):
            assert arrays[f"centers_{axis}"].shape == (bins,)
