"""The SLURM job of one run: executes a command, and saves and requeues it when its time is up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgbench.running.signals import handlers

__all__ = ["Command"]

TIME_IS_UP = signal.SIGUSR2  # submitit makes SLURM send this before the time limit
SIGNALS = (TIME_IS_UP, signal.SIGTERM, signal.SIGALRM)
FORWARD = 3  # seconds before SIGTERM is forwarded to the command, in case SLURM did not send it to the command itself
INTERRUPTED = (130, -signal.SIGTERM, -signal.SIGINT)  # exit codes of an interrupted run
NO_PROGRESS = "cgbench: no checkpoint was written within the job's time limit: increase --time"


@dataclass(frozen=True)
class Command:
    """A command that can be repeated after any interruption. submitit pickles it for the node.

    Attributes
    ----------
    words, environment
        The command, and variables to set in its environment.
    log
        File that its output is appended to.
    checkpoint
        File that changes when the command has made progress.
    """

    words: tuple[str, ...]
    environment: dict[str, str]
    log: str
    checkpoint: str

    def __call__(self) -> None:
        """Execute the command and exit with its code; before the time limit, stop it and requeue the job.

        SIGTERM means that SLURM requeues, preempts or cancels the job. The command then ends, and SLURM decides
        whether the job starts again.
        """
        job = _job_id()
        Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        before = self._progress()
        received: set[int] = set()
        with open(self.log, "a", encoding="utf-8") as log:
            print(f"SLURM job {job}", file=log, flush=True)
            # hold signals back until there is a process to forward them to
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            process = self._start(log, mask)

            def handle(signum: int, frame: Any) -> None:
                # SLURM usually sends SIGTERM to the command as well; a second one would disturb its saving
                if not received:
                    signal.alarm(FORWARD) if signum == signal.SIGTERM else process.terminate()
                elif signum == signal.SIGALRM:
                    process.terminate()
                received.add(signum)

            with handlers(handle, SIGNALS):  # until this process exits
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                code = process.wait()
                signal.alarm(0)
                if TIME_IS_UP in received and code in INTERRUPTED:
                    print(_requeue(job) if self._progress() != before else NO_PROGRESS, file=log, flush=True)
                sys.exit(code if code >= 0 else 128 - code)

    def _start(self, log: Any, mask: Iterable[int]) -> subprocess.Popen[bytes]:
        """Start the command with the given signal mask."""

        def prepare() -> None:  # SLURM signals all processes of a job, but only this one handles the time limit
            signal.signal(TIME_IS_UP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

        return subprocess.Popen(
            self.words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | self.environment,
            preexec_fn=prepare,
        )

    def _progress(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.checkpoint)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns


def _job_id() -> str:
    """Return the job's id for scontrol. In an array, the plain job id can mean the whole array, so use the index."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID", "unknown")


def _requeue(job: str) -> str:
    """Requeue the job; return a message about the outcome."""
    try:
        answer = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cgbench: time limit reached, but SLURM job {job} could not be requeued: {error}"
    if answer.returncode:
        return f"cgbench: time limit reached, but SLURM job {job} could not be requeued: {answer.stderr.strip()}"
    return f"cgbench: time limit reached: SLURM job {job} is requeued"
