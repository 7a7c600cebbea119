"""Kernels are compiled once and cached; if that fails, there is one warning and no kernel."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import matplotlib
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


# ---- home and temporary folders -------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[Path, ...]]]:
    """A function that looks for the folders of the cache in the present environment; a home and a temporary folder."""
    temporary = tmp_path / "tmp"
    (tmp_path / "home").mkdir()
    temporary.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("CGBENCH_NATIVE", raising=False)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    forget()
    native.cache_folders.cache_clear()
    yield native.cache_folders.__wrapped__
    monkeypatch.undo()
    forget()
    native.cache_folders.cache_clear()


def no_user(uid: int) -> None:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


@needs_compiler
def test_an_unknown_user_without_home_uses_the_temporary_folder(folders, tmp_path, monkeypatch, caplog) -> None:
    assert [str(folder.relative_to(tmp_path)) for folder in folders()] == [
        "home/.cache/cgbench/native",
        f"tmp/cgbench-{os.getuid()}/native",
    ]
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", no_user)
    (only,) = folders()
    source = tmp_path / "kernel.cpp"
    source.write_text(SOURCE)
    assert native.library(source).answer() == 42 and not caplog.records
    assert only == tmp_path / "tmp" / f"cgbench-{os.getuid()}" / "native"
    assert only.parent.stat().st_mode & 0o777 == 0o700 and [path.suffix for path in only.iterdir()] == [".so"]


def test_a_home_folder_that_cannot_be_named_is_none(folders, monkeypatch) -> None:
    """What platformdirs and pathlib raise without an entry for the user."""
    for error in (RuntimeError("Could not determine home directory."), KeyError("uid"), PermissionError("passwd")):
        with monkeypatch.context() as patch:
            patch.setattr(native.platformdirs, "user_cache_path", Mock(side_effect=error))
            assert [folder.parent.name for folder in folders()] == [f"cgbench-{os.getuid()}"]


def unusable(place: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """Let no folder be created below a place, as in one that is read-only or full."""
    mkdir = os.mkdir

    def fails(path, *arguments, **options) -> None:
        if Path(path).is_relative_to(place):
            raise OSError(error, os.strerror(error), str(path))
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", fails)


@needs_compiler
@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_home_folder_that_cannot_be_written_is_replaced(folders, tmp_path, monkeypatch, caplog, error: int) -> None:
    unusable(tmp_path / "home", monkeypatch, error)
    source = tmp_path / "kernel.cpp"
    source.write_text(SOURCE)
    assert native.library(source).answer() == 42 and not caplog.records
    assert list((tmp_path / "tmp").glob("cgbench-*/native/*.so")) and not list((tmp_path / "home").iterdir())


@needs_compiler
def test_without_any_folder_there_is_one_warning(folders, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(native.platformdirs, "user_cache_path", Mock(side_effect=RuntimeError))
    monkeypatch.setattr(tempfile, "gettempdir", Mock(side_effect=FileNotFoundError))
    source = tmp_path / "kernel.cpp"
    source.write_text(SOURCE)
    assert native.library(source) is None and native.library(source) is None
    (record,) = caplog.records
    assert "kernel uses torch, which is slower: there is neither a home nor a temporary folder" in record.getMessage()
    assert native.cache_folders() == ()


def test_the_working_folder_is_no_temporary_folder(folders, tmp_path, monkeypatch) -> None:
    """Python falls back to it if no other can be written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert [folder.parts[-2:] for folder in folders()] == [("cgbench", "native")]


@needs_compiler
def test_a_full_temporary_folder_does_not_stop_the_compiler(folders, tmp_path, monkeypatch) -> None:
    """The compiler's own files go beside the kernel."""
    monkeypatch.setenv("TMPDIR", "/dev/full/nowhere")
    seen = []
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda *words, **options: seen.append(options.get("env")) or run(*words, **options)
    )
    source = tmp_path / "kernel.cpp"
    source.write_text(SOURCE)
    assert native.library(source).answer() == 42
    assert seen[-1]["TMPDIR"].startswith(str(tmp_path / "home" / ".cache" / "cgbench" / "native"))


@needs_compiler
@pytest.mark.parametrize("hostile", ["others may write", "link", "file", "of another user"])
def test_a_folder_that_others_may_write_is_not_used(folders, tmp_path, monkeypatch, caplog, hostile: str) -> None:
    """Libraries in it would be loaded into our process."""
    monkeypatch.setattr(native.platformdirs, "user_cache_path", Mock(side_effect=RuntimeError))
    trap = tmp_path / "tmp" / f"cgbench-{os.getuid()}"
    if hostile == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        trap.symlink_to(tmp_path / "elsewhere")
    elif hostile == "file":
        trap.write_text("")
    else:
        trap.mkdir(mode=0o700)
    if hostile == "others may write":
        trap.chmod(0o777)
    if hostile == "of another user":
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    source = tmp_path / "kernel.cpp"
    source.write_text(SOURCE)
    assert native.library(source) is None
    (record,) = caplog.records
    assert f"{trap} is not a folder of this user alone" in record.getMessage()


RUN = """
import os, pwd, sys
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
from cgbench.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_run_of_an_unknown_user_without_home(tmp_path: Path) -> None:
    """Nothing but PATH in the environment, as in a container that is started with any user id."""
    (tmp_path / "tmp").mkdir()
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "CGBENCH_NATIVE": "0"}
    words = ["run", "--method", "md", "--system", "muller_brown", "--preset", "smoke", "--threads", "1", "--out", "x"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words],
        env=variables | {"TMPDIR": str(tmp_path / "tmp"), "MPLCONFIGDIR": matplotlib.get_cachedir()},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "x/muller_brown/md/smoke/seed-0/pmf.npz").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tmp", "x"]  # no folder "~"
