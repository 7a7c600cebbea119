"""A campaign whose workers are killed again and again: the leaderboard is that of an undisturbed one."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cgbench.campaigns.sweep import Job, progress, read_sweep
from cgbench.cli.main import main

CAMPAIGN = """
defaults: {systems: muller_brown, presets: smoke}
include:
  - {methods: md, overrides: {walkers: 100, steps: 2000}, seeds: 0-1}
  - {methods: [metadynamics, umbrella], seeds: 0-1}
"""
LONG = """
defaults: {systems: muller_brown, presets: smoke, seeds: 0-5}
include:
  - {methods: md, overrides: {walkers: 100, steps: 2000}}
  - {methods: [metadynamics, umbrella]}
  - {methods: md}
"""


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(12_000):
        if true():
            return
        time.sleep(0.02)
    pytest.fail("nothing within four minutes")


def workers(sweep: int) -> list[int]:
    """Processes that a sweep has started."""
    return [int(pid) for pid in Path(f"/proc/{sweep}/task/{sweep}/children").read_text().split()]


def replaced(sweep: int, killed: list[int]) -> bool:
    """Whether a sweep has noticed that its workers were killed."""
    return not set(workers(sweep)) & set(killed)


def running(jobs: list[Job], out: Path) -> list[Path]:
    """Folders of the runs that have something to lose: they are running, and have made evaluations."""
    found = [(job.plan.folder(out), progress(job, out)) for job in jobs]
    return [folder for folder, state in found if state.state == "running" and state.evaluations]


def table(out: Path, tmp_path: Path) -> list[dict[str, str]]:
    """The leaderboard without the times and the speeds of the machine, which differ between any two sweeps."""
    assert main(["leaderboard", "--runs", str(out), "--out", str(tmp_path / "leaderboard.csv")]) == 0
    with open(tmp_path / "leaderboard.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["differences"] = re.sub(r"(; )?speed: [0-9, ]+", "", row["differences"])
    times = ("wall_s", "seconds", "time_speedup", "time_note")
    return [{name: cell for name, cell in row.items() if not name.startswith(times)} for row in rows]


@pytest.mark.parametrize(
    ("campaign", "runs", "rounds"), [(CAMPAIGN, 6, 1), pytest.param(LONG, 24, 3, marks=pytest.mark.nightly)]
)
def test_both_workers_killed_the_leaderboard_is_the_same(
    campaign: str, runs: int, rounds: int, tmp_path: Path, capsys
) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_text(campaign)
    jobs = read_sweep(path)
    assert len(jobs) == runs
    out = tmp_path / "killed"
    sweep = ["sweep", str(path), "--workers", "2", "--threads", "1", "--out", str(out)]
    lost: list[Path] = []
    for number in range(rounds):
        process = subprocess.Popen(
            [sys.executable, "-m", "cgbench", *sweep], stdout=subprocess.DEVNULL, start_new_session=True
        )
        wait_until(lambda: len(running(jobs, out)) == 2)
        lost += running(jobs, out)
        victims = workers(process.pid)
        assert len(victims) == 2
        for pid in victims:  # the sweep notices, and goes on with others
            os.kill(pid, signal.SIGKILL)
        if number < rounds - 1:
            wait_until(partial(replaced, process.pid, victims))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not any(progress(job, out).state == "running" for job in jobs))
    assert len(lost) == 2 * rounds
    states = {progress(job, out).state for job in jobs}
    assert "interrupted" in states and states <= {"interrupted", "finished", "waiting"}
    assert main(sweep) == 0
    assert f"{runs} finished" in capsys.readouterr().out
    for job in jobs:  # undisturbed, one after the other
        whole = ["run", *job.arguments(), "--threads", "1", "--out", str(tmp_path / "whole")]
        assert main(whole) == 0
    assert table(out, tmp_path) == table(tmp_path / "whole", tmp_path)
    for job in jobs:
        ours, theirs = (job.plan.folder(folder) / "pmf.npz" for folder in (out, tmp_path / "whole"))
        assert ours.read_bytes() == theirs.read_bytes()
