"""What a SLURM job of a sweep does: it runs one command, and has it save and go on when SLURM wants the node back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Command"]

TIME_IS_UP = signal.SIGUSR2  # what submitit has SLURM send before the time limit
FORWARD = 3  # seconds after which SIGTERM is passed on, to a command that SLURM has not sent it to itself
INTERRUPTED = (130, -signal.SIGTERM, -signal.SIGINT)


@dataclass(frozen=True)
class Command:
    """A command that can be given again after any interruption, as it travels to the node.

    Attributes
    ----------
    words, environment
        The command, and what is set in its environment.
    log
        File that its output is appended to.
    checkpoint
        File that changes when the command has got further.
    """

    words: tuple[str, ...]
    environment: dict[str, str]
    log: str
    checkpoint: str

    def __call__(self) -> None:
        """Run the command and end as it does; before the time limit, end it and put the job back into the queue.

        SIGTERM comes when SLURM requeues, pre-empts or cancels the job: the command ends, and whether the job
        starts again is SLURM's to say.
        """
        job = _job_id()
        Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        before = self._progress()
        with open(self.log, "a", encoding="utf-8") as log:
            print(f"SLURM job {job}", file=log, flush=True)
            code, time_is_up = self._run(log)
            if time_is_up and code in INTERRUPTED:
                print(_requeue(job) if self._progress() != before else NO_PROGRESS, file=log, flush=True)
        sys.exit(code if code >= 0 else 128 - code)

    def _run(self, log: Any) -> tuple[int, bool]:
        """Return the exit code, negative for a signal, and whether the time was up."""
        received: set[int] = set()
        signals = {TIME_IS_UP, signal.SIGTERM, signal.SIGALRM}
        # signals wait until there is a process to pass them on to
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)

        def prepare() -> None:  # SLURM signals all processes of a job; the command is told by this one
            signal.signal(TIME_IS_UP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

        process = subprocess.Popen(
            self.words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | self.environment,
            preexec_fn=prepare,
        )

        def handle(signum: int, frame: Any) -> None:
            # most often SLURM has sent SIGTERM to the command too, and a second one would disturb its end
            if not received:
                signal.alarm(FORWARD) if signum == signal.SIGTERM else process.terminate()
            elif signum == signal.SIGALRM:
                process.terminate()
            received.add(signum)

        for number in signals:
            signal.signal(number, handle)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = process.wait()
        signal.alarm(0)
        return code, TIME_IS_UP in received

    def _progress(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.checkpoint)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns


NO_PROGRESS = "cgbench: no checkpoint was written within the job's time limit: give more --time"


def _job_id() -> str:
    """The job as scontrol takes it; an element of an array by its index, for its own number may mean them all."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID", "unknown")


def _requeue(job: str) -> str:
    """Put the job back into the queue; return what is to be said about it."""
    try:
        answer = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cgbench: the time is up, and SLURM job {job} could not be requeued: {error}"
    if answer.returncode:
        return f"cgbench: the time is up, and SLURM job {job} could not be requeued: {answer.stderr.strip()}"
    return f"cgbench: the time is up, SLURM job {job} is in the queue again"
