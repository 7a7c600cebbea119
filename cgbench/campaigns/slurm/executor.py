"""Many commands at once: as jobs of a SLURM cluster, submitted through submitit."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from threading import Event
from typing import Any

from cgbench.campaigns.local import Task, stop_signals, thread_environment
from cgbench.campaigns.slurm.job import Command
from cgbench.campaigns.slurm.queue import Queue, QueuedRun, QueueError
from cgbench.campaigns.slurm.resources import Resources
from cgbench.errors import UserError

__all__ = ["SlurmExecutor", "check_slurm"]

COMMANDS = ("sbatch", "srun", "squeue", "scontrol")
WARNING = 90  # seconds before the time limit at which a run is asked to save
SLOWEST = 15.0  # seconds between two looks at the queue, when it has been long
OUTER = ("SLURM_", "SRUN_", "SUBMITIT_")
SETTLED = 6.0  # seconds that a job must have been over: one that requeues itself looks so for a moment
SILENCE = 120.0  # seconds without an answer from squeue after which the user is told


def _say(line: str) -> None:
    print(line, flush=True)  # whoever reads it through a pipe waits for it


class SlurmExecutor:
    """Has tasks run as SLURM jobs, and waits for them.

    A task that is in the queue from an earlier call is waited for and not submitted again. SIGINT and SIGTERM end the
    waiting; the jobs go on.

    Parameters
    ----------
    out
        Folder that run folders are made in, on a file system that the nodes share.
    workers
        Largest number of jobs at a time; None for as many as there are nodes for.
    threads
        CPU threads of each, and CPUs that it asks for.
    resources
        What else each job asks for.
    tell
        Called with what there is to say on the way.

    Attributes
    ----------
    notes : dict
        For tasks that ended otherwise than by their own command, why.
    unfinished : list of str
        Jobs that were in the queue when the waiting ended.
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
                "sweep from a machine that SLURM's commands are installed on, or with --executor local"
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
        """Submit what is not in the queue, and wait for all; `on_end` is told the exit code, negative for a signal.

        Raises
        ------
        UserError
            If SLURM does not answer, or refuses the jobs.
        KeyboardInterrupt
            If it was interrupted; `unfinished` says which jobs go on.
        """
        if not tasks:
            return
        with stop_signals() as stop:
            try:
                with self.queue.lock():
                    self.queue.tidy()
                    found = self.queue.look()
                    there = {task for task in tasks if (run := found.get(self._key(task))) and not run.ended}
                    if there:
                        self.tell(f"{_runs(len(there))} in SLURM's queue already")
                    if new := [task for task in tasks if task not in there]:
                        self._submit(new)
                self._wait(list(tasks), on_start, on_end, stop)
            except UserError:
                if not stop.is_set():  # SIGINT reaches sbatch and squeue too
                    raise
            if stop.is_set():
                self.unfinished = self._jobs(tasks)
                raise KeyboardInterrupt

    def _key(self, task: Task) -> str:
        return task.log.relative_to(self.out).as_posix()

    def _submit(self, tasks: Sequence[Task]) -> None:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        name = f"cgbench-{uuid.uuid4().hex[:12]}"
        folder = self.queue.note(name, [self._key(task) for task in tasks])
        try:
            executor = submitit.SlurmExecutor(folder=folder)
            executor.update_parameters(
                **self.resources.parameters(),
                job_name=name,
                nodes=1,
                cpus_per_task=self.threads,
                srun_args=[f"--cpus-per-task={self.threads}"],  # since SLURM 22.05, srun does not ask sbatch
                array_parallelism=self.workers or len(tasks),
                signal_delay_s=WARNING,
                wckey=None,
                stderr_to_stdout=True,
                additional_parameters={"requeue": True, **self.resources.more},
            )
            with (
                _without(self.resources.overruled()),
                redirect_stderr(io.StringIO()),
            ):  # the error has all that is written there
                jobs = executor.submit_array([self._command(task) for task in tasks])
        except (FailedJobError, FailedSubmissionError) as error:
            if self.queue.look().keys().isdisjoint(map(self._key, tasks)):
                self.queue.forget(name)
            lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in str(error).splitlines()]
            raise UserError(f"SLURM does not take the jobs: {'; '.join(lines) or 'sbatch failed'}") from error
        at_a_time = f", at most {self.workers} at a time" if self.workers and self.workers < len(tasks) else ""
        self.tell(f"{_runs(len(tasks))} submitted to SLURM as job {jobs[0].job_id.partition('_')[0]}{at_a_time}")

    def _command(self, task: Task) -> Command:
        log = task.log.absolute()
        log.parent.mkdir(parents=True, exist_ok=True)
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
            except QueueError as error:  # a controller that restarts, or is busy; the jobs do not mind
                if time.monotonic() - answered > SILENCE:
                    self.tell(f"still waiting: {error}")
                    answered = time.monotonic()
                continue
            answered = time.monotonic()
            for task in tuple(waiting):
                run = found.get(self._key(task))
                gone = run is None and task in missed  # not at one look alone
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
        """Return the exit code of a job, and note what its command cannot have said."""
        if run is None:
            self.notes[task.name] = "SLURM does not know its job any more"
            return 1
        if run.state not in ("COMPLETED", "FAILED"):
            self.notes[task.name] = f"SLURM job {run.id}: {run.state.lower().replace('_', ' ')}"
        elif run.state == "FAILED" and not _mentions(task.log, f"SLURM job {run.id}\n"):
            where = next(self.queue.folder.glob(f"*/{run.id}_0_log.out"), self.queue.folder)
            self.notes[task.name] = f"SLURM job {run.id} failed before the run began, see {where}"
        return run.code or int(run.state != "COMPLETED")

    def _jobs(self, tasks: Sequence[Task]) -> list[str]:
        """Jobs of these tasks that are in the queue now, arrays as a whole."""
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
    """Hide variables of the environment, and what a job that this process may itself run in has set for its steps."""
    names = [n for n in os.environ if n in names or (n.startswith(OUTER) and n != "SLURM_CONF")]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def check_slurm() -> tuple[bool, str]:
    """Say whether all is well with SLURM on this machine, and how it is; to have none is well."""
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
