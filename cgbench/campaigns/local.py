"""Executes commands on this machine, several processes at a time."""

from __future__ import annotations

import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cgbench.running.signals import stop_event

__all__ = ["THREAD_VARIABLES", "LocalExecutor", "Task", "thread_environment"]

# environment variables that limit the CPU threads of a process
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OPENMM_CPU_THREADS",
)
GRACE = 60.0  # seconds for a process to save its state and end


@dataclass(frozen=True)
class Task:
    """A command that can be repeated after any interruption, and the file that its output is appended to."""

    name: str
    command: tuple[str, ...]
    log: Path


def thread_environment(threads: int) -> dict[str, str]:
    """Return the environment variables that limit a process to `threads` CPU threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


class LocalExecutor:
    """Executes tasks as processes on this machine, in the given order.

    On SIGINT or SIGTERM no further task starts. Running tasks get SIGTERM, which makes them save and end; they are
    killed after a minute or at a second signal. All processes are in one process group and can be killed together.

    Parameters
    ----------
    workers
        Largest number of processes at a time.
    threads
        CPU threads of each process.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.workers = workers
        self._environment = os.environ | thread_environment(threads)

    def execute(
        self,
        tasks: Sequence[Task],
        on_start: Callable[[Task], None],
        on_end: Callable[[Task, int], None],
    ) -> None:
        """Execute all tasks.

        Parameters
        ----------
        tasks
            The tasks.
        on_start
            Called when a task starts.
        on_end
            Called when a task has ended, with its exit code (negative for a signal).

        Raises
        ------
        KeyboardInterrupt
            If the executor was interrupted; all processes have ended.
        """
        waiting, running = deque(tasks), list[tuple[Task, subprocess.Popen[bytes]]]()
        with stop_event() as stop:
            try:
                while (waiting or running) and not stop.is_set():
                    while waiting and len(running) < self.workers:
                        task = waiting.popleft()
                        on_start(task)
                        running.append((task, self._start(task)))
                    for task, process in [(t, p) for t, p in running if p.poll() is not None]:
                        running.remove((task, process))
                        on_end(task, process.returncode)
                    stop.wait(0.1 if running else 0.0)
            finally:
                interrupted = stop.is_set()
                stop.clear()
                _end([process for _, process in running], stop)
        if interrupted:
            raise KeyboardInterrupt

    def _start(self, task: Task) -> subprocess.Popen[bytes]:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with open(task.log, "ab") as log:
            return subprocess.Popen(
                task.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self._environment
            )


def _end(processes: Sequence[subprocess.Popen[bytes]], at_once: threading.Event) -> None:
    """Terminate processes; kill those that still run when the event is set or the grace period is over."""
    for process in processes:
        process.terminate()
    waited = 0.0
    while waited < GRACE and any(process.poll() is None for process in processes) and not at_once.wait(0.1):
        waited += 0.1
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
