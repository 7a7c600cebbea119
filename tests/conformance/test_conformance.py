"""The promises of the harness, kept by every registered method on every registered system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgbench.pmf import PMF
from cgbench.run import Run
from cgbench.system import Reference

FILES = ("record.json", "curve.csv", "pmf.npz", "pmf.png")


class Killed(BaseException):
    """Stands for a kill: nothing in the harness catches it."""


def kill_after(estimates: int) -> Any:
    """An observer that kills the run when so many estimates have been taken."""
    seen = []

    def observer(run: Run) -> None:
        seen.append(run.ledger.total)
        if len(seen) == estimates:
            raise Killed

    return observer


def content(run: Run) -> bytes:
    return (run.folder.path / "pmf.npz").read_bytes()


def counts(folder: Path) -> Any:
    return json.loads((folder / "record.json").read_text())["evaluations"]


def scores(folder: Path) -> list[str]:
    """The curve without its wall times."""
    rows = [line.split(",") for line in (folder / "curve.csv").read_text().splitlines()]
    wall = rows[0].index("wall_s")
    return [",".join(cell for index, cell in enumerate(row) if index != wall) for row in rows]


def test_ledger_equals_the_counter_in_the_potential(start, counter) -> None:
    run = start()
    record = run.execute()
    assert record.status == "finished"
    assert record.evaluations.total == counter.count > 0
    assert sum(record.evaluations.by_phase.values()) == counter.count
    assert "unassigned" not in record.evaluations.by_phase
    assert all((run.folder.path / name).exists() for name in FILES)


def test_same_seed_same_bits_and_another_seed_another_result(start) -> None:
    first, again, other = start("first"), start("again"), start("other", seed=4)
    for run in (first, again, other):
        run.execute()
    assert content(first) == content(again)
    assert scores(first.folder.path) == scores(again.folder.path)
    assert content(first) != content(other)


def test_killed_at_any_estimate_it_ends_bit_identically(start) -> None:
    whole = start("whole")
    whole.execute()
    estimates = len(whole.curve)
    assert estimates >= 2
    for number in sorted({1, estimates // 2, estimates - 1}):
        folder = f"killed-{number}"
        run = start(folder, on_estimate=kill_after(number))
        with pytest.raises(Killed):
            run.execute()
        del run  # and with it the lock on its folder
        resumed = start(folder)
        assert resumed.resume()
        resumed.execute()
        assert content(resumed) == content(whole)
        assert counts(resumed.folder.path) == counts(whole.folder.path)
        assert scores(resumed.folder.path) == scores(whole.folder.path)


def test_probabilities_are_positive_and_normalised(start) -> None:
    estimates: list[PMF] = []

    def keep(run: Run) -> None:
        assert run.pmf is not None
        estimates.append(run.pmf)

    start(on_estimate=keep).execute()
    for pmf in estimates:
        assert np.all(pmf.probability > 0)
        assert pmf.probability.sum() == pytest.approx(1.0)


def test_the_truth_changes_nothing(start, monkeypatch) -> None:
    """With another reference, or none at all, a run makes the same estimates at the same cost."""
    honest = start("honest")
    honest.execute()
    turned = start("turned")
    true = turned.referee.reference
    assert true is not None
    probability = np.roll(true.pmf.probability, 17)
    turned.referee.reference = Reference(PMF(true.pmf.cvs, probability + 1e-6), None, 0.0, "made up", "none")
    turned.execute()
    assert content(turned) == content(honest)
    blind = start("blind")
    blind.referee.reference = None
    record = blind.execute()
    assert content(blind) == content(honest)
    assert record.metrics["forward_kld"] is None
    assert record.evaluations == honest.record("finished").evaluations


def test_problem_does_not_offer_the_truth(start) -> None:
    problem = start().problem
    offered = [name for name in dir(problem) if not name.startswith("_")]
    assert not any("reference" in name or "basin" in name for name in offered)


def test_budget_is_never_passed_and_the_last_estimate_stands(start, counter) -> None:
    whole = start("whole")
    total = whole.execute().evaluations.total
    counter.count = 0
    budget = int(0.8 * total)
    run = start("budget", budget=budget)
    record = run.execute()
    assert record.status in ("budget", "failed")
    assert record.evaluations.total == counter.count <= budget
    assert "would pass the budget" in record.reason
    if record.status == "budget":
        assert (run.folder.path / "pmf.npz").exists() and run.curve
    else:
        assert not run.curve
    tiny = start("tiny", budget=1)
    counter.count = 0
    record = tiny.execute()
    assert record.status == "failed" and "no estimate within the budget" in record.reason
    assert record.evaluations.total == counter.count <= 1


def test_a_larger_budget_goes_on_from_where_it_ended(start) -> None:
    whole = start("whole")
    total = whole.execute().evaluations.total
    first = start("extended", budget=int(0.8 * total))
    ended = first.execute()
    del first
    second = start("extended", budget=2 * total)
    went_on = second.resume()
    assert went_on == (ended.status == "budget")
    record = second.execute()
    assert record.status == "finished"
    assert content(second) == content(whole)
    assert record.evaluations.total == total


def test_global_generators_are_left_alone(start) -> None:
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002 - it is the global state that is tested
    before, before_numpy = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    start().execute()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)


def test_record_is_valid_json_and_complete(start) -> None:
    run = start()
    run.execute()
    record = json.loads((run.folder.path / "record.json").read_text())
    assert record["schema_version"] == 1 and record["status"] == "finished"
    assert record["config_hash"] and record["system_version"] and record["reference"]["sha256"]
    assert set(record["metrics"]) == set(run.referee.metric_names)
    assert record["provenance"]["packages"]["torch"]
    with np.load(run.folder.path / "pmf.npz") as arrays:
        assert arrays["probability"].sum() == pytest.approx(1.0)
        assert arrays["free_energy"].min() == 0.0
        for axis, bins in enumerate(run.system.cvs.bins):
            assert arrays[f"centers_{axis}"].shape == (bins,)
