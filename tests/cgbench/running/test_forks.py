"""A fork of a process that has computed with threads is refused, instead of waiting forever."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cgbench
from cgbench.campaigns.local import LocalExecutor, Task
from cgbench.errors import UserError
from cgbench.running import forks
from cgbench.running.run import use_hardware

PATIENCE = 120.0  # seconds


@pytest.fixture(autouse=True)
def _no_threads_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_first", None)


def answer(threads: int, out: str = "") -> str:
    """Start threads, or run a method, in a child; return what happens."""
    try:
        if out:
            options: dict[str, Any] = {"overrides": ["walkers=2", "steps=20"], "threads": threads, "out": out}
            return str(cgbench.run("muller_brown", "md", preset="smoke", **options).status)
        return str(use_hardware("cpu", threads))
    except UserError as error:
        return str(error)


def with_pool(threads: int, out: str = "") -> str:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply_async(answer, (threads, out)).get(PATIENCE)


def with_fork(threads: int, out: str = "") -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, answer(threads, out).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as text:
        found = text.read()
    os.waitpid(child, 0)
    return found


@pytest.mark.parametrize("fork", [with_pool, with_fork])
def test_a_fork_after_threads_is_refused(fork: Callable[..., str], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of such forks, too
        assert fork(2) == "2"  # nothing has happened yet
        use_hardware("cpu", 2)
        torch.ones(300, 300).exp().sum()
        found = fork(2, str(tmp_path / "threads"))
        assert "forked from one that has computed with several threads" in found and '"spawn"' in found
        assert "\n" not in found and not (tmp_path / "threads").exists()
        assert fork(1, str(tmp_path / "one")) == "finished"
    assert use_hardware("cpu", 2) == 2  # in this process


def test_a_fork_after_one_thread_is_fine() -> None:
    use_hardware("cpu", 1)
    assert with_fork(2) == "2"


def test_energies_of_the_parent_count_as_well(monkeypatch) -> None:
    torch.set_num_threads(2)
    cgbench.load_system("muller_brown")
    assert "spawn" in with_fork(2)


def test_campaigns_start_fresh_processes(tmp_path: Path) -> None:
    """The processes of a campaign do not inherit the threads of the process that starts them."""
    use_hardware("cpu", 2)
    script = "from cgbench.running import forks; print(forks._first)"
    task = Task("fresh", (sys.executable, "-c", script), tmp_path / "output.log")
    codes: list[int] = []
    LocalExecutor(1, 2).execute([task], lambda task: None, lambda task, code: codes.append(code))
    assert codes == [0] and task.log.read_text() == "None\n"
