"""``cgbench doctor``."""

from __future__ import annotations

import shutil
from typing import Any

import click

__all__ = ["command"]


@click.command("doctor", help="Can this installation run what is registered?")
def command() -> int:
    """Check versions, devices, disk and energies; exit code 1 if something is wrong."""
    from cgbench import provenance
    from cgbench.registry import plugins

    facts = provenance.collect("cpu", provenance.physical_cores())
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    print(f"cgbench {facts['cgbench']}, Python {facts['python']}, {versions}")
    print(f"{facts['platform']}, {facts['cpu']}, {facts['cores']} cores")
    import torch

    devices = ["cpu"] + [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    print(f"torch devices: {', '.join(devices)}")
    compiler = next((name for name in ("g++", "c++", "clang++") if shutil.which(name)), None)
    print(f"C++ compiler for torch.compile: {compiler or 'none, energies stay eager'}")
    free = shutil.disk_usage(".").free / 2**30
    failures = 0
    failures += _report("disk", free > 1.0, f"{free:.1f} GiB free here")
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
            able = [name for name, system in built.items() if plugin.cls.requires <= system.traits]
            failures += _report(plugin.name, bool(able), f"can run on {', '.join(able) or 'no system'}")
    return 1 if failures else 0


def _check_system(name: str, cls: type, built: dict[str, Any]) -> int:
    from cgbench.referee import Referee

    try:
        system = cls()
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
