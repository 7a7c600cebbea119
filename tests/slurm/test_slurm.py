"""Sweeps on a real SLURM: started, requeued, killed, interrupted, cancelled and refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cgbench.campaigns.slurm.executor import check_slurm
from cgbench.campaigns.sweep import read_sweep
from cgbench.cli.main import main
from cgbench.running.record import Record
from cgbench.running.run import run
from cgbench.running.run_folder import RunFolder

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm"), pytest.mark.usefixtures("cluster")]

# two runs of some seconds with dozens of checkpoints, and one that fails
CAMPAIGN = """
defaults: {systems: muller_brown, methods: md, presets: smoke}
include:
  - {seeds: 0-1, overrides: {walkers: 100, steps: 4000}}
  - {seeds: 2, budget: 5}
"""
TWO = CAMPAIGN.partition("  - {seeds: 2")[0]


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Sweeps that a test has started, and that do not outlive it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def words(path: Path, *more: str) -> list[str]:
    return ["sweep", str(path), "--out", str(path.parent / "out"), "--executor", "slurm", *more]


def start(path: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cgbench", *words(path, *more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def slurm(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def jobs(state: str = "all") -> list[str]:
    """Ids of the jobs that SLURM knows."""
    return sorted(slurm("squeue", "--noheader", "--array", f"--states={state}", "--format=%i").split())


def wait_until(true: Callable[[], object]) -> None:
    for _ in range(1200):
        if true():
            return
        time.sleep(0.05)
    pytest.fail("nothing within a minute")


def records(path: Path) -> list[Record]:
    found = [RunFolder(job.plan.folder(path.parent / "out")).read_record() for job in read_sweep(path)]
    return [record for record in found if record is not None]


def assert_same(path: Path) -> None:
    """Every run has ended as one without SLURM does, to the byte."""
    single = path.parent / "single"
    for job, record in zip(read_sweep(path), records(path), strict=True):
        options = {"preset": job.preset, "seed": job.seed, "overrides": job.overrides}
        expected = run(job.system, job.method, out=single, threads=1, **options)
        ours, theirs = (job.plan.folder(folder) / "pmf.npz" for folder in (path.parent / "out", single))
        assert ours.read_bytes() == theirs.read_bytes()
        assert record.status == "finished" and record.evaluations == expected.evaluations


def test_two_at_a_time_end_as_single_runs_do(tmp_path: Path, processes) -> None:
    path = write(tmp_path, CAMPAIGN.replace("4000", "400"))
    process = start(path, "--workers", "2")
    processes.append(process)
    seen = []
    while process.poll() is None:
        seen.append(len(jobs("running")))
        time.sleep(0.2)
    out, err = process.communicate()
    assert process.returncode == 1, out + err
    assert "3 runs submitted to SLURM as job" in out and "at most 2 at a time" in out
    assert "2 finished, 1 failed" in out and out.count(" started ") == 3
    assert "seed 2: failed: no estimate within the budget" in err and err.count("\n") == 1
    assert max(seen) == 2
    write(tmp_path, TWO.replace("4000", "400"))
    assert_same(path)


def test_requeued_or_out_of_time_a_run_goes_on(tmp_path: Path, processes) -> None:
    path, before = write(tmp_path, TWO), set(jobs())
    processes.append(start(path))
    folders = [job.plan.folder(tmp_path / "out") for job in read_sweep(path)]

    def far(folder: Path, least: int) -> bool:
        log = folder / "checkpoint" / "output.log"
        said = re.findall(r"([\d,]+) evaluations \(", log.read_text()) if log.exists() else []
        return any(int(count.replace(",", "")) > least for count in said)

    wait_until(lambda: far(folders[0], 3000))
    first, second = sorted(set(jobs()) - before)
    slurm("scontrol", "requeue", first)
    wait_until(lambda: far(folders[1], 3000))
    slurm("scancel", "--signal=USR2", second)  # what SLURM sends before the time limit
    wait_until(lambda: jobs("pending") == [first, second])
    time.sleep(2.5)  # a node takes no job anew within the second, and two, in which it killed it
    for job in (first, second):  # SLURM would have it wait for two minutes
        slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
    out, err = processes[0].communicate(timeout=60)
    assert processes[0].returncode == 0, out + err
    assert out.count("seed 0: ") == out.count("seed 1: ") == 1 and "2 finished" in out
    assert out.count(" started ") == 2 and out.count(" resumed ") == 2
    logs = [(folder / "checkpoint" / "output.log").read_text() for folder in folders]
    assert all(int(re.findall(r"resuming after ([\d,]+)", log)[0].replace(",", "")) > 3000 for log in logs)
    assert all(log.count("SLURM job ") >= 2 for log in logs)
    assert f"time limit reached: SLURM job {second} is requeued" in logs[1] and "time limit" not in logs[0]
    assert_same(path)


def test_killed_and_interrupted_a_sweep_submits_nothing_twice(tmp_path: Path, processes, capsys) -> None:
    path = write(tmp_path, TWO.replace("4000", "50"))
    asked = ("--slurm", "hold", "--partition", "spare", "--time", "0:07:00", "--slurm", "comment=a test")
    before = set(jobs())
    processes.append(start(path, *asked))
    wait_until(lambda: len(set(jobs()) - before) == 2)
    submitted = sorted(set(jobs()) - before)
    processes[0].send_signal(signal.SIGKILL)
    processes[0].wait()
    shown = slurm("scontrol", "show", "job", submitted[0])
    for part in ("Partition=spare", "TimeLimit=00:07:00", "Comment=a test", "Requeue=1", "NumCPUs=1"):
        assert part in shown

    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), "--status"]) == 0
    table = capsys.readouterr().out
    assert "2 queued" in table and f"SLURM job {submitted[1]}, JobHeldUser" in table
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 1  # here they are left alone too
    captured = capsys.readouterr()
    assert "0 of 2 runs remaining" in captured.out and captured.err.count(": queued: SLURM job") == 2

    processes.append(start(path))
    assert "2 runs in SLURM's queue already" in processes[1].stdout.readline()
    processes[1].send_signal(signal.SIGINT)
    out, err = processes[1].communicate(timeout=30)
    assert processes[1].returncode == 130 and err.count("\n") == 1
    number = submitted[0].partition("_")[0]
    advice = f"run the same command again to wait for them, or scancel {number} to stop them"
    assert f"the jobs continue in SLURM: {advice}" in err

    slurm("scontrol", "release", number)
    assert main(words(path)) == 0
    assert "2 finished" in capsys.readouterr().out
    assert sorted(set(jobs()) - before) == submitted
    assert main(words(path)) == 0  # nothing is left to do
    assert "0 of 2 runs remaining" in capsys.readouterr().out


def test_a_cancelled_run_is_reported_and_goes_on_at_the_next_call(tmp_path: Path, processes, capsys) -> None:
    path, before = write(tmp_path, TWO.replace("4000", "50").replace("0-1", "0")), set(jobs())
    processes.append(start(path, "--slurm", "hold", "--threads", "2"))
    wait_until(lambda: set(jobs()) - before)
    (number,) = set(jobs()) - before
    assert "NumCPUs=2 NumTasks=1 CPUs/Task=2" in slurm("scontrol", "show", "job", number)
    slurm("scancel", number)
    out, err = processes[0].communicate(timeout=30)
    assert processes[0].returncode == 1 and f"seed 0: waiting: SLURM job {number}: cancelled\n" in err
    assert main(words(path, "--threads", "2")) == 0
    assert "1 run submitted" in capsys.readouterr().out
    assert [(record.status, record.threads) for record in records(path)] == [("finished", 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--partition", "none"], "invalid partition specified: none"),
        (["--gpus", "1"], "Invalid generic resource (gres) specification"),
        (["--slurm", "no-such-option=1"], "no-such-option"),
    ],
)
def test_what_slurm_refuses_is_one_line(options: list[str], message: str, tmp_path: Path, capfd) -> None:
    path = write(tmp_path, TWO)
    assert main(words(path, *options)) == 2
    out, err = capfd.readouterr()
    assert "SLURM rejected the jobs: " in err and message in err and err.count("\n") == 1 and out == ""
    assert list((tmp_path / "out" / ".sweep").glob("*/runs.json")) == []


def test_a_job_that_never_reaches_its_command(tmp_path: Path, capsys, monkeypatch) -> None:
    path = write(tmp_path, TWO.replace("0-1", "0"))
    broken = tmp_path / "site"
    (broken / "submitit" / "core").mkdir(parents=True)
    for name in ("__init__.py", "core/__init__.py"):
        (broken / "submitit" / name).write_text("")
    (broken / "submitit" / "core" / "_submit.py").write_text("raise SystemExit('this node lacks something')")
    monkeypatch.setenv("PYTHONPATH", f"{broken}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert main(words(path)) == 1
    err = capsys.readouterr().err
    assert "failed before the run began, see " in err
    assert "this node lacks something" in Path(err.split(", see ")[1].strip()).read_text()


def test_doctor_sees_the_cluster() -> None:
    passed, detail = check_slurm()
    assert passed and "slurm" in detail and "main (1 node), spare (1 node)" in detail
