"""Locks: the second process learns who holds the lock; a dead process holds nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cgbench.errors import UserError
from cgbench.storage import lock
from cgbench.storage.lock import FolderLock

HOLD = """
import sys, time
from pathlib import Path
from cgbench.storage.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print(lock.acquire(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def other(path: Path):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "None\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_learns_who_is_first(path: Path, other) -> None:
    with pytest.raises(UserError) as caught:
        FolderLock(path).acquire()
    host = re.escape(socket.gethostname())
    assert re.search(
        rf"process {other.pid} on {host}, since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00; wait", str(caught.value)
    )
    holder = FolderLock(path).holder()
    assert holder is not None and holder.pid == other.pid and FolderLock(path).stale() is None


def test_the_lock_of_a_dead_process_is_taken_over(path: Path, other) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    mine = FolderLock(path)
    assert mine.holder() is None and mine.stale().pid == other.pid
    before = mine.acquire()
    assert before is not None and before.pid == other.pid
    assert mine.holder().pid == os.getpid() and mine.stale() is None
    mine.release()
    assert mine.holder() is None and mine.stale() is None and path.read_bytes() == b""
    assert FolderLock(path).acquire() is None


def test_looking_does_not_get_in_the_way(path: Path) -> None:
    """A process that checks the lock holds the file for a moment; acquiring waits for that long."""
    script = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); "
    script += "print(1, flush=True); time.sleep(0.1)"
    path.write_bytes(b"")
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    FolderLock(path).acquire()
    process.communicate()


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"pid": 1}', b"\xff\x00"])
def test_a_damaged_lock_file_is_no_obstacle(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert FolderLock(path).stale() is None
    assert FolderLock(path).acquire() is None


def test_where_the_file_system_has_no_locks_the_name_decides(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "_lock", lambda descriptor, exclusive: None)
    mine = FolderLock(path)
    assert mine.acquire() is None and mine.holder().pid == os.getpid()
    with pytest.raises(UserError, match=f"process {os.getpid()} on"):
        FolderLock(path).acquire()
    mine.release()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    named = {"host": socket.gethostname(), "pid": dead.pid, "since": "2024-01-01"}
    path.write_text(json.dumps(named))
    assert FolderLock(path).stale().pid == dead.pid
    again = FolderLock(path)
    assert again.acquire().pid == dead.pid
    again.release()
    path.write_text(json.dumps(named | {"host": "elsewhere"}))
    with pytest.raises(UserError, match="on elsewhere, since 2024-01-01"):
        FolderLock(path).acquire()


def test_a_lock_ends_with_its_object(path: Path) -> None:
    mine = FolderLock(path)
    mine.acquire()
    del mine
    started = time.monotonic()
    FolderLock(path).acquire()
    assert time.monotonic() - started < 0.3


def test_waiting_for_a_lock_ends_when_it_is_released(path: Path, other) -> None:
    """Longer than the patience of an acquisition that does not wait."""
    mine = FolderLock(path)
    timer = threading.Timer(3 * lock.PATIENCE, other.kill)
    timer.start()
    started = time.monotonic()
    before = mine.acquire(wait=True)
    assert time.monotonic() - started > 2 * lock.PATIENCE
    assert before is not None and before.pid == other.pid and mine.holder().pid == os.getpid()
    timer.join()
