"""What a verdict is worth: the published results that call themselves reliable."""

from __future__ import annotations

import math
from pathlib import Path

from cgbench.results.runs import find_runs

ROOT = Path(__file__).parents[3]


def test_no_result_that_calls_itself_reliable_is_far_off() -> None:
    """The forward KLD is at most 1e-2, and at most three times what the claimed errors expect."""
    wrong, judged = [], 0
    for run in find_runs([ROOT / "runs"]):
        diagnostics, found = run.record.diagnostics, run.record.metrics.get("forward_kld")
        if diagnostics.get("reliable") is not True or found is None:
            continue
        judged += 1
        if found > min(1e-2, 3 * diagnostics.get("expected_kld", math.inf)):
            wrong.append((str(run.path), found))
    assert wrong == [] and judged > 50
