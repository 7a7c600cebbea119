"""Many runs from one file: the product of systems, methods, presets, seeds and overrides, and how far each is."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cgbench.campaigns.local import Task
from cgbench.campaigns.slurm.queue import QueuedRun
from cgbench.errors import UserError
from cgbench.running.configuration import explain
from cgbench.running.plan import Plan, make_plan
from cgbench.running.run_folder import RunFolder
from cgbench.storage.yaml_text import read_yaml

__all__ = ["Job", "Progress", "Runs", "SweepFile", "output_log", "progress", "read_sweep", "task"]


def _several(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _seeds(value: Any) -> Any:
    """Seeds one by one or as ranges: 3, "0-4", [0, 2, "5-7"]."""
    seeds = []
    for part in _several(value):
        span = re.fullmatch(r"(\d+)\s*-\s*(\d+)", part) if isinstance(part, str) else None
        seeds += list(range(int(span[1]), int(span[2]) + 1)) if span else [part]
    return seeds


Names = Annotated[list[str], BeforeValidator(_several), Field(min_length=1)]
Seeds = Annotated[list[Annotated[int, Field(ge=0, strict=True)]], BeforeValidator(_seeds), Field(min_length=1)]


class Runs(BaseModel):
    """A product of runs; single values may stand for lists, and ``"0-4"`` for a range of seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    systems: Names
    methods: Names
    presets: Names = ["default"]
    seeds: Seeds = [0]
    overrides: Annotated[list[dict[str, Any]], BeforeValidator(_several), Field(min_length=1)] = [{}]
    budget: int | None = None
    engine: str | None = None
    device: str = "cpu"


class Excluded(BaseModel):
    """Runs to leave out: those that agree with every list that is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    systems: Names | None = None
    methods: Names | None = None
    presets: Names | None = None
    seeds: Seeds | None = None

    def covers(self, system: str, method: str, preset: str, seed: int) -> bool:
        """Whether a run is left out."""
        pairs = ((self.systems, system), (self.methods, method), (self.presets, preset), (self.seeds, seed))
        return all(wanted is None or value in wanted for wanted, value in pairs)


class SweepFile(BaseModel):
    """The file: products of runs, what they share, and what is left out of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: dict[str, Any] = {}
    include: list[dict[str, Any]] = Field(min_length=1)
    exclude: list[Excluded] = []


@dataclass(frozen=True)
class Job:
    """One run of a sweep, as the command line would be asked for it."""

    system: str
    method: str
    preset: str
    seed: int
    overrides: tuple[str, ...]
    budget: int | None
    engine: str | None
    device: str
    plan: Plan

    @property
    def name(self) -> str:
        """The run in words."""
        return f"{self.plan.method_class.name} on {self.plan.system.name}, {self.plan.preset}, seed {self.seed}"

    def arguments(self) -> list[str]:
        """Arguments of ``cgbench run``, output and threads left out."""
        words = ["--system", self.system, "--method", self.method, "--preset", self.preset, "--seed", str(self.seed)]
        for override in self.overrides:
            words += ["--set", override]
        for option, value in (("--budget", self.budget), ("--engine", self.engine), ("--device", self.device)):
            if value is not None:
                words += [option, str(value)]
        return words


def read_sweep(path: Path) -> list[Job]:
    """Read a sweep's file and check every run in it; in the file's order, each run once.

    Raises
    ------
    UserError
        For a file that cannot be read, a key or value that cannot be, a run that cannot be, two different runs
        that would share a folder, or an exclusion that leaves nothing out.
    """
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"sweep {path} cannot be read: {reason}") from error
    sweep: SweepFile = _validated(SweepFile, content, str(path))
    jobs: dict[Path, Job] = {}
    for number, entry in enumerate(sweep.include, 1):
        where = f"{path}, include {number}"
        for job in _product(_validated(Runs, {**sweep.defaults, **entry}, where), sweep.exclude, where):
            place = job.plan.folder("")
            if jobs.setdefault(place, job).arguments() != job.arguments():
                raise UserError(f"{where}: {job.name} is in the file twice, with different settings")
    for number, excluded in enumerate(sweep.exclude, 1):
        if not any(_matches(excluded, sweep.defaults | entry) for entry in sweep.include):
            raise UserError(f"{path}, exclude {number}: no run is like that")
    return list(jobs.values())


def _validated(model: type[Any], content: Any, where: str) -> Any:
    if not isinstance(content, dict):
        raise UserError(f"{where}: must be a mapping of keys to values, not {type(content).__name__}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, model)}") from error


def _combinations(runs: Runs) -> Iterator[tuple[str, str, str, int]]:
    """Systems outermost, then methods, presets and seeds."""
    yield from product(runs.systems, runs.methods, runs.presets, runs.seeds)


def _matches(excluded: Excluded, entry: Mapping[str, Any]) -> bool:
    return any(excluded.covers(*combination) for combination in _combinations(Runs.model_validate(entry)))


def _product(runs: Runs, exclude: Sequence[Excluded], where: str) -> Iterator[Job]:
    for overrides in runs.overrides:
        words = tuple(f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items())
        for system, method, preset, seed in _combinations(runs):
            if any(excluded.covers(system, method, preset, seed) for excluded in exclude):
                continue
            try:  # the device may be another machine's
                plan = make_plan(
                    system,
                    method,
                    preset=preset,
                    seed=seed,
                    overrides=words,
                    budget=runs.budget,
                    engine=runs.engine,
                )
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
            yield Job(system, method, preset, seed, words, runs.budget, runs.engine, runs.device, plan)


def task(job: Job, out: Path, threads: int) -> Task:
    """Return the command that makes a run, or goes on with it."""
    options = ("--out", str(out), "--threads", str(threads))
    command = (sys.executable, "-m", "cgbench", "run", *job.arguments(), *options)
    return Task(job.name, command, out / output_log(job))


def output_log(job: Job) -> Path:
    """Return the file that a run's output is appended to, below the folder that run folders are made in."""
    return job.plan.folder("") / "checkpoint" / "output.log"


@dataclass(frozen=True)
class Progress:
    """How far a run is: its state, evaluations so far, what there is to say, and the SLURM job that has it."""

    state: Literal["finished", "failed", "running", "queued", "interrupted", "waiting"]
    evaluations: int = 0
    note: str = ""
    slurm_job: str = ""


def progress(job: Job, out: Path, queue: Mapping[str, QueuedRun] | None = None) -> Progress:
    """Look at what a run has left, and whether SLURM has it; a folder that holds something else has failed."""
    found = _left(job, out)
    queued = (queue or {}).get(output_log(job).as_posix())
    if queued is None or queued.ended or found.state == "finished":
        return found
    if queued.pending and found.state != "running":
        return Progress("queued", found.evaluations, f"SLURM job {queued.id}, {queued.reason}", queued.id)
    return Progress("running", found.evaluations, f"SLURM job {queued.id}", queued.id)


def _left(job: Job, out: Path) -> Progress:
    folder = RunFolder(job.plan.folder(out))
    try:
        record = folder.read_record()
        if record is None:
            return Progress("running" if folder.held() else "waiting")
        total = record.evaluations.total
        if job.plan.settled(record, folder.path):
            return Progress("finished", total, record.reason or "")
    except UserError as error:
        return Progress("failed", 0, str(error))
    if folder.held():
        return Progress("running", total)
    if record.status == "failed":
        return Progress("failed", total, record.reason or "")
    return Progress("interrupted", total)
