"""What the summary of a run says where there is no reference."""

from __future__ import annotations

import numpy as np
import pytest

from cgbench.cli.run import _summary
from cgbench.contracts.maps import Estimate
from cgbench.contracts.pmf import PMF
from cgbench.results.verdict import own_errors, verdict
from cgbench.running.record import ClaimedErrors, Record
from cgbench.running.run import prepare
from cgbench.running.state import _claimed_errors
from cgbench_systems.muller_brown import MullerBrown


@pytest.fixture
def record(tmp_path) -> Record:
    """A record without an opinion of the method."""
    record = prepare("muller_brown", "md", preset="smoke", out=str(tmp_path)).execute()
    return record.model_copy(update={"diagnostics": {}})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"status": "failed"}, "no: the run failed"),
        ({"status": "budget"}, "not yet: the budget"),
        ({"diagnostics": {"warnings": ["few samples", "more"]}}, "no: few samples"),
        ({"diagnostics": {"reliable": False, "reason": "heavy weights"}}, "no: heavy weights"),
        ({}, "unknown: md claims no errors"),
        ({"claimed_errors": ClaimedErrors(mean_kT=0.1, largest_kT=0.5, below_kT=8.0)}, "yes, as far as"),
    ],
)
def test_verdicts(changes: dict, expected: str, record: Record) -> None:
    assert verdict(record.model_copy(update=changes)).startswith(expected)


@pytest.mark.parametrize(("found", "expected"), [(None, []), ("too short", ["too short"]), (("a", 1), ["a", "1"])])
def test_warnings_of_any_form(found: object, expected: list[str], record: Record, tmp_path) -> None:
    warned = record.model_copy(update={"diagnostics": {"warnings": found}})
    lines = [
        line.split("warning")[1].strip() for line in _summary(warned, tmp_path).splitlines() if "  warning " in line
    ]
    assert lines == warned.warnings == expected
    assert verdict(warned).startswith(f"no: {expected[0]}" if expected else "unknown")


def test_claimed_errors_are_those_below_8_kt() -> None:
    cvs = MullerBrown().cvs
    energy = np.linspace(0.0, 16.0, 100)
    pmf = PMF(cvs, np.exp(-energy), np.where(energy < 8.0, 0.1, 9.0))
    claimed = _claimed_errors(Estimate((pmf,)))
    assert claimed is not None and claimed.mean_kT == pytest.approx(0.1) and claimed.largest_kT == pytest.approx(0.1)
    assert _claimed_errors(Estimate((PMF(cvs, np.exp(-energy)),))) is None


def test_a_run_without_reference_is_summarised_by_its_own_errors(record: Record, tmp_path) -> None:
    claims = ClaimedErrors(mean_kT=0.1234, largest_kT=0.5, below_kT=8.0)
    unscored = record.model_copy(
        update={"metrics": {"forward_kld": None}, "claimed_errors": claims, "reason": "no reference yet"}
    )
    text = _summary(unscored, tmp_path)
    assert "own errors    mean 0.12 kT, largest 0.50 kT, over bins below 8 kT" in text
    assert "trust         yes" in text and "note          no reference yet" in text
    assert own_errors(record) is None and "trust" not in _summary(record, tmp_path)  # a scored run needs no opinion
