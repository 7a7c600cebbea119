"""Kernels are compiled once and cached; if that fails, there is one warning and no kernel."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cgbench import native

SOURCE = 'extern "C" int answer() { return 42; }\n'
CALL = "import sys, pathlib; from cgbench.native import library; print(library(pathlib.Path(sys.argv[1])).answer())"

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")


def forget() -> None:
    native.compiler.cache_clear()
    native._library.cache_clear()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A kernel, and an empty cache."""
    cache = tmp_path / "cache" / "native"
    monkeypatch.setattr(native, "cache_folders", lambda: (cache,))
    monkeypatch.delenv("CGBENCH_NATIVE", raising=False)
    path = tmp_path / "kernel.cpp"
    path.write_text(SOURCE)
    forget()
    yield path
    monkeypatch.undo()
    forget()


@needs_compiler
def test_a_kernel_is_compiled_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.library(source).answer() == 42
    (kept,) = native.cache_folders()[0].iterdir()
    monkeypatch.setattr(native, "_compile", lambda *arguments: pytest.fail("it was compiled again"))
    assert native.library(source).answer() == 42
    forget()
    assert native.library(source).answer() == 42
    assert list(native.cache_folders()[0].iterdir()) == [kept]


@needs_compiler
def test_a_changed_kernel_is_compiled_again(source: Path) -> None:
    native.library(source)
    source.write_text(SOURCE.replace("42", "43"))
    forget()
    assert native.library(source).answer() == 43
    assert len(list(native.cache_folders()[0].iterdir())) == 2


@needs_compiler
def test_a_damaged_kernel_is_compiled_again(source: Path, tmp_path: Path) -> None:
    homes = {name: str(tmp_path / "home") for name in ("HOME", "XDG_CACHE_HOME")}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", CALL, str(source)],
            env=os.environ | homes,
            capture_output=True,
            text=True,
            check=True,
        )
        assert (done.stdout, done.stderr) == ("42\n", "")
        (kept,) = (path for path in (tmp_path / "home").rglob("*") if path.is_file())
        kept.write_bytes(b"no library")


def test_without_a_compiler_there_is_one_warning(source: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(shutil, "which", lambda *arguments, **more: None)
    assert native.compiler() is None
    assert native.library(source) is None and native.library(source) is None
    assert [record.getMessage() for record in caplog.records] == ["no C++ compiler: kernel uses torch, which is slower"]


def test_a_compiler_that_does_not_run_is_none(source: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in native.COMPILERS:
        (folder / name).write_text("#!/bin/sh\nexit 3\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    assert native.compiler() is None


@needs_compiler
def test_a_broken_kernel_names_its_error(source: Path, caplog) -> None:
    source.write_text("int answer( {\n")
    assert native.library(source) is None and native.library(source) is None
    (record,) = caplog.records
    assert "kernel.cpp:1" in record.getMessage() and "error" in record.getMessage()
    assert list(native.cache_folders()[0].iterdir()) == []


@needs_compiler
def test_a_cache_that_cannot_be_written(source: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(native, "cache_folders", lambda: (tmp_path / "file" / "native",))
    assert native.library(source) is None
    (record,) = caplog.records
    assert "which is slower" in record.getMessage() and str(tmp_path / "file") in record.getMessage()


@needs_compiler
def test_a_file_that_is_no_library(source: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(native, "_compile", lambda compiler, source, target: target.write_bytes(b"no library"))
    assert native.library(source) is None and len(caplog.records) == 1


def test_kernels_can_be_switched_off(source: Path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("CGBENCH_NATIVE", "0")
    assert native.library(source) is None and not caplog.records and not native.cache_folders()[0].exists()


@needs_compiler
def test_two_processes_at_once(source: Path, tmp_path: Path) -> None:
    homes = {name: str(tmp_path / "home") for name in ("HOME", "XDG_CACHE_HOME")}
    command = [sys.executable, "-c", CALL, str(source)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | homes, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in both] == ["42\n"] * 2
    assert [path.suffix for path in (tmp_path / "home").rglob("*") if path.is_file()] == [".so"]


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_parts_cover_everything_once(threads: int) -> None:
    for count in (0, 1, 2, 7, 64):
        parts: list[tuple[int, int]] = []
        native.in_parallel(lambda first, last, parts=parts: parts.append((first, last)), count, threads)
        assert sorted(n for first, last in parts for n in range(first, last)) == list(range(count))
        assert len(parts) == max(1, min(threads, count))


def test_parts_run_at_the_same_time_and_errors_propagate() -> None:
    barrier = threading.Barrier(3, timeout=30)
    native.in_parallel(lambda first, last: barrier.wait(), 3, 3)

    def fail(first: int, last: int) -> None:
        if first:
            raise ctypes.ArgumentError("a part has failed")

    with pytest.raises(ctypes.ArgumentError, match="a part has failed"):
        native.in_parallel(fail, 2, 2)
