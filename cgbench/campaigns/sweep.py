"""Sweeps: the runs that a file defines as products of systems, methods, presets, seeds and overrides."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cgbench.campaigns.local import Task
from cgbench.campaigns.slurm.queue import QueuedRun
from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench.running.configuration import explain, validated
from cgbench.running.plan import Plan, make_plan
from cgbench.running.run_folder import RunFolder
from cgbench.storage.yaml_text import position, read_yaml

__all__ = ["Job", "Progress", "Runs", "SweepFile", "output_log", "progress", "read_sweep", "task"]

MOST_SEEDS = 10_000  # of a range


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _seeds(value: Any) -> Any:
    """Expand seeds given singly or as ranges: 3, "0-4", [0, 2, "5-7"]."""
    seeds = []
    for part in _as_list(value):
        span = re.fullmatch(r"(\d{1,30})\s*-\s*(\d{1,30})", part) if isinstance(part, str) else None
        if span is None:
            seeds.append(part)
            continue
        first, last = int(span[1]), int(span[2])
        if not first <= last < first + MOST_SEEDS:
            raise ValueError(f"range {part!r} must rise and have at most {MOST_SEEDS:,} seeds")
        seeds += range(first, last + 1)
    return seeds


Names = Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]
Seeds = Annotated[list[Annotated[int, Field(ge=0, strict=True)]], BeforeValidator(_seeds), Field(min_length=1)]


class Runs(BaseModel):
    """A product of runs. A single value may replace a list, and ``"0-4"`` is a range of seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    systems: Names
    methods: Names
    presets: Names = ["default"]
    seeds: Seeds = [0]
    overrides: Annotated[list[dict[str, Any]], BeforeValidator(_as_list), Field(min_length=1)] = [{}]
    budget: int | None = None
    engine: str | None = None
    device: str = "cpu"


class Excluded(BaseModel):
    """Runs to exclude: those that match every list that is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    systems: Names | None = None
    methods: Names | None = None
    presets: Names | None = None
    seeds: Seeds | None = None

    @model_validator(mode="after")
    def _not_everything(self) -> Excluded:
        if not self.model_dump(exclude_none=True):
            raise ValueError("an exclusion must name systems, methods, presets or seeds")
        return self

    def covers(self, system: str, method: str, preset: str, seed: int) -> bool:
        """Whether a run is excluded."""
        pairs = ((self.systems, system), (self.methods, method), (self.presets, preset), (self.seeds, seed))
        return all(wanted is None or value in wanted for wanted, value in pairs)


class SweepFile(BaseModel):
    """The content of a sweep file: shared defaults, products of runs, and exclusions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: dict[str, Any] = {}
    include: list[dict[str, Any]] = Field(min_length=1)
    exclude: list[Excluded] = []


@dataclass(frozen=True)
class Job:
    """One run of a sweep, in terms of the options of ``cgbench run``."""

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
        """The run in words, for messages."""
        return f"{self.plan.method_class.name} on {self.plan.system.name}, {self.plan.preset}, seed {self.seed}"

    def arguments(self) -> list[str]:
        """Return the arguments of ``cgbench run``, without output and threads."""
        words = ["--system", self.system, "--method", self.method, "--preset", self.preset, "--seed", str(self.seed)]
        for override in self.overrides:
            words += ["--set", override]
        for option, value in (("--budget", self.budget), ("--engine", self.engine), ("--device", self.device)):
            if value is not None:
                words += [option, str(value)]
        return words


def read_sweep(path: Path) -> list[Job]:
    """Read a sweep file and check every run in it. Return each run once, in the order of the file.

    Raises
    ------
    UserError
        If the file cannot be read, a key, value or run is invalid, two different runs would share a folder, an
        exclusion matches no run, or no run is left.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = read_yaml(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"sweep {path} cannot be read: {reason}") from error
    sweep: SweepFile = _validated(SweepFile, content, str(path), text)
    jobs: dict[Path, Job] = {}
    systems: dict[tuple[str, str | None], System] = {}
    for number, entry in enumerate(sweep.include, 1):
        where = f"{path}, include {number}"
        runs = _validated(Runs, {**sweep.defaults, **entry}, where, text, ("include", number - 1))
        for job in _product(runs, sweep.exclude, where, systems):
            place = job.plan.folder("")
            if jobs.setdefault(place, job).arguments() != job.arguments():
                raise UserError(f"{where}: {job.name} is in the file twice, with different settings")
    for number, excluded in enumerate(sweep.exclude, 1):
        if not any(_matches(excluded, sweep.defaults | entry) for entry in sweep.include):
            raise UserError(f"{path}, exclude {number}: no run matches it")
    if not jobs:
        raise UserError(f"{path}: all runs are excluded")
    return list(jobs.values())


def _validated(model: type[Any], content: Any, where: str, text: str, place: tuple[str | int, ...] = ()) -> Any:
    """Check content of the file; `place` is its location in the text."""
    if not isinstance(content, dict):
        raise UserError(f"{where}: must be a mapping of keys to values, not {type(content).__name__}")
    try:
        return validated(model, content)
    except ValidationError as error:
        at = position(text, (*place, *error.errors()[0]["loc"]))
        raise UserError(f"{where} ({at}): {explain(error, model)}") from error


def _combinations(runs: Runs) -> Iterator[tuple[str, str, str, int]]:
    """Yield combinations; the system varies slowest, then method, preset and seed."""
    yield from product(runs.systems, runs.methods, runs.presets, runs.seeds)


def _matches(excluded: Excluded, entry: Mapping[str, Any]) -> bool:
    return any(excluded.covers(*combination) for combination in _combinations(Runs.model_validate(entry)))


def _product(
    runs: Runs, exclude: Sequence[Excluded], where: str, systems: dict[tuple[str, str | None], System]
) -> Iterator[Job]:
    """Yield the runs of one entry; `systems` keeps what has been built, by name and engine, as that takes time."""
    for overrides in runs.overrides:
        words = tuple(f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items())
        plans: dict[tuple[str, str, str], Plan] = {}  # which do not depend on the seed, and take time
        for system, method, preset, seed in _combinations(runs):
            if any(excluded.covers(system, method, preset, seed) for excluded in exclude):
                continue
            try:
                if (system, method, preset) not in plans:  # without the device, which this machine may not have
                    plans[system, method, preset] = make_plan(
                        system,
                        method,
                        preset=preset,
                        seed=seed,
                        overrides=words,
                        budget=runs.budget,
                        engine=runs.engine,
                        built=systems.get((system, runs.engine)),
                    )
                    systems[system, runs.engine] = plans[system, method, preset].system
                plan = plans[system, method, preset].with_seed(seed)
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
            yield Job(system, method, preset, seed, words, runs.budget, runs.engine, runs.device, plan)


def task(job: Job, out: Path, threads: int, renew: bool = False) -> Task:
    """Return the command that starts or resumes a run; with `renew`, what other code has made starts over."""
    options = ("--out", str(out), "--threads", str(threads), *(["--renew"] if renew else []))
    # -P: a folder in the working directory must not shadow an installed package
    command = (sys.executable, "-P", "-m", "cgbench", "run", *job.arguments(), *options)
    return Task(job.name, command, out / output_log(job))


def output_log(job: Job) -> Path:
    """Return the file that a run's output is appended to, relative to the folder of all runs."""
    return job.plan.folder("") / "checkpoint" / "output.log"


@dataclass(frozen=True)
class Progress:
    """The state of a run: evaluations so far, a note for the user, its SLURM job, if any, and if other code made it."""

    state: Literal["finished", "failed", "other settings", "running", "queued", "interrupted", "waiting"]
    evaluations: int = 0
    note: str = ""
    slurm_job: str = ""
    outdated: bool = False


def progress(job: Job, out: Path, queue: Mapping[str, QueuedRun] | None = None) -> Progress:
    """Return the state of a run from its files and from SLURM's queue."""
    found = _from_files(job, out)
    queued = (queue or {}).get(output_log(job).as_posix())
    if queued is None or queued.ended or found.state == "finished":
        return found
    if queued.pending and found.state != "running":
        return Progress("queued", found.evaluations, f"SLURM job {queued.id}, {queued.reason}", queued.id)
    return Progress("running", found.evaluations, f"SLURM job {queued.id}", queued.id)


def _from_files(job: Job, out: Path) -> Progress:
    folder = RunFolder(job.plan.folder(out))
    try:
        record = folder.read_record()
    except UserError as error:
        return Progress("failed", 0, str(error))
    if record is None:
        return Progress("running" if folder.held() else "waiting")
    total, outdated = record.evaluations.total, job.plan.outdated(record)
    try:
        if job.plan.settled(record, folder.path):
            return Progress("finished", total, record.reason or "", outdated=outdated)
    except UserError as error:  # or another version of the system
        return Progress("other settings", total, str(error), outdated=outdated)
    if folder.held():
        return Progress("running", total)
    if record.status == "failed":
        return Progress("failed", total, record.reason or "")
    return Progress("interrupted", total, outdated=outdated)
