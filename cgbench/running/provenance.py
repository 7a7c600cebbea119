"""Where a number comes from: versions, hardware, threads, git state."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import cgbench
from cgbench import native

__all__ = ["collect", "physical_cores"]

PACKAGES = ("torch", "numpy", "scipy", "openmm", "nflows", "mdtraj", "pymbar", "pydantic")


def physical_cores() -> int:
    """Cores that this process may run on."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on every platform
        return max(1, os.cpu_count() or 1)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout that holds this package, if it is one."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        call = ["git", "-C", str(folder)]
        options: Any = {"capture_output": True, "text": True, "timeout": 10, "check": True}
        commit = subprocess.run([*call, "rev-parse", "HEAD"], **options).stdout.strip()
        sources = ["--", "cgbench", "systems", "methods"]
        changes = subprocess.run([*call, "status", "--porcelain", *sources], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _native() -> str | None:
    """Version of the compiler that makes the kernels; None where they are done in torch."""
    compiler = None if native.switched_off() else native.compiler()
    return compiler and compiler[1]


def collect(device: str, threads: int) -> dict[str, Any]:
    """Facts about software and machine; nothing that names a person or a host."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    accelerator = None
    if device != "cpu":
        import torch

        accelerator = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {
        "cgbench": cgbench.__version__,
        "python": platform.python_version(),
        "packages": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": physical_cores(),
        "threads": threads,
        "accelerator": accelerator,
        "native": _native(),
        "git": _git(),
    }
