"""Side effects of a run: runs it in a new environment, and records what it changes outside its folder."""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgbench import native
from cgbench.drawing.backend import own_settings

__all__ = ["THREADS", "SideEffects", "watch_side_effects"]

THREADS = 1  # of every run under check; set by the harness before a run is watched
HOMES = ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "APPDATA")
TEMPORARY = ("TMPDIR", "TEMP", "TMP")
COMPILER_VARIABLES = ("TORCHINDUCTOR_", "TRITON_")  # torch.compile sets these to the folders of its compiled code
COMPILER_FOLDERS = ("torchinductor_", "torch_compile_debug", ".triton")
DEVICES = ("/dev", "/proc", "/sys")  # not files: terminals, shared memory, process names


@dataclass
class SideEffects:
    """What a run changed outside its folder.

    Attributes
    ----------
    state
        Global settings and random states that were changed.
    files
        Files outside the run's folder that were created, changed or removed.
    """

    state: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _State:
    """A piece of global state: how to read it, restore it and compare it."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    comparable: Callable[[Any], Any] = lambda value: value


def _numpy_state(state: Any) -> Any:
    return [value.tobytes() if isinstance(value, np.ndarray) else value for value in state]


def _environment(variables: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if not name.startswith(COMPILER_VARIABLES)}


def _set_environment(variables: dict[str, str]) -> None:
    for name in [name for name in os.environ if name not in variables]:
        del os.environ[name]
    os.environ.update(variables)


def _set_deterministic(mode: int) -> None:
    torch.set_deterministic_debug_mode(mode)


def _cudnn() -> tuple[bool, bool]:
    return torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark


def _set_cudnn(flags: tuple[bool, bool]) -> None:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags


STATE = (
    _State("torch's global random generator", torch.get_rng_state, torch.set_rng_state, lambda s: s.numpy().tobytes()),
    _State("numpy's global random generator", np.random.get_state, np.random.set_state, _numpy_state),
    _State("python's global random generator", random.getstate, random.setstate),
    _State("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _State("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    _State("torch's deterministic algorithms", torch.get_deterministic_debug_mode, _set_deterministic),
    _State("torch's cudnn flags", _cudnn, _set_cudnn),
    _State("torch's matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    _State("torch's gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
    _State("numpy's handling of floating-point errors", np.geterr, lambda modes: np.seterr(**modes)),
    _State("the environment", lambda: dict(os.environ), _set_environment, _environment),
    _State("the working directory", os.getcwd, os.chdir),
)


@contextmanager
def watch_side_effects(root: Path, number: int, own: Path) -> Iterator[SideEffects]:
    """Run the body in a new environment, and record what it changes outside its folder.

    Working, home and temporary folders are new and empty, and the global random generators are seeded with `number`: a
    dependence on any of these changes the result. Everything is restored at the end.

    Parameters
    ----------
    root
        Folder to make these folders in.
    number
        A number that is used only once below `root`.
    own
        The run's folder, where it may write.
    """
    found = SideEffects()
    work, home, temporary = (root / f"environment-{number}" / name for name in ("work", "home", "tmp"))
    for folder in (work, home, temporary):
        folder.mkdir(parents=True)
    _build_font_cache()
    native.cache_folders()  # found in the environment of the user
    outside = {state.name: state.read() for state in STATE}
    temporary_before, tempfile.tempdir = tempfile.tempdir, None
    writes: list[tuple[str, str]] = []
    try:
        os.environ.update({name: str(home) for name in HOMES} | {name: str(temporary) for name in TEMPORARY})
        os.chdir(work)
        torch.set_num_threads(THREADS)
        torch.manual_seed(number)
        np.random.seed(number)  # noqa: NPY002 - the global state is watched
        random.seed(number)
        before = {state.name: state.comparable(state.read()) for state in STATE}
        with _recorded(writes):
            yield found
        found.state = [state.name for state in STATE if state.comparable(state.read()) != before[state.name]]
        found.files = _stray(writes, (work, home, temporary), own)
    finally:
        tempfile.tempdir = temporary_before
        for state in STATE:
            state.write(outside[state.name])


def _build_font_cache() -> None:
    """Let matplotlib build its font cache before anything is watched: the first picture on a machine needs it."""
    with own_settings():
        import matplotlib.font_manager

        matplotlib.get_cachedir()


def _stray(writes: list[tuple[str, str]], folders: tuple[Path, ...], own: Path) -> list[str]:
    """Return what was left in the folders and what was written elsewhere, without the caches of libraries."""
    import matplotlib

    names = ("the working directory", "the home folder", "the folder for temporary files")
    kernels = native.cache_folders()
    found = []
    for folder, name in zip(folders, names, strict=True):
        left = sorted(path.relative_to(folder) for path in folder.rglob("*"))
        found += [f"{path} in {name}" for path in left if not path.parts[0].startswith(COMPILER_FOLDERS)]
    allowed = (*map(str, folders), *DEVICES, matplotlib.get_cachedir(), *map(str, kernels))
    for event, path in writes:
        inside = any(path == folder or path.startswith(f"{folder}{os.sep}") for folder in (*allowed, str(own)))
        parent = event == "os.mkdir" and any(folder.is_relative_to(path) for folder in (own, *kernels))
        bytecode = "__pycache__" in path or path.endswith(".pyc")  # of modules imported for the first time
        if not (inside or parent or bytecode) and path not in found:
            found.append(path)
    return found


# ---- recording of writes ----------------------------------------------------------------------------

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PATHS = {  # Python's audit events, and the positions of the changed paths among their arguments
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "sqlite3.connect": (0,),
}
_recorder: list[tuple[str, str]] | None = None
_installed = False


@contextmanager
def _recorded(writes: list[tuple[str, str]]) -> Iterator[None]:
    """Append event and path of every write to `writes`; an audit hook cannot be removed, so it is switched off."""
    global _recorder, _installed
    if not _installed:
        sys.addaudithook(_record_write)
        _installed = True
    _recorder = writes
    try:
        yield
    finally:
        _recorder = None


def _record_write(event: str, arguments: tuple[Any, ...]) -> None:
    recorder = _recorder
    if recorder is None:
        return
    places = PATHS.get(event, ())
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
        places = (0,)
    for place in places:
        path = arguments[place]
        if isinstance(path, (str, bytes, os.PathLike)) and path != ":memory:":
            recorder.append((event, os.path.abspath(os.fsdecode(path))))
