"""A SLURM cluster of this machine for the tests in this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "cluster.py"


@pytest.fixture(scope="session")
def cluster_environment() -> Iterator[dict[str, str]]:
    scope: dict[str, Any] = {"__name__": "cluster"}
    exec(compile(SCRIPT.read_text(), str(SCRIPT), "exec", dont_inherit=True), scope)
    if reason := scope["unavailable"]():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path must be short
    started = subprocess.run([sys.executable, str(SCRIPT), "start", str(folder)], capture_output=True, text=True)
    if started.returncode:
        shutil.rmtree(folder)
        if "Operation not permitted" in started.stderr:  # containers may forbid what the daemons need
            pytest.skip(f"no SLURM cluster may be started here: {started.stderr.strip()}")
        pytest.fail(f"the SLURM cluster does not start: {started.stderr.strip()}")
    try:
        yield scope["environment"](folder)
    finally:
        subprocess.run([sys.executable, str(SCRIPT), "stop", str(folder)], check=True)
        shutil.rmtree(folder)


@pytest.fixture
def cluster(cluster_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SLURM's commands speak to the test's own cluster; no job is left in it."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "SQUEUE_"))]:
        monkeypatch.delenv(name)
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster_environment[name])
    yield
    subprocess.run(["scancel", "--user=root"], check=True)
