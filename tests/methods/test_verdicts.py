"""What a method says about its own result: what is unfinished, or never reached, is not reliable."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgbench.running.registry import names
from cgbench.running.run import prepare

BEGUN = {  # settings for which the first estimate is far from the end
    "cgflow_al": ["recipe.training.rounds=2"],
    "cgflow_grid": ["recipe.training.rounds=2"],
}


@pytest.mark.parametrize("method", names("method"))
def test_the_first_estimate_of_a_run_is_not_reliable(method: str, tmp_path: Path) -> None:
    job = prepare("muller_brown", method, preset="smoke", out=tmp_path, threads=1, overrides=BEGUN.get(method, ()))
    job.stop = lambda: True
    with pytest.raises(KeyboardInterrupt):
        job.execute()
    record = job.folder.read_record()
    assert record is not None and record.diagnostics["reliable"] is False and record.warnings


def warnings_of(tmp_path: Path, *overrides: str, preset: str = "default") -> str:
    record = prepare("muller_brown", "umbrella", preset=preset, out=tmp_path, threads=1, overrides=overrides).execute()
    assert record.metrics["forward_kld"] > 0.3 and record.diagnostics["reliable"] is False
    return "; ".join(record.warnings)


def test_umbrella_whose_walkers_stay_at_their_start_is_not_reliable(tmp_path: Path) -> None:
    """They overlap perfectly. With such steps they do not reach their windows within the run."""
    found = warnings_of(tmp_path, "step_size=0.001", "evaluations=100000")
    assert "no walker has reached the place" in found and "expected forward KLD" in found


def test_umbrella_with_windows_below_the_barriers_alone_is_not_reliable(tmp_path: Path) -> None:
    assert "windows end at 3 kT" in warnings_of(tmp_path, preset="smoke")


def test_umbrella_that_ends_before_all_windows_are_open_is_not_reliable(tmp_path: Path) -> None:
    found = warnings_of(tmp_path, "evaluations=30000")
    assert "remain to be opened" in found
