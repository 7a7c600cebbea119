"""Processes on this machine: how many at a time, with how many threads, and none left behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from cgbench.campaigns.local import LocalExecutor, Task


def script(folder: Path, name: str, text: str) -> Task:
    return Task(name, (sys.executable, "-c", text), folder / name / "output.log")


def execute(executor: LocalExecutor, tasks: list[Task]) -> tuple[list[str], dict[str, int]]:
    events: list[str] = []
    codes: dict[str, int] = {}

    def end(task: Task, code: int) -> None:
        events.append(f"end {task.name}")
        codes[task.name] = code

    executor.execute(tasks, lambda task: events.append(f"start {task.name}"), end)
    return events, codes


def test_two_at_a_time_and_exit_codes(tmp_path: Path) -> None:
    codes = {"a": 0, "b": 2, "c": 0, "d": 1, "e": 0}
    tasks = [
        script(tmp_path, name, f"import sys, time; time.sleep(0.3); print('{name}'); sys.exit({code})")
        for name, code in codes.items()
    ]
    events, found = execute(LocalExecutor(2, 1), tasks)
    assert found == codes
    assert [event for event in events if event.startswith("start")] == [f"start {name}" for name in "abcde"]
    running = [sum(e[0] == "s" for e in events[:k]) - sum(e[0] == "e" for e in events[:k]) for k in range(len(events))]
    assert max(running) == 2
    assert (tmp_path / "d" / "output.log").read_text() == "d\n"


def test_threads_are_set_and_output_is_appended(tmp_path: Path) -> None:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENMM_CPU_THREADS")
    before = os.environ.get("OMP_NUM_THREADS")
    task = script(tmp_path, "a", f"import os; print(*(os.environ[name] for name in {names}))")
    for _ in range(2):
        execute(LocalExecutor(1, 3), [task])
    assert task.log.read_text() == "3 3 3 3\n" * 2
    assert os.environ.get("OMP_NUM_THREADS") == before


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def interrupt_when(ready: Path, *signals: signal.Signals) -> threading.Thread:
    """Send signals to this process, half a second apart, once the file is there."""

    def watch() -> None:
        while not ready.exists():
            time.sleep(0.05)
        for number in signals:
            time.sleep(0.5)
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "


@pytest.mark.parametrize(
    ("signals", "first"),
    [((signal.SIGINT,), ""), ((signal.SIGTERM,), ""), ((signal.SIGINT, signal.SIGINT), STUBBORN)],
    ids=["SIGINT", "SIGTERM", "twice, for one that will not end"],
)
def test_an_interrupt_leaves_no_process_and_starts_no_more(tmp_path: Path, signals, first: str) -> None:
    pid = tmp_path / "pid"
    write = f"import os, time; open('{pid}.new', 'w').write(str(os.getpid())); os.rename('{pid}.new', '{pid}')"
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    tasks = [script(tmp_path, "a", f"{first}{write}; time.sleep(60)"), script(tmp_path, "b", "print('started')")]
    thread = interrupt_when(pid, *signals)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        execute(LocalExecutor(1, 1), tasks)
    thread.join()
    assert time.monotonic() - started < 30
    assert not alive(int(pid.read_text())) and not (tmp_path / "b").exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
