"""File locks: one process at a time, the holder is named in the file, and a dead process holds nothing."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import subprocess
import time
import weakref
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cgbench.errors import UserError

__all__ = ["FolderLock", "Holder"]

PATIENCE = 0.3  # seconds; a process that only checks whether the lock is held has it for a moment
POLL = 0.02  # seconds between two attempts
# without locks of the operating system
NAME_POLL = 0.2  # seconds between two attempts
SETTLE = 0.1  # seconds after which a process checks that no other has replaced its name
LIMIT = 600.0  # seconds to wait for a process that may be dead
NOTICE = 5.0  # seconds of waiting after which the user is told
# of SLURM
ANSWER = 10.0  # seconds for squeue to answer
KNOWN = 10.0  # seconds that an answer of squeue is valid
WITHOUT_PROCESS = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}  # states of listed jobs

_answers: dict[str, tuple[float, bool]] = {}  # for each job: when squeue was asked, and whether the job is over


@dataclass(frozen=True)
class Holder:
    """The process named in a lock file.

    Attributes
    ----------
    host, pid, since
        Host and id of the process, and when it acquired the lock.
    started
        Start time of the process in clock ticks since the boot of its host: ids of processes are used again.
    job, array_job, array_task, restarts, cluster
        Its SLURM job, how often SLURM has requeued it, and SLURM's cluster.
    os_lock
        Whether the operating system has locked the file for the process.
    token
        Random text; distinguishes threads that compete for the lock.
    """

    host: str
    pid: int
    since: str
    started: int | None = None
    job: str | None = None
    array_job: str | None = None
    array_task: str | None = None
    restarts: int | None = None
    cluster: str | None = None
    os_lock: bool = True
    token: str | None = None

    @classmethod
    def this(cls, os_lock: bool = True) -> Holder:
        """Return this process."""
        restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            started=_start_time(os.getpid()),
            job=os.environ.get("SLURM_JOB_ID"),
            array_job=os.environ.get("SLURM_ARRAY_JOB_ID"),
            array_task=os.environ.get("SLURM_ARRAY_TASK_ID"),
            restarts=int(restarts) if "SLURM_JOB_ID" in os.environ and restarts.isdecimal() else None,
            cluster=os.environ.get("SLURM_CLUSTER_NAME"),
            os_lock=os_lock,
            token=secrets.token_hex(4),
        )

    @classmethod
    def parse(cls, text: bytes) -> Holder | None:
        """Read the content of a lock file; None if it is empty or damaged. Unknown keys are ignored."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict):
            return None
        values = {field.name: found[field.name] for field in fields(cls) if field.name in found}
        kinds: dict[str, Any] = {"pid": int, "started": int, "restarts": int, "os_lock": bool}
        required = ("host", "pid", "since")
        for name, value in values.items():
            if type(value) is not kinds.get(name, str) and (value is not None or name in (*required, "os_lock")):
                return None
        return cls(**values) if all(name in values for name in required) else None

    def content(self) -> bytes:
        """Return the content of a lock file that names this process."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None}).encode()

    def __str__(self) -> str:
        job = f" (SLURM job {self._job_name})" if self._job_name else ""
        return f"process {self.pid} on {self.host}, since {self.since}{job}"

    @property
    def _job_name(self) -> str | None:
        """Id of the SLURM job as used by squeue; the number alone may stand for a whole array."""
        return f"{self.array_job}_{self.array_task}" if self.array_job and self.array_task else self.job

    def gone(self) -> bool:
        """Whether the process has certainly ended. On another host, this is known only for SLURM jobs."""
        if self.host == socket.gethostname():
            return self._ended_here()
        return self.job is not None and (self._is_requeued() or self._job_is_over())

    def _ended_here(self) -> bool:
        if not _exists(self.pid) or _is_zombie(self.pid):
            return True
        return _differ(self.started, _start_time(self.pid))

    def _is_requeued(self) -> bool:
        """Whether SLURM has requeued the job, and this process is in it now."""
        if self.job != os.environ.get("SLURM_JOB_ID") or _differ(self.cluster, os.environ.get("SLURM_CLUSTER_NAME")):
            return False
        if os.environ.get("SLURM_JOB_NUM_NODES", "1") == "1":  # the other host had the job before
            return True
        now = Holder.this().restarts
        return now is not None and self.restarts is not None and now > self.restarts

    def _job_is_over(self) -> bool:
        """Ask squeue. A job is assumed to be running if squeue is not installed or does not answer."""
        name = self._job_name
        if name is None or _differ(self.cluster, os.environ.get("SLURM_CLUSTER_NAME")):
            return False
        asked, over = _answers.get(name, (-float("inf"), False))
        if time.monotonic() - asked > KNOWN:
            over = _ask_squeue(name)
            _answers[name] = (time.monotonic(), over)
        return over


class FolderLock:
    """A lock file that is locked by the operating system and names its holder.

    The operating system releases the lock when the process ends, in whatever way. The name that remains in the file
    then identifies the dead holder. On a file system without locks, only the name counts: a dead process is replaced,
    and a process on another host is assumed to be alive unless SLURM says that its job is over.

    Parameters
    ----------
    path
        The lock file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._finalizer: Any = None

    def acquire(self, wait: bool = False) -> Holder | None:
        """Acquire the lock. Return the dead process that held it before, or None.

        Parameters
        ----------
        wait
            Wait while another process has locked the file, instead of raising an error. On a file system without
            locks the wait ends with an error after ten minutes: the holder may have died on another host.

        Raises
        ------
        UserError
            If another process holds the lock, or on Windows.
        OSError
            If the file cannot be created.
        """
        if os.name == "nt":
            raise UserError("cgbench runs on Linux and macOS; on Windows, use WSL")
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            before, content = self._acquire(descriptor, wait)
        except BaseException:
            os.close(descriptor)
            raise
        self._finalizer = weakref.finalize(self, _release, descriptor, os.getpid(), content)
        return before

    def _acquire(self, descriptor: int, wait: bool) -> tuple[Holder | None, bytes]:
        """Return the dead process that held the lock before, or None, and the new content of the file."""
        started, told = time.monotonic(), False
        while True:
            locked = _lock(descriptor, exclusive=True)
            before = Holder.parse(_read(descriptor))
            if _free(locked, before):
                content = Holder.this(os_lock=bool(locked)).content()
                _write(descriptor, content)
                if locked or self._settled(content):
                    return before, content
                before = Holder.parse(self._content())
            waited = time.monotonic() - started
            limit = PATIENCE if locked is False else 0.0
            if wait:
                limit = float("inf") if locked is False else LIMIT
            if waited >= limit:
                raise UserError(self._refusal(locked, before))
            if waited > NOTICE and not told:
                told = True
                logging.getLogger(__name__).warning("waiting for %s to release %s", before or "a process", self.path)
            time.sleep(POLL if locked is False else NAME_POLL)

    def _refusal(self, locked: bool | None, before: Holder | None) -> str:
        advice = f"wait for it to end, or choose another --out (the lock is {self.path}"
        if locked is not False:
            advice += "; the file system has no locks: remove that file if the process has ended"
        elif before is not None and before.gone():
            advice += "; that process has ended, but the file system has kept its lock: remove that file"
        return f"another process is running in this folder: {before or 'unknown'}; {advice})"

    def _settled(self, content: bytes) -> bool:
        """Whether no other process has replaced the content: without locks, two may find the file free at once."""
        time.sleep(SETTLE)
        return self._content() == content

    def _content(self) -> bytes:
        """Read the file by its name, which makes a network file system fetch its present content."""
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def release(self) -> None:
        """Release the lock."""
        if self._finalizer is not None:
            self._finalizer()

    def holder(self) -> Holder | None:
        """Return the process that holds the lock now, or None."""
        named, held = self._look()
        return (named or Holder("?", 0, "?")) if held else None

    def stale(self) -> Holder | None:
        """Return the dead process that the file still names, or None."""
        named, held = self._look()
        return None if held else named

    def _look(self) -> tuple[Holder | None, bool]:
        """Return the process named in the file, and whether the lock is held."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError:
            return None, False
        try:
            locked = _lock(descriptor, exclusive=False)
            named = Holder.parse(_read(descriptor))
        finally:
            os.close(descriptor)
        return named, not _free(locked, named)


def _free(locked: bool | None, named: Holder | None) -> bool:
    """Whether the lock is free.

    Parameters
    ----------
    locked
        What `_lock` has returned.
    named
        The process named in the file.
    """
    if locked is False:
        return False
    if locked and (named is None or named.os_lock):  # it would still have the lock
        return True
    return named is None or named.gone()


def _lock(descriptor: int, exclusive: bool) -> bool | None:
    """Try to lock without waiting. Return whether it succeeded; None if locks are not supported."""
    try:
        import fcntl
    except ImportError:  # not available on every platform
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # not supported by every file system
        return None
    return True


def _read(descriptor: int) -> bytes:
    return os.pread(descriptor, 4096, 0)


def _write(descriptor: int, content: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)


def _release(descriptor: int, owner: int, content: bytes) -> None:
    try:
        # a forked child only closes its copy of the descriptor; without locks, another may have taken the lock over
        if os.getpid() == owner and _read(descriptor) == content:
            _write(descriptor, b"")
    finally:
        os.close(descriptor)


# ---- processes and jobs -------------------------------------------------------------------------------


def _differ(one: Any, other: Any) -> bool:
    """Whether both are known and different."""
    return one is not None and other is not None and one != other


def _exists(pid: int) -> bool:
    """Whether a process of this id exists on this host."""
    if os.name == "nt" or pid <= 0:  # os.kill would end the process on Windows, and signal a group for 0 or less
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/<pid>/stat`` after the command's name, which may contain spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _start_time(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot; None if it is unknown."""
    found = _stat(pid)
    return int(found[19]) if len(found) > 19 and found[19].isdecimal() else None


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended, but its parent has not asked for its exit code."""
    return _stat(pid)[:1] in (["Z"], ["X"])


def _ask_squeue(job: str) -> bool:
    """Whether squeue says that no process of a job is running."""
    words = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER)
    except (OSError, subprocess.SubprocessError):
        return False
    if answer.returncode:  # SLURM forgets jobs some minutes after their end
        return "invalid job id" in answer.stderr.lower()
    return set(answer.stdout.split()) <= WITHOUT_PROCESS
