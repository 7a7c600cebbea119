"""Sweeps on SLURM without a cluster: mistakes, and how the answers of SLURM's commands are interpreted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cgbench.campaigns.local import Task
from cgbench.campaigns.slurm.executor import SlurmExecutor, check_slurm
from cgbench.campaigns.slurm.queue import Queue, QueueError, largest_array
from cgbench.campaigns.slurm.resources import Resources
from cgbench.cli.main import main
from cgbench.errors import UserError

SWEEP = "include: [{systems: muller_brown, methods: md, presets: smoke}]\n"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """A function that adds a command to a PATH that contains only a shell and a few tools."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("cat", "sh", "bash", "mv", "rm"):
        found = next(place for place in ("/bin", "/usr/bin") if os.path.exists(f"{place}/{name}"))
        (folder / name).symlink_to(f"{found}/{name}")
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, text: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return write


MISTAKES = {
    "no sbatch": (["--executor", "slurm"], "no sbatch on this machine; use a machine with SLURM's commands"),
    "executor": (["--executor", "slum"], "'slum' is not one of 'local', 'slurm'"),
    "local partition": (["--partition", "a"], "--partition is only for SLURM: add --executor slurm, or omit it"),
    "local gpus": (["--gpus", "0"], "--gpus is only for SLURM"),
    "local option": (["--slurm", "qos=high"], "--slurm is only for SLURM"),
    "time": (["--executor", "slurm", "--time", "4h"], "--time must be minutes, HH:MM:SS or D-HH:MM:SS, not '4h'"),
    "gpus": (["--executor", "slurm", "--gpus", "-1"], "--gpus must be at least 0, not -1"),
    "memory": (["--executor", "slurm", "--memory", "much"], "--memory must be a number with a unit, such as 8G"),
    "option": (["--executor", "slurm", "--slurm", "=1"], "--slurm must be KEY=VALUE, an option of sbatch such as"),
    "our option": (["--executor", "slurm", "--slurm", "job_name=x"], "cgbench sets job-name itself; leave it out"),
    "workers": (["--executor", "slurm", "--workers", "0"], "--workers must be at least 1, not 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, tmp_path: Path, capsys, commands) -> None:
    arguments, message = MISTAKES[name]
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    assert main(["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out"), *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and out == ""
    assert not (tmp_path / "out").exists()


def test_further_options() -> None:
    assert Resources.parse(["qos=high", "--mail_type=END,FAIL", "exclusive"]) == {
        "qos": "high",
        "mail-type": "END,FAIL",
        "exclusive": True,
    }
    for text in ("30", "30:00", "4:00:00", "1-12", "1-12:00:00"):
        assert Resources(time=text).parameters()["time"] == text
    overruled = Resources(partition="main", more={"qos": "high"}).overruled()
    assert {"SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_JOB_NAME"} <= set(overruled)
    assert "SBATCH_ACCOUNT" not in overruled


def answer(rows: Sequence[tuple[str, int, str, str, int]]) -> str:
    """What squeue prints: name, job, index in the array, state, exit status."""
    return "".join(f"{n:<40}{j:<16}{i:<16}{s:<24}{c:<16}{'None':<80}\n" for n, j, i, s, c in rows)


def test_the_newest_job_of_a_run_counts_unless_an_older_one_goes_on(tmp_path: Path, commands) -> None:
    queue = Queue(tmp_path / "out")
    assert queue.look() == {}  # without a note nothing is asked
    queue.note("cgbench-1", ["a", "b", "c"])
    queue.note("cgbench-2", ["b"])
    queue.note("cgbench-3", ["c", "d"])
    rows = [
        ("cgbench-3", 31, "0", "FAILED", 3 << 8),
        ("cgbench-3", 31, "1", "CANCELLED", 15),
        ("cgbench-2", 21, "N/A", "PENDING", 0),
        ("cgbench-1", 11, "0", "COMPLETED", 0),
        ("cgbench-1", 11, "1", "FAILED", 256),
        ("cgbench-1", 11, "2", "COMPLETING", 0),
        ("cgbench-1", 11, "7", "RUNNING", 0),
        ("other", 5, "0", "RUNNING", 0),
    ]
    (tmp_path / "answer").write_text(answer(rows))
    commands("squeue", f'echo "$@" > {tmp_path}/asked; cat {tmp_path}/answer')
    found = queue.look()
    assert {run: (entry.id, entry.state) for run, entry in found.items()} == {
        "a": ("11_0", "COMPLETED"),
        "b": ("21", "PENDING"),
        "c": ("11_2", "COMPLETING"),
        "d": ("31_1", "CANCELLED"),
    }
    assert found["d"].code == -15 and found["d"].ended and found["b"].pending and not found["c"].ended
    assert "--name=cgbench-1,cgbench-2,cgbench-3" in (tmp_path / "asked").read_text()


def test_notes_stay_while_slurm_knows_their_jobs(tmp_path: Path, commands) -> None:
    queue = Queue(tmp_path / "out")
    folders = [queue.note(f"cgbench-{k}", ["a"]) for k in range(3)]
    for folder in folders[:2]:
        os.utime(folder / "runs.json", (0, 0))
    commands("squeue", "echo cannot reach the controller >&2; exit 1")
    with pytest.raises(QueueError, match="squeue does not answer: cannot reach the controller"):
        queue.tidy()
    (tmp_path / "answer").write_text(answer([("cgbench-0", 5, "0", "RUNNING", 0)]))
    commands("squeue", f"cat {tmp_path}/answer")
    queue.tidy()
    # the second is unknown and old, the third may be on its way
    assert [folder.exists() for folder in folders] == [True, False, True]


# squeue answers from one file after the other; the last stays
SQUEUE = """
cd {folder}
for name in 0 1 2 3 4 5; do
    if [ -e $name.end ]; then cat $name.end; exit 0; fi
    if [ -e $name ]; then
        read -r first < $name
        if [ "$first" = down ]; then rm $name; echo down >&2; exit 1; fi
        cat $name; rm $name; exit 0
    fi
done
"""


def executor(tmp_path: Path, commands, states: Sequence[Sequence[str]]) -> tuple[SlurmExecutor, list[Task]]:
    """An executor on a mock SLURM, and its two tasks."""
    for name in ("srun", "scontrol"):
        commands(name, "exit 1")
    script = f'while read -r line; do case "$line" in *job-name=*) echo "$line" > {tmp_path}/name;; esac; done < "$1"'
    commands("sbatch", f"{script}; echo Submitted batch job 12")
    commands("squeue", SQUEUE.format(folder=tmp_path))
    queue = Queue(tmp_path / "out")
    tasks = [Task(name, ("true",), tmp_path / "out" / name / "output.log") for name in ("a", "b")]
    queue.note("cgbench-play", ["a/output.log", "b/output.log"])
    for number, each in enumerate(states):
        rows = [("cgbench-play", 12, str(k), state, 256 * (state == "FAILED")) for k, state in enumerate(each)]
        text = "down\n" if each == ["down"] else answer(rows)
        (tmp_path / (f"{number}.end" if number == len(states) - 1 else str(number))).write_text(text)
    return SlurmExecutor(tmp_path / "out", 1, 1, Resources(), tell=lambda words: None), tasks


def test_hiccups_are_waited_out_and_a_requeued_run_starts_twice(tmp_path: Path, commands) -> None:
    running, pending = ["RUNNING", "PENDING"], ["PENDING", "RUNNING"]
    play, tasks = executor(tmp_path, commands, [running, running, ["down"], pending, ["COMPLETED", "TIMEOUT"]])
    events: list[object] = []
    play.execute(tasks, lambda task: events.append(task.name), lambda task, code: events.append((task.name, code)))
    assert events == ["b", "a", ("a", 0), ("b", 1)] and play.notes == {"b": "SLURM job 12_1: timeout"}
    assert not (tmp_path / "name").exists()  # nothing was submitted


def test_a_job_that_slurm_forgot_is_over(tmp_path: Path, commands) -> None:
    play, tasks = executor(tmp_path, commands, [["RUNNING"] * 2] * 2 + [["RUNNING"], ["FAILED"]])
    codes: dict[str, int] = {}
    play.execute(tasks, lambda task: None, lambda task, code: codes.update({task.name: code}))
    assert codes == {"a": 1, "b": 1} and play.notes["b"] == "SLURM no longer knows its job"


def test_without_an_answer_nothing_is_submitted(tmp_path: Path, commands, capsys) -> None:
    play, tasks = executor(tmp_path, commands, [["down"], ["down"]])
    with pytest.raises(QueueError):
        play.execute(tasks, lambda task: None, lambda task, code: None)
    assert not (tmp_path / "name").exists()


def test_jobs_ignore_modules_in_the_working_directory(tmp_path: Path, commands) -> None:
    play, tasks = executor(tmp_path, commands, [["PENDING"] * 2])
    play._submit(tasks)
    scripts = [path.read_text() for path in (tmp_path / "out" / ".sweep").rglob("*.sh")]
    assert scripts and all(f"{sys.executable} -P -u -m submitit.core._submit" in script for script in scripts)


# stores the options of each submission, and rejects arrays that are larger than a limit or come after a number of them
SBATCH = """
cd {folder}
number=1; while [ -e submitted.$number ]; do number=$((number + 1)); done
if [ $number -gt {most} ]; then echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; fi
while read -r line; do case "$line" in
    *array=0-*) last="${{line#*array=0-}}"; last="${{last%%%*}}"
        if [ "$last" -ge {limit} ]; then echo "sbatch: error: Invalid job array specification" >&2; exit 1; fi;;
esac; echo "$line" >> script; done < "$1"
mv script submitted.$number
echo "Submitted batch job $((number * 100))"
"""
CONFIG = "echo 'MaxArraySize            = {}'; echo 'MaxJobCount             = 10000'"


def submitted(
    tmp_path: Path, commands, count: int, workers: int | None, config: str, limit: int, most: int = 99
) -> tuple[list[str], list[tuple[str, str]]]:
    """Submit many tasks; return what is said, and array and dependency of each submission."""
    commands("srun", "exit 1")
    commands("scontrol", config)
    commands("sbatch", SBATCH.format(folder=tmp_path, limit=limit, most=most))
    commands("squeue", "exit 0")
    said: list[str] = []
    many = SlurmExecutor(tmp_path / "out", workers, 1, Resources(), tell=said.append)
    tasks = [Task(f"{k}", ("true",), tmp_path / "out" / f"{k}" / "output.log") for k in range(count)]
    try:
        many._submit(tasks)
    except UserError as error:
        said.append(str(error))
    scripts = [tmp_path / f"submitted.{number}" for number in range(1, 99)]
    found = []
    for text in (script.read_text() for script in scripts if script.exists()):
        options = dict(re.findall(r"#SBATCH --(array|dependency)=(\S+)", text))
        found.append((options.get("array", ""), options.get("dependency", "")))
    return said, found


def test_more_runs_than_an_array_holds_are_several_arrays(tmp_path: Path, commands) -> None:
    said, found = submitted(tmp_path, commands, 8, None, CONFIG.format(3), limit=3)
    assert found == [("0-2%3", ""), ("0-2%3", ""), ("0-1%2", "")]
    assert said == [f"{n} runs submitted to SLURM as job {job}" for n, job in ((3, 100), (3, 200), (2, 300))]
    notes = [path.read_text() for path in (tmp_path / "out" / ".sweep").glob("*/runs.json")]
    assert sorted(sum((json.loads(note) for note in notes), [])) == [f"{k}/output.log" for k in range(8)]


def test_arrays_with_a_limit_of_jobs_start_one_after_the_other(tmp_path: Path, commands) -> None:
    _, found = submitted(tmp_path, commands, 7, 2, CONFIG.format(3), limit=3)
    assert found == [("0-2%2", ""), ("0-2%2", "afterany:100"), ("", "afterany:200")]


def test_as_many_runs_as_an_array_holds_are_one_array(tmp_path: Path, commands) -> None:
    assert submitted(tmp_path, commands, 3, 2, CONFIG.format(3), limit=3)[1] == [("0-2%2", "")]


def test_without_arrays_each_run_is_a_job(tmp_path: Path, commands) -> None:
    assert submitted(tmp_path, commands, 3, None, CONFIG.format(0), limit=0)[1] == [("", "")] * 3


@pytest.mark.parametrize("config", ["exit 1", "echo SLURM_VERSION = 23.11", CONFIG.format("many")])
def test_a_limit_that_cannot_be_asked_is_the_default_and_named(config: str, tmp_path: Path, commands) -> None:
    commands("scontrol", config)
    assert largest_array() == (1001, False)


def test_an_unknown_limit_is_named_once(tmp_path: Path, commands, monkeypatch) -> None:
    monkeypatch.setattr("cgbench.campaigns.slurm.queue.LARGEST_ARRAY", 2)
    said, found = submitted(tmp_path, commands, 3, None, "exit 1", limit=2)
    assert said[0] == "scontrol does not name SLURM's MaxArraySize: submitting arrays of at most 2 runs"
    assert len(said) == 3 and len(found) == 2


def test_a_rejected_array_leaves_no_folders_and_says_what_was_submitted(tmp_path: Path, commands) -> None:
    said, found = submitted(tmp_path, commands, 3, None, CONFIG.format(10), limit=2)
    assert said == ["SLURM rejected the jobs: Invalid job array specification"] and not found
    assert [path for path in (tmp_path / "out").rglob("*") if path.name != ".sweep"] == []
    said, found = submitted(tmp_path, commands, 5, None, CONFIG.format(2), limit=2, most=1)
    assert said[1:] == [
        "SLURM rejected the jobs: QOSMaxSubmitJobPerUserLimit; 2 runs of 5 submitted before: "
        "run the same command again for the rest"
    ]
    assert len(found) == 1 and len(list((tmp_path / "out" / ".sweep").iterdir())) == 1


def test_one_sweep_submits_at_a_time(tmp_path: Path) -> None:
    """A second process waits for the first, also for longer than a run folder would."""
    queue = Queue(tmp_path)
    with queue.lock():
        script = "import sys, pathlib; from cgbench.campaigns.slurm.queue import Queue; print('ready', flush=True)\n"
        script += "with Queue(pathlib.Path(sys.argv[1])).lock(): print('locked', flush=True)"
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(1.0)
        assert process.poll() is None
    assert process.communicate(timeout=30)[0] == "locked\n" and process.returncode == 0


def test_an_interrupt_ends_the_waiting_and_names_the_jobs(tmp_path: Path, commands) -> None:
    play, tasks = executor(tmp_path, commands, [["PENDING", "COMPLETED"]])
    thread = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        play.execute(tasks[:1], lambda task: None, lambda task, code: None)
    thread.join()
    assert play.unfinished == ["12"]


def test_doctor_without_slurm_and_with_one_that_is_silent(commands) -> None:
    assert check_slurm() == (True, "none here")
    commands("sinfo", "echo sinfo: fatal: Could not establish a configuration source >&2; exit 1")
    assert check_slurm() == (True, "none here (commands are installed, no cluster is configured)")
    commands("sinfo", "echo Unable to contact slurm controller >&2; exit 1")
    assert check_slurm() == (False, "sinfo does not answer: Unable to contact slurm controller")


JOB = """
import sys
from cgbench.campaigns.slurm.job import Command
Command((sys.executable, "-c", sys.argv[1]), {"OMP_NUM_THREADS": "3"}, "run/output.log", "run/latest.pt")()
"""
RUN = """
import os, signal, sys, time
def end(*_):
    print("saved", flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, end)
open("run/latest.pt", "a").write("x")
print("threads", os.environ["OMP_NUM_THREADS"], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "run", "code", "said"),
    [
        (signal.SIGUSR2, RUN, 130, "saved\ncgbench: time limit reached: SLURM job 12_3 is requeued\n"),
        (signal.SIGUSR2, RUN.replace('open("run/latest.pt", "a").write("x")', ""), 130, "cgbench: no checkpoint"),
        (signal.SIGUSR2, RUN.replace("130", "0"), 0, "saved\n"),
        (signal.SIGTERM, RUN, 130, "saved\n"),
        (None, "import sys; print('threads'); sys.exit(3)", 3, "threads\n"),
        (None, "import os; print('threads', flush=True); os.kill(os.getpid(), 9)", 137, "threads\n"),
    ],
    ids=["time is up", "no progress", "ended in time", "SIGTERM", "failed", "killed"],
)
def test_a_job_saves_and_goes_back_into_the_queue(
    number: signal.Signals | None, run: str, code: int, said: str, tmp_path: Path, commands, monkeypatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    commands("scontrol", f'echo "$@" > {tmp_path}/asked')
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen([sys.executable, "-c", JOB, run], cwd=tmp_path, env=environment)
    log = tmp_path / "run" / "output.log"
    while process.poll() is None and "threads" not in (log.read_text() if log.exists() else ""):
        time.sleep(0.05)
    if number is not None:
        process.send_signal(number)
    assert process.wait(timeout=30) == code
    text = log.read_text()
    assert text.startswith("SLURM job 12_3\n") and said in text
    assert (tmp_path / "asked").exists() == ("is requeued" in said)
    if "is requeued" in said:
        assert (tmp_path / "asked").read_text() == "requeue 12_3\n" and "threads 3" in text
    assert number is not signal.SIGTERM or text.endswith("saved\n")
