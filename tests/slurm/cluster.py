#!/usr/bin/env python3
"""A SLURM cluster of this one machine, for tests: ``cluster.py start FOLDER``, ``cluster.py stop FOLDER``.

Everything lives in the folder (configuration, key, sockets, state, logs), so that several clusters, or one beside a
real one, do not meet. Commands find it through ``SLURM_CONF=FOLDER/slurm.conf``. Needs root, and the commands of
SLURM and munge.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
PATIENCE = 60.0  # seconds for a daemon to come up
CPUS = 4  # as far as SLURM knows, whatever there are
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=1
MpiDefault=none
JobRequeue=1
KillWait=5
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=spare Nodes=ALL MaxTime=60 State=UP
"""


def path() -> str:
    """Where daemons are: also in folders that an ordinary user's PATH lacks."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def unavailable() -> str | None:
    """Say why there can be no cluster here; None if there can."""
    missing = [name for name in COMMANDS if shutil.which(name, path=path()) is None]
    if missing:
        return f"SLURM is not installed ({', '.join(missing)} missing)"
    return None if os.geteuid() == 0 else "a SLURM cluster can only be started as root"


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def environment(folder: Path) -> dict[str, str]:
    """What commands need in order to speak to this cluster."""
    return os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path()}


def start(folder: Path) -> None:
    """Start the daemons, and wait until the node takes jobs."""
    if reason := unavailable():
        raise SystemExit(reason)
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    controller, node = free_ports(2)
    text = CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0], controller=controller, node=node, folder=folder, cpus=CPUS
    )
    (folder / "slurm.conf").write_text(text)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    files = {"key-file": "munge.key", "log-file": "munge.log", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    options = [f"--{option}={folder / file}" for option, file in files.items()]
    _daemon(folder, "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *options)
    _wait(lambda: (folder / "munge.socket").exists(), folder)
    _daemon(folder, "slurmctld", "-D")
    _daemon(folder, "slurmd", "-D")
    _wait(lambda: "idle" in _output(folder, "sinfo", "--noheader", "--format=%T"), folder)


def _daemon(folder: Path, name: str, *arguments: str) -> None:
    with open(folder / f"{name}.out", "ab") as log:
        process = subprocess.Popen(
            [name, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(folder),
            start_new_session=True,
        )
    (folder / f"{name}.process").write_text(str(process.pid))


def _output(folder: Path, *command: str) -> str:
    try:
        return subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=20).stdout
    except subprocess.TimeoutExpired:  # no answer
        return ""


def _wait(true: object, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if true():  # type: ignore[operator]
            return
        time.sleep(0.1)
    stop(folder)
    logs = "".join(f"\n--- {file.name}\n{file.read_text(errors='replace')}" for file in sorted(folder.glob("*.out")))
    raise SystemExit(f"the cluster in {folder} does not come up{logs}")


def stop(folder: Path) -> None:
    """End all jobs and the daemons, by their process ids."""
    if (folder / "slurmd.process").exists():
        _output(folder, "scancel", "--user=root")
        for _ in range(100):
            if not _output(folder, "squeue", "--noheader").strip():
                break
            time.sleep(0.1)
    for name in ("slurmd", "slurmctld", "munged"):
        file = folder / f"{name}.process"
        if file.exists():
            _end(int(file.read_text()), name)
            file.unlink()


def _end(pid: int, name: str) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(100):
            if not _alive(pid, name):
                return
            if number is not None:
                os.kill(pid, number)
                number = None
            time.sleep(0.1)


def _alive(pid: int, name: str) -> bool:
    """Whether the process runs and is that daemon still (a dead one that nobody waited for is not running)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return f"({name}" in stat and stat.rpartition(")")[2].split()[0] != "Z"


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("start", "stop"):
        raise SystemExit(__doc__)
    {"start": start, "stop": stop}[sys.argv[1]](Path(sys.argv[2]).resolve())
