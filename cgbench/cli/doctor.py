"""``cgbench doctor``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cgbench.contracts.system import System

__all__ = ["command"]

NEEDED = 1.0  # GiB; a run takes a few MB, and its checkpoints some hundred


@click.command("doctor")
@click.option("--out", default="runs", show_default=True, metavar="FOLDER", help="Folder of runs to check.")
def command(out: str) -> int:
    """Check the installation and a folder of runs.

    Checks versions, threads, devices, disk, SLURM, locks of runs, and the energies and references of all systems. The
    exit code is 1 if something is wrong.
    """
    from cgbench import native
    from cgbench.campaigns.slurm.executor import check_slurm
    from cgbench.contracts.system import traits_of
    from cgbench.running import provenance
    from cgbench.running.registry import plugins

    facts = provenance.collect("cpu", provenance.physical_cores())
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    print(f"cgbench {facts['cgbench']}, Python {facts['python']}, {versions}")
    print(f"{facts['platform']}, {facts['cpu']}, {facts['cores']} cores")
    import torch

    torch.set_num_threads(provenance.default_threads())  # as for a run
    devices = ["cpu"] + [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    print(f"torch devices: {', '.join(devices)}")
    print(f"C++ compiler: {_compiler(native.compiler(), native.switched_off())}")
    failures = sum(_report("versions", not wrong, wrong or "all as required") for wrong in [_versions()])
    failures += _report("threads", *_threads(facts["cores"]))
    failures += _report("disk", *_disk(Path(out)))
    failures += _report("SLURM", *check_slurm())
    _report("locks", *_locks(Path(out)))
    systems, methods = plugins("system"), plugins("method")
    for plugin in (*systems, *methods):
        if plugin.broken is not None:
            failures += _report(plugin.name, False, plugin.broken)
    built: dict[str, Any] = {}
    for plugin in systems:
        if plugin.broken is None:
            failures += _check_system(plugin.name, plugin.cls, built)
    for plugin in methods:
        if plugin.broken is None:
            able = [name for name, system in built.items() if plugin.cls.requires <= traits_of(system)]
            failures += _report(plugin.name, bool(able), f"can run on {', '.join(able) or 'no system'}")
    return 1 if failures else 0


def _compiler(found: tuple[str, str] | None, switched_off: bool) -> str:
    if found is None:
        return "none; energies and flows are computed by torch, which is slower"
    path, version = found
    use = "not used because CGBENCH_NATIVE=0" if switched_off else "compiles the kernels of energies and flows"
    return f"{path} ({version}), {use}"


def _versions() -> str:
    """Return the requirements of cgbench that the installed packages do not meet, or an empty string."""
    from importlib import metadata

    from packaging.requirements import Requirement

    wrong = []
    for text in metadata.requires("cgbench") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found = "not installed"
        if not requirement.specifier.contains(found.partition("+")[0] if found[0].isdigit() else "0", prereleases=True):
            wrong.append(f"{requirement.name} {found}, needs {requirement.specifier}")
    return "; ".join(wrong)


def _threads(cores: int) -> tuple[bool, str]:
    import torch

    from cgbench.campaigns.local import THREAD_VARIABLES

    fixed = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    detail = f"torch uses {torch.get_num_threads()} on {cores} cores{', ' * bool(fixed)}{', '.join(fixed)}"
    return torch.get_num_threads() <= cores, detail


def _disk(out: Path) -> tuple[bool, str]:
    """Check the free space in the folder of runs, or in the nearest parent that exists."""
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free / 2**30
    if not os.access(place, os.W_OK):
        return False, f"{place} is not writable; choose another folder with --out"
    return free > NEEDED, f"{free:.1f} GiB free in {place}, {NEEDED:.0f} GiB needed"


def _locks(out: Path) -> tuple[bool, str]:
    """List the runs that hold a lock now, and those whose process died while holding one."""
    from cgbench.storage.lock import FolderLock

    locks = [FolderLock(path) for path in sorted(out.rglob("checkpoint/lock"))]
    held = [lock for lock in locks if lock.holder() is not None]
    stale = [(lock.path.parent.parent, dead) for lock in locks if (dead := lock.stale()) is not None]
    detail = f"{len(held)} running, {len(stale)} left by dead processes in {out}"
    detail += "; run their commands again to resume" * bool(stale)
    return True, "".join([detail, *(f"\n       {folder}: {dead}, has ended" for folder, dead in stale)])


def _check_system(name: str, cls: type[System], built: dict[str, Any]) -> int:
    from cgbench.running.plugins import construct_system
    from cgbench.scoring.referee import Referee

    try:
        system = construct_system(cls, name)
        built[name] = system
        failures = sum(_report(f"{name}: {c.name}", c.passed, c.detail) for c in system.self_check())
    except Exception as error:  # a plugin may fail in any way
        return _report(name, False, f"{type(error).__name__}: {error}".splitlines()[0])
    referee = Referee(system)
    floor = "" if referee.reference is None else f"noise floor {referee.reference.noise_floor:.1e}"
    return failures + _report(f"{name}: reference", referee.problem is None, referee.problem or floor)


def _report(what: str, passed: bool, detail: str) -> int:
    print(f"{'ok    ' if passed else 'FAILED'} {what}: {detail}")
    return 0 if passed else 1
