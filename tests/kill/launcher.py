"""Starts ``cgbench`` over and over from one warm process, and kills it at chosen moments.

Reads one JSON object a line: a ``number``, ``arguments`` of the command line, and at most one of

- ``after_cpu``: SIGKILL when the process has used so many seconds of CPU, whatever it is doing then;
- ``at``: SIGKILL by its own hand while it writes a file: ``[name, step, n]`` for the n-th time that it gets to step
  "half" (half of the bytes are written), "sync" (all are written, none is synced), "kept" (the old file is moved away,
  the new one not yet in place) or "placed" (the new one is in place);
- ``largest_file``: no file may grow beyond so many bytes, as on a full disk.

Answers with the ``number``, ``returncode`` (negative for a signal), ``cpu`` seconds, ``out`` and ``err``.
"""

from __future__ import annotations

import builtins
import itertools
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


class _Half:
    """A file of which half is written before the process is killed."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> _Half:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        _kill()


def _plant(name: str, step: str, number: int) -> None:
    """Change what `write_atomically` uses, so that it ends in a kill."""
    from cgbench.storage import files

    temporary, times = f".{name}.new", itertools.count(1)
    if step == "half":

        def opened(path: Any, *rest: Any, **more: Any) -> Any:
            file = builtins.open(path, *rest, **more)
            return _Half(file) if Path(path).name == temporary and next(times) == number else file

        files.open = opened  # type: ignore[attr-defined]
        return
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).name == temporary and next(times) == number:
            _kill()
        fsync(descriptor)

    def replaced(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(source).name == (name if step == "kept" else temporary) and next(times) == number:
            _kill()

    if step == "sync":
        os.fsync = synced
    else:
        os.replace = replaced


def _child(order: dict[str, Any], out: int, err: int) -> None:
    from cgbench.cli.main import main

    for descriptor, standard in ((out, 1), (err, 2)):
        os.dup2(descriptor, standard)
    if "at" in order:
        _plant(*order["at"])
    if "largest_file" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"], resource.RLIM_INFINITY))
    code = 70
    try:
        code = main(order["arguments"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _cpu(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def launch(order: dict[str, Any]) -> dict[str, Any]:
    """Run the command in a process of its own, and kill it as ordered."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            _child(order, out.fileno(), err.fileno())
        limit, used = order.get("after_cpu"), 0.0
        while True:
            ended, status, usage = os.wait4(pid, 0 if limit is None else os.WNOHANG)
            if ended:
                break
            used = _cpu(pid)
            if used >= limit:
                os.kill(pid, signal.SIGKILL)
                limit = None
            time.sleep(0.002)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
        cpu = usage.ru_utime + usage.ru_stime
        code = os.waitstatus_to_exitcode(status)
        return {"number": order["number"], "returncode": code, "cpu": cpu, "out": texts[0], "err": texts[1]}


def serve() -> None:
    """Answer orders until there are no more."""
    import torch

    from cgbench.running.plan import make_plan

    torch.set_num_threads(1)
    for system in ("muller_brown", "aldp"):  # import what every run needs
        make_plan(system, "md", preset="smoke")

    for line in sys.stdin:
        print(json.dumps(launch(json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
