"""Which runs of a sweep SLURM has: notes beside the runs say what was submitted, squeue says what became of it.

A note is written before its jobs are submitted, and names them: jobs are found by their name, so that a kill between
submission and note cannot lose them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cgbench.errors import UserError
from cgbench.storage.files import write_atomically

__all__ = ["Queue", "QueuedRun", "QueueError"]

ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
}
FIELDS = "Name:40,ArrayJobID:16,ArrayTaskID:16,State:24,exit_code:16,Reason:80"
KEPT = 600.0  # seconds that a note is kept at least: its jobs may be on their way
PATIENCE = 30.0  # seconds that squeue may take


class QueueError(UserError):
    """SLURM does not say what it has."""


@dataclass(frozen=True)
class QueuedRun:
    """What SLURM says of a run.

    Attributes
    ----------
    id
        The job as commands such as scancel take it: ``12``, or ``12_3`` in an array.
    status
        Exit status as the kernel gives it: the code in the upper byte, or a signal.
    """

    id: str
    state: str
    status: int
    reason: str

    @property
    def ended(self) -> bool:
        """Whether the job is over, for better or worse."""
        return self.state in ENDED

    @property
    def succeeded(self) -> bool:
        """Whether the job is over, for better."""
        return self.state == "COMPLETED"

    @property
    def pending(self) -> bool:
        """Whether the job waits to be started."""
        return self.state in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")

    @property
    def code(self) -> int:
        """Exit code, negative for a signal."""
        return -(self.status & 127) if self.status & 127 else self.status >> 8


class Queue:
    """The jobs that sweeps into one folder have in SLURM; a run is known by its path in the folder.

    Parameters
    ----------
    out
        Folder that run folders are made in; notes lie in ``<out>/.sweep``.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out / ".sweep"

    def look(self) -> dict[str, QueuedRun]:
        """Return what SLURM has of each run: the job that is not over, or the last that was.

        SLURM forgets jobs some minutes after they ended.

        Raises
        ------
        QueueError
            If squeue does not answer.
        """
        notes = self._notes()
        found: dict[str, QueuedRun] = {}
        for line in _squeue(sorted(notes)) if notes else ():
            name, job, index, state, status, reason = (*line.split(maxsplit=5), "")[:6]
            runs = notes.get(name, [])
            number = int(index) if index.isdigit() else 0  # "N/A" for a job that is no array
            if number < len(runs):
                entry = QueuedRun(f"{job}_{index}" if index.isdigit() else job, state, int(status), reason.strip())
                other = found.get(runs[number])
                if other is None or (other.ended, _number(entry)) > (entry.ended, _number(other)):
                    found[runs[number]] = entry
        return found

    def note(self, name: str, runs: Sequence[str]) -> Path:
        """Write down that jobs of this name are about to be submitted; return the folder for their files."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        write_atomically(folder / "runs.json", (json.dumps(list(runs), indent=1) + "\n").encode())
        return folder

    def forget(self, name: str) -> None:
        """Remove a note and the files of its jobs."""
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def tidy(self) -> None:
        """Remove notes whose jobs SLURM does not know any more.

        Raises
        ------
        QueueError
            If squeue does not answer.
        """
        notes = self._notes()
        known = {line.split(maxsplit=1)[0] for line in _squeue(sorted(notes))} if notes else set()
        for name in set(notes) - known:
            if time.time() - (self.folder / name / "runs.json").stat().st_mtime > KEPT:
                self.forget(name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Between a look and what follows from it, no other sweep submits."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT)
        try:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _notes(self) -> dict[str, list[str]]:
        notes = {}
        for path in self.folder.glob("*/runs.json"):
            try:
                notes[path.parent.name] = [str(run) for run in json.loads(path.read_text(encoding="utf-8"))]
            except (OSError, ValueError, TypeError):  # another sweep has just removed it
                continue
        return notes


def _number(run: QueuedRun) -> int:
    return int(run.id.partition("_")[0])


def _squeue(names: Sequence[str]) -> list[str]:
    """Ask for all jobs of these names, those included that have ended lately."""
    words = ["squeue", "--noheader", "--array", "--states=all", f"--name={','.join(names)}", f"--Format={FIELDS}"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    except FileNotFoundError as error:
        raise QueueError("no squeue on this machine: what SLURM has of these runs is not known") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueueError(f"squeue does not answer: {error}") from error
    if answer.returncode:
        raise QueueError(f"squeue does not answer: {answer.stderr.strip() or f'exit code {answer.returncode}'}")
    return [line for line in answer.stdout.splitlines() if line.strip()]
