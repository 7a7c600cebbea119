"""Executes commands as jobs of a SLURM cluster, submitted through submitit."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from threading import Event
from typing import Any

from cgbench.campaigns.local import Task, thread_environment
from cgbench.campaigns.slurm.job import Command
from cgbench.campaigns.slurm.queue import Queue, QueuedRun, QueueError, largest_array
from cgbench.campaigns.slurm.resources import Resources
from cgbench.errors import UserError
from cgbench.running.signals import stop_event

__all__ = ["SlurmExecutor", "check_slurm"]

COMMANDS = ("sbatch", "srun", "squeue", "scontrol")
WARNING = 90  # seconds before the time limit at which a run gets the signal to save
SLOWEST = 15.0  # largest number of seconds between two queries of the queue
OUTER = ("SLURM_", "SRUN_", "SUBMITIT_")  # prefixes of variables that a surrounding job sets for its steps
SETTLED = 6.0  # seconds before an unsuccessful end counts: a job that is being requeued seems ended for a moment
SILENCE = 120.0  # seconds without an answer from squeue before the user is informed
# -P: a folder in the working directory must not shadow an installed package
PYTHON = f"{shlex.quote(sys.executable)} -P"


def _say(line: str) -> None:
    print(line, flush=True)  # appears immediately in a pipe, too


class SlurmExecutor:
    """Executes tasks as SLURM jobs and waits for them.

    A task whose job is still in the queue from an earlier call is not submitted again. SIGINT and SIGTERM end the
    waiting, but not the jobs.

    Parameters
    ----------
    out
        Folder that run folders are created in, on a file system shared with the nodes.
    workers
        Largest number of jobs at a time; None for no limit.
    threads
        CPU threads of each run, and CPUs requested for its job.
    resources
        Further resources of each job.
    tell
        Called with messages for the user.

    Attributes
    ----------
    notes : dict
        Reasons for the end of tasks that their own command did not end.
    unfinished : list of str
        Jobs in the queue at the end of an interrupted wait.
    """

    def __init__(
        self,
        out: Path,
        workers: int | None,
        threads: int,
        resources: Resources,
        tell: Callable[[str], None] = _say,
    ) -> None:
        missing = [name for name in COMMANDS if shutil.which(name) is None]
        if missing:
            raise UserError(
                f"--executor slurm: no {missing[0]} on this machine; "
                "use a machine with SLURM's commands, or --executor local"
            )
        self.out, self.workers, self.threads, self.resources, self.tell = out, workers, threads, resources, tell
        self.queue = Queue(out)
        self.notes: dict[str, str] = {}
        self.unfinished: list[str] = []

    def execute(
        self,
        tasks: Sequence[Task],
        on_start: Callable[[Task], None],
        on_end: Callable[[Task, int], None],
    ) -> None:
        """Submit the tasks that are not in the queue, and wait for all. Parameters are those of `LocalExecutor`.

        `on_start` is called again when a requeued job restarts.

        Raises
        ------
        UserError
            If SLURM does not answer or rejects the jobs.
        KeyboardInterrupt
            If the wait was interrupted; `unfinished` lists the jobs that continue.
        """
        if not tasks:
            return
        with stop_event() as stop:
            try:
                with self.queue.lock():
                    self.queue.tidy()
                    found = self.queue.look()
                    queued = {task for task in tasks if (run := found.get(self._key(task))) and not run.ended}
                    if queued:
                        self.tell(f"{_runs(len(queued))} in SLURM's queue already")
                    if new := [task for task in tasks if task not in queued]:
                        self._submit(new)
                self._wait(list(tasks), on_start, on_end, stop)
            except UserError:
                if not stop.is_set():  # SIGINT also reaches sbatch and squeue, which then fail
                    raise
            if stop.is_set():
                self.unfinished = self._jobs(tasks)
                raise KeyboardInterrupt

    def _key(self, task: Task) -> str:
        return task.log.relative_to(self.out).as_posix()

    def _submit(self, tasks: Sequence[Task]) -> None:
        """Submit the tasks as job arrays, each as large as SLURM allows.

        Each array has its own limit of jobs at a time: with `workers`, an array starts when the one before has ended.
        """
        size, known = largest_array()
        if len(tasks) > size and not known:
            self.tell(f"scontrol does not name SLURM's MaxArraySize: submitting arrays of at most {_runs(size)}")
        previous: str | None = None
        for first in range(0, len(tasks), size):
            after = {"dependency": f"afterany:{previous}"} if self.workers and previous else {}
            try:
                previous = self._submit_array(tasks[first : first + size], after)
            except UserError as error:
                if not first:
                    raise
                raise UserError(
                    f"{error}; {_runs(first)} of {len(tasks)} submitted before: run the same command again for the rest"
                ) from error

    def _submit_array(self, tasks: Sequence[Task], more: dict[str, str]) -> str:
        """Submit tasks as one job array, with further options of sbatch. Return the id of the job."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        name = f"cgbench-{uuid.uuid4().hex[:12]}"
        folder = self.queue.note(name, [self._key(task) for task in tasks])
        try:
            executor = submitit.SlurmExecutor(folder=folder, python=PYTHON)
            executor.update_parameters(
                **self.resources.parameters(),
                job_name=name,
                nodes=1,
                cpus_per_task=self.threads,
                srun_args=[f"--cpus-per-task={self.threads}"],  # srun >= 22.05 does not inherit it from sbatch
                array_parallelism=self.workers or len(tasks),
                signal_delay_s=WARNING,
                wckey=None,
                stderr_to_stdout=True,
                additional_parameters={"requeue": True, **self.resources.more, **more},
            )
            # submitit prints the message of a failed sbatch; the exception contains it as well
            with _without(self.resources.overruled()), redirect_stderr(io.StringIO()):
                jobs = executor.submit_array([self._command(task) for task in tasks])
        except (FailedJobError, FailedSubmissionError) as error:
            if self.queue.look().keys().isdisjoint(map(self._key, tasks)):
                self.queue.forget(name)
            lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in str(error).splitlines()]
            raise UserError(f"SLURM rejected the jobs: {'; '.join(lines) or 'sbatch failed'}") from error
        at_a_time = f", at most {self.workers} at a time" if self.workers and self.workers < len(tasks) else ""
        job = str(jobs[0].job_id).partition("_")[0]
        self.tell(f"{_runs(len(tasks))} submitted to SLURM as job {job}{at_a_time}")
        return job

    def _command(self, task: Task) -> Command:
        log = task.log.absolute()  # the job creates its folder: a rejected one leaves none
        return Command(task.command, thread_environment(self.threads), str(log), str(log.with_name("latest.pt")))

    def _wait(
        self,
        waiting: list[Task],
        on_start: Callable[[Task], None],
        on_end: Callable[[Task, int], None],
        stop: Event,
    ) -> None:
        started: set[Task] = set()
        missed: set[Task] = set()
        over: dict[Task, float] = {}
        begun = answered = time.monotonic()
        while waiting and not stop.wait(min(SLOWEST, 1.0 + (time.monotonic() - begun) / 30)):
            try:
                found = self.queue.look()
            except QueueError as error:  # the controller restarts or is busy; the jobs are not affected
                if time.monotonic() - answered > SILENCE:
                    self.tell(f"still waiting: {error}")
                    answered = time.monotonic()
                continue
            answered = time.monotonic()
            for task in tuple(waiting):
                run = found.get(self._key(task))
                gone = run is None and task in missed  # missing from two queries in a row
                missed.add(task) if run is None else missed.discard(task)
                if run is not None and run.pending:
                    started.discard(task)  # it has been requeued
                elif run is not None and task not in started:
                    started.add(task)
                    on_start(task)
                if run is None or not run.ended:
                    over.pop(task, None)
                else:
                    over.setdefault(task, answered)
                if gone or (run is not None and run.ended and (run.succeeded or answered - over[task] > SETTLED)):
                    waiting.remove(task)
                    on_end(task, self._end(task, run))

    def _end(self, task: Task, run: QueuedRun | None) -> int:
        """Return the exit code of a job. Add a note if its command cannot have reported the reason."""
        if run is None:
            self.notes[task.name] = "SLURM no longer knows its job"
            return 1
        if run.state not in ("COMPLETED", "FAILED"):
            self.notes[task.name] = f"SLURM job {run.id}: {run.state.lower().replace('_', ' ')}"
        elif run.state == "FAILED" and not _mentions(task.log, f"SLURM job {run.id}\n"):
            where = next(self.queue.folder.glob(f"*/{run.id}_0_log.out"), self.queue.folder)
            self.notes[task.name] = f"SLURM job {run.id} failed before the run began, see {where}"
        return run.code or int(run.state != "COMPLETED")

    def _jobs(self, tasks: Sequence[Task]) -> list[str]:
        """Return the ids of the jobs of these tasks that have not ended; one id per array."""
        try:
            found = self.queue.look()
        except QueueError:
            return []
        runs = [run for task in tasks if (run := found.get(self._key(task))) and not run.ended]
        return sorted({run.id.partition("_")[0] for run in runs}, key=int)


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def _mentions(path: Path, words: str) -> bool:
    try:
        return words in path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Hide environment variables, and those of the SLURM job that this process may itself run in."""
    names = [n for n in os.environ if n in names or (n.startswith(OUTER) and n != "SLURM_CONF")]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def check_slurm() -> tuple[bool, str]:
    """Return whether SLURM works on this machine, and a description. A machine without SLURM passes."""
    if shutil.which("sinfo") is None:
        return True, "none here"
    try:
        call: Any = {"capture_output": True, "text": True, "timeout": 20}
        version = subprocess.run(["sinfo", "--version"], **call)
        answer = subprocess.run(["sinfo", "--noheader", "--format=%R %D"], **call)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, f"sinfo does not answer: {error}"
    if "configuration source" in answer.stderr:
        return True, "none here (commands are installed, no cluster is configured)"
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        return False, f"sinfo does not answer: {lines[-1]}"
    nodes: dict[str, int] = {}
    for line in answer.stdout.splitlines():
        partition, count = line.rsplit(maxsplit=1)
        nodes[partition] = nodes.get(partition, 0) + int(count)
    words = ", ".join(f"{name} ({count} node{'s' * (count != 1)})" for name, count in nodes.items())
    return True, f"{version.stdout.strip()}, {words or 'no partition'}"
