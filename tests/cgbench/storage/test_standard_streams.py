"""Standard output that is closed, full, or limited to ASCII."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from cgbench.cli import main as entry
from cgbench.cli.main import main
from cgbench.storage.standard_streams import say

PROCESS = [sys.executable, "-m", "cgbench"]
RUN = ["run", "--system", "muller_brown", "--method", "md", "--preset", "smoke", "--threads", "1"]
RUN += ["--set", "walkers=2", "--set", "steps=20"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_character_can_be_printed(monkeypatch, encoding: str) -> None:
    for error in ("strict", "surrogateescape"):
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=error)
        monkeypatch.setattr(sys, "stdout", out)

        def speak(command, name, arguments, after) -> int:
            print("≤ 1.8e-5 ångström \udcff")
            return 0

        monkeypatch.setattr(entry, "_call", speak)
        assert main(["list"]) == 0
        out.flush()
        assert "\\udcff" in out.buffer.getvalue().decode(encoding)
        assert ("≤" if encoding == "utf-8" else "\\u2264") in out.buffer.getvalue().decode(encoding)
        assert out.errors == error  # as it was


def test_list_in_ascii(monkeypatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["list"]) == 0
    out.flush()
    assert b"muller_brown" in out.buffer.getvalue() and b"BROKEN" not in out.buffer.getvalue()


def test_a_leaderboard_in_ascii(tmp_path: Path, monkeypatch, write_run) -> None:
    import numpy as np

    write_run(tmp_path, "toy", "one", np.ones(4), curve=((100, 1e-6),), reference={"noise_floor": 1e-4})
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["leaderboard", "--runs", str(tmp_path), "--format", "markdown"]) == 0
    out.flush()
    assert b"\\u2264" in out.buffer.getvalue()


def shell(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=False)


def test_closed_streams_cost_nothing(tmp_path: Path) -> None:
    """In a fork, which has everything imported; Python itself starts like this if the streams are closed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which are pytest's
        child = os.fork()
    if child == 0:
        code = 99
        try:
            for number in range(3):
                os.close(number)
            sys.stdin = sys.stdout = sys.stderr = None
            code = main([*RUN, "--out", str(tmp_path)])
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (record,) = tmp_path.rglob("record.json")
    assert '"status": "finished"' in record.read_text()
    for file in record.parent.iterdir():  # none of them has become standard output
        assert not file.is_file() or b"forward KLD" not in file.read_bytes()


def test_a_closed_standard_output_is_no_traceback() -> None:
    found = shell(f"'{PROCESS[0]}' -m cgbench --help >&-")
    assert found.returncode == 0 and found.stderr == ""


def test_a_reader_that_has_gone_costs_no_run(tmp_path: Path, monkeypatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as out, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", out)
        assert main([*RUN, "--out", str(tmp_path)]) == 0
    (record,) = tmp_path.rglob("record.json")
    assert '"status": "finished"' in record.read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_full_standard_output_is_one_line() -> None:
    found = shell(f"'{PROCESS[0]}' -m cgbench --help > /dev/full")
    assert found.returncode == 1
    assert found.stderr == "cgbench: cannot write to standard output: No space left on device\n"


def test_say_survives_a_closed_file(monkeypatch) -> None:
    closed = io.StringIO()
    closed.close()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", closed)
        say("nobody listens")
        assert main(["--help"]) == 0
