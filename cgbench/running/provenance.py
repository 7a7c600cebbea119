"""Provenance of a result: versions, hardware, threads, git state and a fingerprint of the code."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cgbench import native
from cgbench.storage.source_code import fingerprint

__all__ = [
    "code_of",
    "collect",
    "cpu_quota",
    "default_threads",
    "differences",
    "fingerprint_of",
    "is_of_code",
    "measured_speed",
    "parse_quota",
    "physical_cores",
    "segment",
]

PACKAGES = ("torch", "numpy", "scipy", "openmm", "nflows", "mdtraj", "pymbar", "pydantic")
PACKAGE_FOLDER = Path(__file__).resolve().parents[1]  # the folder of the package cgbench
SOURCES = ("cgbench", "systems", "methods")  # folders of a checkout that results depend on
OWN_PACKAGES = ("cgbench", "cgbench_methods", "cgbench_systems")  # those folders, as import packages
SPEED_TRIALS = 25  # of which the fastest counts: what else the machine does slows the others
ALWAYS_USED = ("cgbench.counting.energy_gate",)  # modules that every run imports, but late
# modules that runs import late if their code uses an attribute of this name, of `Problem`
BEHIND = {"openmm_simulation": "cgbench.counting.openmm_simulation"}


def physical_cores() -> int:
    """Return the number of cores that this process may use: its affinity, or less by the quota of its container."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not available on every platform
        allowed = os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def default_threads(workers: int = 1) -> int:
    """Return the number of CPU threads of a run unless the user gives one: ``OMP_NUM_THREADS``, or all cores.

    Parameters
    ----------
    workers
        Number of runs at a time; they share the cores.
    """
    share = max(1, physical_cores() // workers)
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list has one number per nested level
    if not (wanted.isascii() and wanted.isdigit() and int(wanted)):
        return share
    return int(wanted) if workers == 1 else min(int(wanted), share)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the smallest CPU quota, in cores, of the control groups of this process; None without a quota.

    Parameters
    ----------
    root
        Folder that contains ``proc`` and ``sys``.
    """
    quotas = []
    names: tuple[str, ...]
    mounts: tuple[str, ...]
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            names, mounts = ("cpu.max",), ("", "unified")
        elif "cpu" in controllers.split(","):
            names, mounts = ("cpu.cfs_quota_us", "cpu.cfs_period_us"), (controllers, "cpu", "cpu,cpuacct")
        else:
            continue
        # a quota of a parent counts too; in a container, the path may be that of the host, and the root its own
        inside = PurePosixPath(path.lstrip("/"))
        for mount, folder in itertools.product(mounts, (inside, *inside.parents)):
            texts = [_read(root / "sys/fs/cgroup" / mount / folder / name) for name in names]
            quotas.append(parse_quota(" ".join(texts)))
    return min((quota for quota in quotas if quota is not None), default=None)


def parse_quota(text: str) -> float | None:
    """Return a CPU quota in cores, from ``cpu.max`` or from ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``.

    Parameters
    ----------
    text
        Quota and period; the quota "max" or -1 means no limit.
    """
    try:
        quota, period = map(int, text.split())
    except ValueError:  # no limit, or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _checkout(package: Path) -> Path | None:
    """Return the git checkout whose ``cgbench`` folder is this package.

    None if the package is not in a checkout, or in that of another project (for example, installed in a virtual
    environment inside it).
    """
    root = next((folder for folder in package.parents if (folder / ".git").exists()), None)
    return root if root is not None and (root / package.name).resolve() == package else None


def _git(package: Path = PACKAGE_FOLDER) -> dict[str, Any] | None:
    """Return the commit of this project's checkout, and whether its sources have uncommitted changes."""
    root = _checkout(package)
    if root is None:
        return None
    try:
        # without locks: a run that is killed during "status" must not leave one in the user's checkout
        call = ["git", "--no-optional-locks", "-C", str(root)]
        options: Any = {"capture_output": True, "text": True, "timeout": 10, "check": True}
        commit = subprocess.run([*call, "rev-parse", "HEAD"], **options).stdout.strip()
        changes = subprocess.run([*call, "status", "--porcelain", "--", *SOURCES], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


@cache
def code_of(*classes: type) -> str | None:
    """Return a fingerprint of the code of classes, such as a method and a system, and of what they import.

    It covers modules of this project and of the packages that the classes are from, as in
    `cgbench.storage.source_code.fingerprint`, and is the same wherever this code is installed. For a class in a file,
    the modules and packages beside the file belong to it, as far as they are imported. The counting of OpenMM's
    steps belongs to it where the code uses ``Problem.openmm_simulation``. None if a file cannot be read.
    """
    modules = [cls.__module__ for cls in classes]
    places = [_places(module) for module in modules]
    together = {top: place for one in places for top, place in one.items()}
    try:
        if all(one.items() <= together.items() for one in places):
            return fingerprint_of(modules, together)
        # files in different folders have modules of the same name beside them
        apart = [fingerprint_of([module], one) for module, one in zip(modules, places, strict=True)]
        return hashlib.sha256(" ".join(apart).encode()).hexdigest()[:16]
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def fingerprint_of(modules: Iterable[str], places: Mapping[str, Path]) -> str:
    """Return the fingerprint of the modules of a method and a system, in packages at these places; see `code_of`.

    Raises
    ------
    OSError, SyntaxError, UnicodeDecodeError
        If a file cannot be read.
    """
    return fingerprint([*modules, *ALWAYS_USED], places, BEHIND)


def is_of_code(found: Mapping[str, Any], code: str | None) -> bool:
    """Whether all segments of a record's provenance are known to be of this code, a fingerprint as from `code_of`."""
    parts = [found, *(segment for segment in found.get("segments", ()) if segment.get("code") is not None)]
    return all(part.get("code") == code for part in parts)


def _places(module: str) -> dict[str, Path]:
    """Return where the packages are that a module may import and that its fingerprint covers."""
    own = module.partition(".")[0]
    found = {top: place for top in sorted({own, *OWN_PACKAGES}) if (place := _place(top)) is not None}
    if own in found and found[own].is_file() and found[own].stem != own:  # a class in a file
        for path in sorted(found[own].parent.iterdir()):
            if path.suffix == ".py" or (path / "__init__.py").is_file():
                found.setdefault(path.stem, path)
    return found


def _place(top: str) -> Path | None:
    """Return the folder of a top-level package or the file of a top-level module; None for neither."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    place = folders[0] if folders else spec.origin
    return Path(place) if place is not None and Path(place).exists() else None


def _native() -> str | None:
    """Return the version of the compiler that builds the kernels; None if kernels are not used."""
    compiler = None if native.switched_off() else native.compiler()
    return compiler and compiler[1]


@cache
def measured_speed() -> float:
    """Return the speed of one thread of this machine: fixed pieces of work, of NumPy and of Python, per CPU second.

    It is measured once in a process, which takes half a second.
    """
    x = np.linspace(0.0, 1.0, 20_000)

    def seconds() -> float:
        start, total = time.thread_time(), 0.0
        for number in range(40):
            total += float(np.exp(-np.sqrt(x + number)).sum())
        for number in range(50_000):
            total += number * 0.5
        return time.thread_time() - start

    return round(1.0 / max(min(seconds() for _ in range(SPEED_TRIALS)), 1e-9), 2)


def collect(device: str, threads: int) -> dict[str, Any]:
    """Return facts about software and hardware, without names of persons or hosts."""
    versions = {package: version for package in PACKAGES if (version := _version(package)) is not None}
    accelerator = None
    if device != "cpu":
        import torch

        accelerator = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {
        "cgbench": _version("cgbench"),
        "python": platform.python_version(),
        "packages": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": physical_cores(),
        "speed": measured_speed(),
        "threads": threads,
        "accelerator": accelerator,
        "native": _native(),
        "git": _git(),
    }


def segment(facts: Mapping[str, Any], evaluations: int) -> dict[str, Any]:
    """Return code and threads in the facts of `collect`, which are those of a run from this number of evaluations."""
    git = facts.get("git") or {}
    return {
        "commit": git.get("commit"),
        "dirty": git.get("dirty"),
        "code": facts.get("code"),
        "cgbench": facts.get("cgbench"),
        "python": facts.get("python"),
        "packages": dict(facts.get("packages", {})),
        "threads": facts.get("threads"),
        "from_evaluations": evaluations,
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in words how code and threads of two segments differ, threads last; "" if they do not."""
    old, new = _versions(before), _versions(now)
    if not any(old.values()):
        return "the version that made the checkpoint is unknown"
    for name in ("code", "threads"):
        if before.get(name) is not None and now.get(name) is not None:  # older segments do not have them
            old, new = old | {name: str(before[name])}, new | {name: str(now[name])}
    changed = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name) or 'unknown'} -> {new.get(name) or 'unknown'}" for name in changed)


def _versions(found: Mapping[str, Any]) -> dict[str, str | None]:
    commit = found.get("commit")
    words = commit and f"{commit[:12]}{'-dirty' * bool(found.get('dirty'))}"
    return {"commit": words, "cgbench": found.get("cgbench"), "Python": found.get("python"), **found["packages"]}
