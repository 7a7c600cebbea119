"""Many commands at once: on this machine, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["LocalExecutor", "Task", "stop_signals", "thread_environment"]

THREAD_VARIABLES = ("OMP", "MKL", "OPENBLAS", "NUMEXPR")
GRACE = 60.0  # seconds that a process has to save its state


@dataclass(frozen=True)
class Task:
    """A command that can be given again after any interruption, and the file that its output is appended to."""

    name: str
    command: tuple[str, ...]
    log: Path


def thread_environment(threads: int) -> dict[str, str]:
    """Return the variables that bound the CPU threads of a process."""
    names = (*(f"{name}_NUM_THREADS" for name in THREAD_VARIABLES), "OPENMM_CPU_THREADS")
    return dict.fromkeys(names, str(threads))


class LocalExecutor:
    """Runs tasks as processes on this machine, in the order given.

    SIGINT and SIGTERM stop it: no further task starts, running ones are asked to save and end, and are killed at
    a second signal or after a minute. All processes are in one group, so that what kills the group kills all.

    Parameters
    ----------
    workers
        Processes at a time.
    threads
        CPU threads of each.
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
        """Execute all tasks; `on_end` is told the exit code, negative for a signal.

        Raises
        ------
        KeyboardInterrupt
            If it was interrupted; every process has ended then.
        """
        waiting, running = deque(tasks), list[tuple[Task, subprocess.Popen[bytes]]]()
        with stop_signals() as stop:
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


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, instead of what they otherwise do."""
    event = threading.Event()

    def handle(signum: int, frame: Any) -> None:
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(processes: Sequence[subprocess.Popen[bytes]], at_once: threading.Event) -> None:
    """Ask processes to end, and kill those that have not when the event is set or the time is up."""
    for process in processes:
        process.terminate()
    waited = 0.0
    while waited < GRACE and any(process.poll() is None for process in processes) and not at_once.wait(0.1):
        waited += 0.1
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
