"""File locks: one process at a time, the holder is named in the file, and a dead process holds nothing."""

from __future__ import annotations

import json
import os
import socket
import time
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cgbench.errors import UserError

__all__ = ["FolderLock", "Holder"]

PATIENCE = 0.3  # seconds; a process that only checks whether the lock is held has it for a moment
POLL = 0.02  # seconds between two attempts


@dataclass(frozen=True)
class Holder:
    """The process named in a lock file."""

    host: str
    pid: int
    since: str

    @classmethod
    def this(cls) -> Holder:
        """Return this process."""
        return cls(socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def parse(cls, text: bytes) -> Holder | None:
        """Read the content of a lock file; None if it is empty or damaged."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    def gone(self) -> bool:
        """Whether the process has certainly ended. This can be known only for processes on this host."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False


class FolderLock:
    """A lock file that is locked by the operating system and names its holder.

    The operating system releases the lock when the process ends, in whatever way. The name that remains in the file
    then identifies the dead holder. On a file system without locks, only the name counts: a dead process on this host
    is replaced, and a process on another host is assumed to be alive.

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
            Wait while another process has locked the file, instead of raising an error.

        Raises
        ------
        UserError
            If another process holds the lock.
        OSError
            If the file cannot be created.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            deadline = time.monotonic() + PATIENCE
            while (free := _lock(descriptor, exclusive=True)) is False and (wait or time.monotonic() < deadline):
                time.sleep(POLL)
            before = Holder.parse(os.pread(descriptor, 4096, 0))
            if free is None:
                free = before is None or before.gone()
            if not free:
                advice = f"wait for it to end, or choose another --out (the lock is {self.path})"
                raise UserError(f"another process is running in this folder: {before or 'unknown'}; {advice}")
            _write(descriptor, json.dumps(vars(Holder.this())).encode())
        except BaseException:
            os.close(descriptor)
            raise
        self._finalizer = weakref.finalize(self, _release, descriptor, os.getpid())
        return before

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
            free = _lock(descriptor, exclusive=False)
            named = Holder.parse(os.pread(descriptor, 4096, 0))
        finally:
            os.close(descriptor)
        if free is None:
            free = named is None or named.gone()
        return named, not free


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


def _write(descriptor: int, content: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)


def _release(descriptor: int, owner: int) -> None:
    try:
        if os.getpid() == owner:  # a forked child only closes its copy of the descriptor
            _write(descriptor, b"")
    finally:
        os.close(descriptor)
