"""Prepare and start a run of a method on a system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cgbench.contracts.method import FIRST_VERSION, Method
from cgbench.contracts.problem import Problem
from cgbench.contracts.system import System
from cgbench.counting.ledger import Ledger
from cgbench.counting.streams import Streams
from cgbench.errors import UserError
from cgbench.running import provenance
from cgbench.running.forks import check_fork, note_threads
from cgbench.running.loop import Run
from cgbench.running.plan import make_plan
from cgbench.running.plugins import check_start, construct
from cgbench.running.record import Record
from cgbench.running.registry import load
from cgbench.running.run_folder import RunFolder

__all__ = ["Run", "finished_record", "prepare", "run", "trained_method"]

MOST_THREADS = 1024


def run(system: str, method: str, **options: Any) -> Record:
    """Run a method on a system, or resume a run that was interrupted.

    Parameters
    ----------
    system, method
        Registered names, or ``path/to/file.py:Class``.
    preset, seed, budget
        Name of the preset, random seed, and largest number of energy evaluations (None: no limit).
    overrides
        Changes to the preset, each ``key=value``.
    out
        Folder that run folders are created in.
    engine, device, threads
        Engine of the system, torch device, and CPU threads (default: all cores).
    restart
        Start over, even if there is a checkpoint or a finished run.
    renew
        Start over if the checkpoint or finished run was made by other code of the method or the system, with other
        settings of the preset, or by another version.
    on_estimate
        Called with the `Run` after each estimate.

    Returns
    -------
    cgbench.running.record.Record

    Raises
    ------
    UserError
        If anything in the request is invalid.
    """
    job = prepare(system, method, **options)
    try:
        existing = finished_record(job)
        if existing is not None:
            return existing
        job.resume()
        return job.execute()
    finally:
        job.folder.release()


def prepare(
    system: str,
    method: str,
    *,
    preset: str = "default",
    seed: int = 0,
    budget: int | None = None,
    overrides: Sequence[str] = (),
    out: str | Path = "runs",
    engine: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    restart: bool = False,
    renew: bool = False,
    on_estimate: Callable[[Run], None] = lambda run: None,
) -> Run:
    """Build a run and lock its folder, without starting it. Parameters are those of `run`."""
    threads = use_hardware(device, threads)
    device = "cpu" if torch.device(device).type == "cpu" else device  # cpu:0 is the CPU too
    plan = make_plan(
        system,
        method,
        preset=preset,
        seed=seed,
        budget=budget,
        overrides=overrides,
        engine=engine,
        device=device,
    )
    check_start(plan.system)
    job = Run(plan, threads, RunFolder(plan.folder(out)), on_estimate)
    job.messages += job.folder.create()  # last: a method that rejects its system leaves no folder
    if restart or (renew and _outdated(job)):
        job.folder.start_over()
    return job


def _outdated(job: Run) -> bool:
    existing = job.folder.read_record()
    return existing is not None and job.plan.outdated(existing)


def finished_record(job: Run) -> Record | None:
    """Return the record of a complete run; None if there is work to do.

    Raises
    ------
    UserError
        If the folder contains a run with another identity.
    """
    existing = job.folder.read_record()
    return existing if existing is not None and job.plan.settled(existing, job.folder.path) else None


def trained_method(path: Path, system: System) -> Method:
    """Return the method of a run folder in the state of its newest intact checkpoint, on `system`.

    Its further evaluations are counted in a ledger of its own.

    Raises
    ------
    UserError
        If the folder has no record or checkpoint, or is of another system or version.
    """
    folder = RunFolder(path)
    record = folder.read_record()
    if record is None:
        raise UserError(f"{path} holds no run: give a run folder, such as runs/aldp/cgflow_al/default/seed-0 (--from)")
    if (record.system, record.system_version) != (system.name, system.version):
        raise UserError(
            f"{path} holds a run on {record.system}, version {record.system_version}, not on {system.name}, version "
            f"{system.version} (--from)"
        )
    kind = load("method", record.method)
    state = next((found for found, _ in folder.load_checkpoints() if found is not None), None)
    if state is None:
        raise UserError(
            f"{path} has no checkpoint; a run that finishes removes it. Repeat the run with a --budget just below its "
            f"{record.evaluations.total:,} evaluations: it then keeps the last one"
        )
    version = str(state.get("method_version", FIRST_VERSION))
    if version != kind.version:
        raise UserError(f"{path} is of version {version} of {record.method}, which now has version {kind.version}")
    try:
        config = kind.Config.model_validate(record.config)
    except ValueError as error:
        raise UserError(f"{path}: the record's configuration does not fit {record.method}: {error}") from error
    problem = Problem(system, Ledger())
    make = lambda: kind(problem, config, Streams(record.seed))  # noqa: E731
    method: Method = construct(make, "method", kind.name, kind, type(system))
    try:
        method.load_state_dict(state["method"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the checkpoint in {path} does not fit this version of {record.method} ({reason})") from error
    return method


def use_hardware(device: str, threads: int | None) -> int:
    """Set the number of PyTorch's CPU threads and return it. The default is ``OMP_NUM_THREADS``, or all cores.

    Raises
    ------
    UserError
        If the number is less than 1, PyTorch cannot use the device on this machine, or threads would hang because this
        process was forked from one that has used them.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise UserError(f"--threads must be from 1 to {MOST_THREADS}, not {threads}")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    threads = threads or provenance.default_threads()
    if threads > 1:
        check_fork()
        note_threads()
    torch.set_num_threads(threads)
    return threads
