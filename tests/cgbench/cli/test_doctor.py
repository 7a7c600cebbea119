"""``cgbench doctor`` finds faults of an installation and of a folder of runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
import torch

from cgbench import native
from cgbench.cli.main import main
from cgbench.running import provenance
from cgbench.storage.lock import FolderLock

LINES = ("versions", "threads", "disk", "SLURM", "locks", "aldp: energy against OpenMM", "muller_brown: reference")


@pytest.fixture
def no_cluster(monkeypatch) -> None:
    """Hide the SLURM of this machine, if there is one."""
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *rest, **more: None if name == "sinfo" else which(name))


def doctor(capsys, out: Path) -> tuple[int, str]:
    code = main(["doctor", "--out", str(out)])
    return code, capsys.readouterr().out


def test_a_sound_installation_passes(tmp_path: Path, capsys, no_cluster) -> None:
    code, said = doctor(capsys, tmp_path / "runs to come")
    assert code == 0 and "FAILED" not in said
    for line in LINES:
        assert f"ok     {line}: " in said
    assert "torch devices" in said and "0 running, 0 left by dead processes" in said and "SLURM: none here" in said


def test_locks_are_listed(tmp_path: Path, capsys, no_cluster) -> None:
    paths = [tmp_path / name / "checkpoint" / "lock" for name in ("mine", "dead")]
    for path in paths:
        path.parent.mkdir(parents=True)
    mine = FolderLock(paths[0])
    mine.acquire()
    script = "import sys, os; from pathlib import Path; from cgbench.storage.lock import FolderLock; "
    script += "lock = FolderLock(Path(sys.argv[1])); lock.acquire(); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", script, str(paths[1])], check=False)
    assert killed.returncode == -9
    code, said = doctor(capsys, tmp_path)
    assert code == 0 and "1 running, 1 left by dead processes" in said
    assert f"{tmp_path / 'dead'}: process" in said and f"{tmp_path / 'mine'}: process" not in said


def test_faults_are_found(tmp_path: Path, capsys, monkeypatch, no_cluster) -> None:
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0.0" if name == "torch" else version(name))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40 - 2**20, 2**20))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    code, said = doctor(capsys, tmp_path)
    assert code == 1
    assert "FAILED versions: torch 1.0.0, needs >=2.11" in said
    assert "FAILED disk: 0.0 GiB free" in said
    assert "FAILED threads: torch uses 4096 on" in said


def test_a_slurm_that_does_not_answer_is_found(tmp_path: Path, capsys, monkeypatch) -> None:
    sinfo = tmp_path / "sinfo"
    sinfo.write_text("#!/bin/sh\necho 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1\n")
    sinfo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    code, said = doctor(capsys, tmp_path)
    assert code == 1 and "FAILED SLURM: sinfo does not answer: slurm_load_partitions: Unable to contact" in said


def test_the_compiler_is_named(tmp_path: Path, capsys, monkeypatch, no_cluster) -> None:
    """The doctor and the records of runs agree about kernels."""
    monkeypatch.setattr(native, "compiler", lambda: ("/opt/bin/c++", "abacus 1.0"))
    for setting, said, recorded in (
        ("1", "compiles the kernels of energies and flows", "abacus 1.0"),
        ("0", "not used because CGBENCH_NATIVE=0", None),
    ):
        monkeypatch.setenv("CGBENCH_NATIVE", setting)
        assert f"C++ compiler: /opt/bin/c++ (abacus 1.0), {said}\n" in doctor(capsys, tmp_path)[1]
        assert provenance.collect("cpu", 1)["native"] == recorded
    monkeypatch.setenv("CGBENCH_NATIVE", "1")
    monkeypatch.setattr(native, "compiler", lambda: None)
    assert "C++ compiler: none; energies and flows are computed by torch" in doctor(capsys, tmp_path)[1]
    assert provenance.collect("cpu", 1)["native"] is None
