"""One process a folder: a lock that says who holds it, and that ends with its process."""

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

PATIENCE = 0.3  # seconds: somebody who looks whether the lock is held has it for a moment


@dataclass(frozen=True)
class Holder:
    """A process, as it wrote itself down."""

    host: str
    pid: int
    since: str

    @classmethod
    def this(cls) -> Holder:
        """Return this process."""
        return cls(socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def parse(cls, text: bytes) -> Holder | None:
        """Read what `bytes` wrote; None if it is empty or damaged."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    def gone(self) -> bool:
        """Whether it certainly has ended: only known of processes of this host."""
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
    """A lock file, locked by the operating system, in which its holder is named.

    The system gives the lock back when a process ends, however it ends; the name that is left then tells of the dead
    holder. Where the file system has no locks, the name alone decides: a dead process of this host is replaced, one
    of another host is believed to be alive.

    Parameters
    ----------
    path
        The lock file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._finalizer: Any = None

    def acquire(self) -> Holder | None:
        """Take the lock, and return the dead process that it is taken over from, if there is one.

        Raises
        ------
        UserError
            If another process holds it.
        OSError
            If the file cannot be made.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            deadline = time.monotonic() + PATIENCE
            while not (free := _lock(descriptor, exclusive=True)) and time.monotonic() < deadline:
                time.sleep(0.02)
            before = Holder.parse(os.pread(descriptor, 4096, 0))
            if free is None:
                free = before is None or before.gone()
            if not free:
                advice = f"wait for it, or give another --out (the lock is {self.path})"
                raise UserError(f"another process is running in this folder: {before or 'not named'}; {advice}")
            _write(descriptor, json.dumps(vars(Holder.this())).encode())
        except BaseException:
            os.close(descriptor)
            raise
        self._finalizer = weakref.finalize(self, _release, descriptor, os.getpid())
        return before

    def release(self) -> None:
        """Give the lock back."""
        if self._finalizer is not None:
            self._finalizer()

    def holder(self) -> Holder | None:
        """Return the process that holds the lock now, or None."""
        named, held = self._look()
        return (named or Holder("?", 0, "?")) if held else None

    def stale(self) -> Holder | None:
        """Return the dead process that is still named, or None."""
        named, held = self._look()
        return None if held else named

    def _look(self) -> tuple[Holder | None, bool]:
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
    """Try to lock; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # not on every platform
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # not on every file system
        return None
    return True


def _write(descriptor: int, content: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)


def _release(descriptor: int, owner: int) -> None:
    try:
        if os.getpid() == owner:  # a forked child only closes its copy
            _write(descriptor, b"")
    finally:
        os.close(descriptor)
