"""The SLURM jobs of a sweep: notes in the folder of runs list what was submitted, squeue gives the state of the jobs.

A note contains the name of its jobs and is written before they are submitted. Jobs are found by this name, and a kill
during submission does not lose them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cgbench.errors import UserError
from cgbench.storage.files import write_atomically
from cgbench.storage.lock import FolderLock

__all__ = ["Queue", "QueuedRun", "QueueError", "largest_array"]

ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
}
FIELDS = "Name:40,ArrayJobID:16,ArrayTaskID:16,State:24,exit_code:16,Reason:80"
KEPT = 600.0  # seconds; a younger note is kept, because its jobs may not be submitted yet
PATIENCE = 30.0  # seconds for squeue to answer
LARGEST_ARRAY = 1001  # SLURM's default for MaxArraySize


class QueueError(UserError):
    """The state of SLURM's queue is unknown."""


@dataclass(frozen=True)
class QueuedRun:
    """The SLURM job of a run.

    Attributes
    ----------
    id
        Id of the job as used by commands such as scancel: ``12``, or ``12_3`` in an array.
    state
        State of the job as squeue names it.
    status
        Wait status: the exit code in the upper byte, or a signal.
    reason
        Why the job is pending.
    """

    id: str
    state: str
    status: int
    reason: str

    @property
    def ended(self) -> bool:
        """Whether the job has ended, successfully or not."""
        return self.state in ENDED

    @property
    def succeeded(self) -> bool:
        """Whether the job has ended successfully."""
        return self.state == "COMPLETED"

    @property
    def pending(self) -> bool:
        """Whether the job is waiting to be started."""
        return self.state in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")

    @property
    def code(self) -> int:
        """Exit code, negative for a signal."""
        return -(self.status & 127) if self.status & 127 else self.status >> 8


class Queue:
    """The SLURM jobs of all sweeps into one folder. A run is identified by its path in the folder.

    Parameters
    ----------
    out
        Folder that run folders are created in; notes are in ``<out>/.sweep``.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out / ".sweep"

    def look(self) -> dict[str, QueuedRun]:
        """Return the job of each run: the one that has not ended, or else the latest.

        SLURM forgets jobs some minutes after their end.

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
            number = int(index) if index.isdigit() else 0  # "N/A" for a job that is not in an array
            if number < len(runs):
                entry = QueuedRun(f"{job}_{index}" if index.isdigit() else job, state, int(status), reason.strip())
                other = found.get(runs[number])
                if other is None or (other.ended, _number(entry)) > (entry.ended, _number(other)):
                    found[runs[number]] = entry
        return found

    def note(self, name: str, runs: Sequence[str]) -> Path:
        """Write a note that jobs of this name are about to be submitted. Return the folder for their files."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        write_atomically(folder / "runs.json", (json.dumps(list(runs), indent=1) + "\n").encode())
        return folder

    def forget(self, name: str) -> None:
        """Remove a note and the files of its jobs."""
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def tidy(self) -> None:
        """Remove notes whose jobs SLURM no longer knows.

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
        """Wait until no other sweep is submitting, and keep others from submitting inside the context."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(self.folder / "lock")
        lock.acquire(wait=True)
        try:
            yield
        finally:
            lock.release()

    def _notes(self) -> dict[str, list[str]]:
        notes = {}
        for path in self.folder.glob("*/runs.json"):
            try:
                notes[path.parent.name] = [str(run) for run in json.loads(path.read_text(encoding="utf-8"))]
            except (OSError, ValueError, TypeError):  # another sweep has just removed the note
                continue
        return notes


def _number(run: QueuedRun) -> int:
    return int(run.id.partition("_")[0])


def _squeue(names: Sequence[str]) -> list[str]:
    """Ask squeue for all jobs with these names, including those that ended recently."""
    words = ["squeue", "--noheader", "--array", "--states=all", f"--name={','.join(names)}", f"--Format={FIELDS}"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    except FileNotFoundError as error:
        raise QueueError("no squeue on this machine: the SLURM jobs of these runs are unknown") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueueError(f"squeue does not answer: {error}") from error
    if answer.returncode:
        raise QueueError(f"squeue does not answer: {answer.stderr.strip() or f'exit code {answer.returncode}'}")
    return [line for line in answer.stdout.splitlines() if line.strip()]


def largest_array() -> tuple[int, bool]:
    """Return the largest number of jobs in an array, and whether SLURM named it; otherwise it is SLURM's default.

    MaxArraySize is one more than the largest index, and arrays start at 0. Where it is 0, there are no arrays.
    """
    try:
        answer = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return LARGEST_ARRAY, False
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)\s*$", answer.stdout, re.MULTILINE)
    if answer.returncode or found is None:
        return LARGEST_ARRAY, False
    return max(1, int(found[1])), True
