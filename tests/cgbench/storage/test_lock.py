"""Locks: the second process learns who holds the lock; a dead process holds nothing."""

from __future__ import annotations

import errno
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

from cgbench.campaigns.slurm.queue import Queue
from cgbench.errors import UserError
from cgbench.running.run_folder import RunFolder
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


# ---- file systems without locks, dead nodes, used process ids ------------------------------------------


def named(**more: object) -> str:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": "2024-01-01", **more})


@pytest.fixture(params=["ENOLCK", "ENOSYS", "EOPNOTSUPP", "no fcntl"])
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has no file locks, in one of the ways that occur."""
    if request.param == "no fcntl":
        monkeypatch.setitem(sys.modules, "fcntl", None)
        return

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(getattr(errno, request.param), "no locks available")

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system has no locks."""
    monkeypatch.setattr(lock, "_lock", lambda descriptor, exclusive: None)


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes squeue answer; without a call, there is no squeue."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(lock, "_answers", {})

    def answers(script: str) -> Path:
        (folder / "squeue").write_text(f"#!/bin/sh\necho \"$@\" >> '{tmp_path}/asked'\n{script}\n")
        (folder / "squeue").chmod(0o755)
        return tmp_path / "asked"

    return answers


def test_without_flock_a_living_process_is_refused_and_a_dead_one_replaced(path: Path, no_flock: None) -> None:
    mine = FolderLock(path)
    assert mine.acquire() is None
    assert mine.holder().pid == os.getpid() and mine.stale() is None
    with pytest.raises(UserError, match=rf"process {os.getpid()} on .*the file system has no locks: remove that file"):
        FolderLock(path).acquire()
    mine.release()
    assert mine.holder() is None and path.read_bytes() == b""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path.write_text(named(pid=dead.pid))
    assert mine.stale().pid == dead.pid and mine.acquire().pid == dead.pid


def test_without_flock_a_waiting_process_waits(path: Path, no_flock: None, monkeypatch) -> None:
    first, second = FolderLock(path), FolderLock(path)
    first.acquire()
    timer = threading.Timer(0.3, first.release)
    timer.start()
    started = time.monotonic()
    assert second.acquire(wait=True) is None and time.monotonic() - started > 0.25
    timer.join()
    monkeypatch.setattr(lock, "LIMIT", 0.1)
    monkeypatch.setattr(lock, "NAME_POLL", 0.05)
    with pytest.raises(UserError, match="remove that file"):  # it may have died where nobody can see it
        FolderLock(path).acquire(wait=True)


def test_without_flock_only_one_of_many_gets_the_lock(path: Path, no_locks: None) -> None:
    barrier, got = threading.Barrier(6), []

    def compete() -> None:
        mine = FolderLock(path)
        barrier.wait()
        try:
            mine.acquire()
        except UserError:
            return
        got.append(mine)

    threads = [threading.Thread(target=compete) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_without_flock_a_lock_that_was_taken_over_is_not_released(path: Path, no_locks: None) -> None:
    mine = FolderLock(path)
    mine.acquire()
    path.write_text(named(token="another"))
    mine.release()
    assert json.loads(path.read_bytes())["token"] == "another"


def test_a_run_and_the_queue_of_a_sweep_need_no_flock(tmp_path: Path, no_flock: None) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.create() == [] and folder.held()
    with pytest.raises(UserError, match="another process is running in this folder"):
        RunFolder(tmp_path / "run").create()
    folder.release()
    assert not folder.held()
    with Queue(tmp_path).lock():
        assert FolderLock(tmp_path / ".sweep" / "lock").holder().pid == os.getpid()
    with Queue(tmp_path).lock():
        pass


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="start times are read from /proc")
def test_a_used_process_id_is_not_the_holder(path: Path, no_locks: None) -> None:
    """Our own id stands for that of a new process; after a requeue, the script often has the same id again."""
    mine = FolderLock(path)
    mine.acquire()
    recorded = json.loads(path.read_bytes())
    assert recorded["started"] == lock._start_time(os.getpid()) > 0
    mine.release()
    path.write_text(json.dumps(recorded | {"started": recorded["started"] - 1}))
    assert mine.holder() is None and mine.stale().pid == os.getpid()
    assert mine.acquire().pid == os.getpid()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the state of a process is read from /proc")
def test_a_process_that_nobody_has_waited_for_is_dead() -> None:
    zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    zombie.stdout.read()
    deadline = time.monotonic() + 5
    while not lock._is_zombie(zombie.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    holder = lock.Holder(socket.gethostname(), zombie.pid, "2024-01-01")
    assert holder.gone()
    zombie.communicate()
    assert holder.gone() and not lock.Holder(socket.gethostname(), os.getpid(), "2024-01-01").gone()


def test_a_holder_without_flock_counts_where_flock_works(path: Path, squeue) -> None:
    """A folder may be mounted with locks on one node and without on another."""
    path.write_text(named(host="elsewhere", os_lock=False))
    with pytest.raises(UserError, match="on elsewhere"):
        FolderLock(path).acquire()
    assert FolderLock(path).holder().host == "elsewhere"
    path.write_text(named(host="elsewhere", os_lock=True))  # it would still have the lock
    assert FolderLock(path).acquire().host == "elsewhere"


@pytest.mark.parametrize(
    ("script", "gone"),
    [
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", True),
        ("true", True),  # ended some minutes ago
        ("echo PENDING", True),  # requeued, and waiting for a node
        ("echo RUNNING", False),
        ("echo COMPLETING", False),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", False),
        (None, False),
    ],
)
def test_squeue_tells_whether_a_holder_on_another_node_has_ended(
    path: Path, no_locks: None, squeue, script: str | None, gone: bool
) -> None:
    asked = squeue(script) if script else None
    path.write_text(named(host="elsewhere", job="15", array_job="12", array_task="3"))
    mine = FolderLock(path)
    if gone:
        assert "SLURM job 12_3" in str(mine.acquire())
    else:
        with pytest.raises(UserError, match=r"on elsewhere, since 2024-01-01 \(SLURM job 12_3\)"):
            mine.acquire()
    if asked:
        assert mine.holder() is not None
        assert asked.read_text() == "--noheader --jobs=12_3 --format=%T\n"  # asked once


def test_a_squeue_that_hangs_is_not_waited_for(path: Path, squeue, monkeypatch) -> None:
    squeue("exec sleep 20")
    monkeypatch.setattr(lock, "ANSWER", 0.1)
    started = time.monotonic()
    assert not lock.Holder("elsewhere", 1, "2024-01-01", job="15").gone() and time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("holder", "environment", "gone"),
    [
        ({}, {}, True),
        ({"restarts": 0}, {"SLURM_RESTART_COUNT": "1"}, True),
        ({"restarts": 0}, {"SLURM_JOB_NUM_NODES": "2", "SLURM_RESTART_COUNT": "1"}, True),
        ({"restarts": 0}, {"SLURM_JOB_NUM_NODES": "2"}, False),  # another node of this job
        ({"job": "16"}, {}, False),
        ({"cluster": "one"}, {"SLURM_CLUSTER_NAME": "two"}, False),
    ],
)
def test_a_requeued_job_takes_over_from_itself(
    path: Path, no_locks: None, squeue, monkeypatch, holder: dict, environment: dict, gone: bool
) -> None:
    squeue("echo RUNNING")
    for name, value in ({"SLURM_JOB_ID": "15"} | environment).items():
        monkeypatch.setenv(name, value)
    path.write_text(named(**({"host": "elsewhere", "job": "15"} | holder)))
    mine = FolderLock(path)
    if gone:
        assert mine.acquire().host == "elsewhere"
        assert json.loads(path.read_bytes())["job"] == "15"
    else:
        with pytest.raises(UserError, match="on elsewhere"):
            mine.acquire()


def test_a_lock_that_outlives_its_process_is_named(path: Path, squeue) -> None:
    """A server may keep the lock of a node that has crashed."""
    squeue("true")
    path.write_text(named(host="elsewhere", job="15"))
    script = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); "
    process = subprocess.Popen([sys.executable, "-c", script + "time.sleep(60)", str(path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    with pytest.raises(UserError, match="has ended, but the file system has kept its lock: remove that file"):
        FolderLock(path).acquire()
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("more", "valid"),
    [
        ({}, True),
        ({"started": None, "added_later": [1]}, True),
        ({"pid": "7"}, False),
        ({"pid": True}, False),
        ({"started": "7"}, False),
        ({"os_lock": None}, False),
        ({"host": None}, False),
    ],
)
def test_old_and_new_lock_files_are_read(more: dict, valid: bool) -> None:
    found = lock.Holder.parse(named(**more).encode())
    assert (found is not None) is valid
    if found is not None:
        assert found.started is None and found.job is None and str(found).endswith("since 2024-01-01")


def test_on_windows_no_signal_is_sent(path: Path, monkeypatch) -> None:
    """There, ``os.kill(pid, 0)`` ends the process."""
    monkeypatch.setattr(os, "kill", lambda *arguments: pytest.fail("a signal was sent"))
    mine = FolderLock(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        alive = lock._exists(4)
        with pytest.raises(UserError, match="on Windows, use WSL"):
            mine.acquire()
    assert alive and not path.exists()
