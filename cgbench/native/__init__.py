"""Kernels in C++, compiled on first use with the machine's compiler and then cached.

A kernel is a source file next to the module that uses it; its functions are called through `ctypes`. Every
kernel has a torch counterpart that gives the same numbers to rounding. The counterpart is used without a compiler and
on other devices, and it is the reference in the tests. With ``CGBENCH_NATIVE=0`` in the environment no kernel is used.

`vectors.hpp` has the vector functions for kernels, and `tensors` passes torch tensors to them. Imports no other room.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import platformdirs

__all__ = ["cache_folders", "compiler", "in_parallel", "library", "make_cache_folder", "switched_off"]

COMPILERS = ("c++", "g++", "clang++")
# No option may let the compiler assume that infinities and NaNs do not occur: they must propagate.
FLAGS = ("-O3", "-march=native", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
LINK = ("-shared", "-fPIC")
HEADERS = Path(__file__).parent

log = logging.getLogger(__name__)


def switched_off() -> bool:
    """Whether the environment disables kernels."""
    return os.environ.get("CGBENCH_NATIVE") == "0"


@functools.cache
def compiler() -> tuple[str, str] | None:
    """Return the path of the C++ compiler and the first line of its version; None without a compiler."""
    for name in (os.environ.get("CXX"), *COMPILERS):
        path = shutil.which(name) if name else None
        if path is None:
            continue
        try:
            answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        return path, answer.stdout.partition("\n")[0].strip()
    return None


def _cpu() -> str:
    """Return text that identifies the CPU's instruction set: different machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    first = (
        next((line for line in lines if line.startswith(name)), "") for name in ("flags", "Features", "model name")
    )
    return platform.machine() + "".join(first)


def library(source: Path) -> ctypes.CDLL | None:
    """Load a kernel and compile it on first use. Return None if it cannot be compiled or kernels are disabled.

    Parameters
    ----------
    source
        The C++ file. It may include the standard library and the headers in this folder.
    """
    return None if switched_off() else _library(source)


@functools.cache
def _library(source: Path) -> ctypes.CDLL | None:
    found = compiler()
    if found is None:
        log.warning("no C++ compiler: %s uses torch, which is slower", source.stem)
        return None
    path, version = found
    texts = [file.read_bytes() for file in (source, *sorted(HEADERS.glob("*.hpp")))]
    parts = [*texts, *(part.encode() for part in (path, version, *FLAGS, *LINK, _cpu()))]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    reasons = []
    for folder in cache_folders():
        try:
            return _from_cache(path, source, folder / f"{source.stem}-{digest}.so")
        except OSError as error:  # for example a full or read-only home folder
            reasons.append(str(error))
        except subprocess.CalledProcessError as error:
            message = next((line for line in error.stderr.splitlines() if "error" in line), "no message")
            reasons.append(f"{path} cannot compile it ({message})")
    reason = "; ".join(dict.fromkeys(reasons)) or "there is neither a home nor a temporary folder for compiled kernels"
    log.warning("%s uses torch, which is slower: %s", source.stem, reason)
    return None


@functools.cache
def cache_folders() -> tuple[Path, ...]:
    """Return the folders for compiled kernels, in the order in which they are tried.

    The user's cache is the first. The temporary folder serves processes without a home folder, or with one that cannot
    be written.
    """
    folders = []
    try:
        folders.append(platformdirs.user_cache_path("cgbench") / "native")
    except (RuntimeError, KeyError, OSError):  # no HOME, and the user has no entry in the password database
        pass
    try:
        temporary = Path(tempfile.gettempdir()).absolute()
        if temporary != Path.cwd():  # Python's last resort
            folders.append(temporary / f"cgbench-{os.getuid()}" / "native")
    except OSError:  # none can be written
        pass
    return tuple(folder for folder in folders if folder.is_absolute())  # "~/.cache" is not: nothing replaces "~"


def _from_cache(compiler: str, source: Path, target: Path) -> ctypes.CDLL:
    """Load a kernel from a folder of the cache; compile it if it is not there or damaged.

    Raises
    ------
    OSError
        If the folder cannot be used.
    subprocess.CalledProcessError
        If the kernel cannot be compiled.
    """
    make_cache_folder(target.parent)
    if target.exists():
        try:
            return ctypes.CDLL(str(target))
        except OSError:  # damaged
            pass
    _compile(compiler, source, target)
    return ctypes.CDLL(str(target))


def make_cache_folder(folder: Path) -> None:
    """Create a folder of the cache, or one beside it; in the temporary folder its parent is for this user alone.

    Raises
    ------
    OSError
        If the folder cannot be used.
    """
    if folder.parent.name == f"cgbench-{os.getuid()}":
        _make_private(folder.parent)
    folder.mkdir(parents=True, exist_ok=True)


def _make_private(folder: Path) -> None:
    """Create a folder that only this user may use. Raise PermissionError if another user owns it or may write to it."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not a folder of this user alone")


def _compile(path: str, source: Path, target: Path) -> None:
    """Compile in a temporary folder, then move: another process may compile the same kernel at the same time."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".compile-") as folder:
        compiled = Path(folder) / target.name
        command = [path, *FLAGS, *LINK, f"-I{HEADERS}", "-o", str(compiled), str(source)]
        environment = os.environ | {"TMPDIR": folder}  # the compiler's own files: the usual place may be full
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        os.replace(compiled, target)


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="native")


def in_parallel(work: Callable[[int, int], object], count: int, threads: int) -> None:
    """Call ``work(start, end)`` on parts of ``range(count)``, one part per thread.

    Calls through `ctypes` release Python's global lock. The parts must be independent.
    """
    threads = max(1, min(threads, count))
    if threads == 1:
        work(0, count)
        return
    edges = [count * part // threads for part in range(threads + 1)]
    pool = _pool(threads - 1, os.getpid())
    others = [pool.submit(work, start, end) for start, end in zip(edges[1:-1], edges[2:], strict=True)]
    try:
        work(edges[0], edges[1])
    finally:  # the caller may free its arrays only when no thread writes to them any more
        wait(others)
    for other in others:
        other.result()
