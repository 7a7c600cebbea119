"""``cgbench sweep``."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

from cgbench.storage.standard_streams import say

__all__ = ["command"]

SLURM_OPTIONS = ("partition", "time", "gpus", "memory", "account", "slurm")


@click.command("sweep")
@click.argument("file")
@click.option("--workers", type=int, metavar="N", help="Runs at a time.  [default: 1; with SLURM, no limit]")
@click.option(
    "--threads", type=int, metavar="N", help="CPU threads per run.  [default: cores / workers; with SLURM, 1]"
)
@click.option("--out", default="runs", show_default=True, metavar="FOLDER", help="Parent folder of all runs.")
@click.option("--retry-failed", is_flag=True, help="Also run failed runs again.")
@click.option("--renew", is_flag=True, help="Start over what other code or settings have made.")
@click.option("--status", is_flag=True, help="Show the state of each run; start nothing.")
@click.option(
    "--executor", type=click.Choice(["local", "slurm"]), default="local", show_default=True, help="Where to run."
)
@click.option("--partition", metavar="NAME", help="SLURM: partition.")
@click.option(
    "--time",
    metavar="TIME",
    help="SLURM: time limit per job, in minutes, HH:MM:SS or D-HH:MM:SS; a run that needs more resumes in a new job.",
)
@click.option("--gpus", type=int, metavar="N", help="SLURM: GPUs per run.")
@click.option("--memory", metavar="SIZE", help="SLURM: memory per run, such as 8G.")
@click.option("--account", metavar="NAME", help="SLURM: account.")
@click.option("--slurm", multiple=True, metavar="KEY=VALUE", help="SLURM: any other option of sbatch. Repeatable.")
def command(file: str, out: str, status: bool, retry_failed: bool, renew: bool, **options: Any) -> int:
    """Run everything in FILE, a sweep file in YAML.

    Finished runs are skipped and interrupted runs are resumed. The exit code is 1 if a run has not finished.
    """
    from cgbench.campaigns.sweep import read_sweep, task
    from cgbench.errors import UserError

    for name in ("workers", "threads"):
        if options[name] is not None and options[name] < 1:
            raise UserError(f"--{name} must be at least 1, not {options[name]}")
    for name in SLURM_OPTIONS:
        if options["executor"] == "local" and options[name] not in (None, ()):
            raise UserError(f"--{name} is only for SLURM: add --executor slurm, or omit it")
    jobs, place = read_sweep(Path(file)), Path(out)
    if place.exists() and not place.is_dir():
        raise UserError(f"cannot write to {out}: it is a file, not a folder; choose another folder with --out")
    if status:
        found = _states(jobs, place)
        print(_table(jobs, found), end="")
        print(f"\n{_counts(found)}")
        return 0
    executor, threads = _executor(place, options)
    wanted = {"waiting", "interrupted"} | ({"failed"} if retry_failed else set())
    on_slurm = options["executor"] == "slurm"  # runs that are already in its queue are waited for
    pairs = zip(jobs, _states(jobs, place, must_know=on_slurm), strict=True)
    chosen = [
        job
        for job, state in pairs
        if state.state in wanted or (on_slurm and state.slurm_job) or (renew and state.outdated)
    ]
    if len(chosen) < len(jobs):
        print(f"{len(chosen)} of {len(jobs)} runs remaining", flush=True)
    tasks = {task(job, place, threads, renew): job for job in chosen}
    report = _Report(tasks, place, getattr(executor, "notes", {}))
    try:
        executor.execute(list(tasks), report.start, report.end)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; choose another folder with --out") from error
    except KeyboardInterrupt:
        unfinished = getattr(executor, "unfinished", [])
        if not unfinished:
            raise
        words = f"run the same command again to wait for them, or scancel {' '.join(unfinished)} to stop them"
        print(f"cgbench: stopped waiting; the jobs continue in SLURM: {words}", file=sys.stderr)
        return 130
    found = _states(jobs, place)
    for job, state in zip(jobs, found, strict=True):
        if state.state != "finished":
            note = state.note or report.reasons.get(job.name, "")
            print(f"cgbench: {job.name}: {state.state}{': ' * bool(note)}{note}", file=sys.stderr)
    print(_counts(found))
    return int(any(state.state != "finished" for state in found))


def _executor(out: Path, options: dict[str, Any]) -> tuple[Any, int]:
    """Return the requested executor, and the threads per run."""
    from cgbench.running.provenance import default_threads

    workers, threads = options["workers"], options["threads"]
    if options["executor"] == "local":
        from cgbench.campaigns.local import LocalExecutor

        threads = threads or default_threads(workers or 1)
        return LocalExecutor(workers or 1, threads), threads
    from cgbench.campaigns.slurm.executor import SlurmExecutor
    from cgbench.campaigns.slurm.resources import Resources

    given = {name: options[name] for name in SLURM_OPTIONS if name != "slurm"}
    resources = Resources(**given, more=Resources.parse(options["slurm"]))
    return SlurmExecutor(out, workers, threads or 1, resources), threads or 1


def _states(jobs: Any, out: Path, must_know: bool = False) -> Any:
    """Return the state of each run; if SLURM does not answer, an error or a warning, depending on `must_know`."""
    from cgbench.campaigns.slurm.queue import Queue, QueueError
    from cgbench.campaigns.sweep import progress

    queue = {}
    try:
        queue = Queue(out).look()
    except QueueError as error:
        if must_know:
            raise
        print(f"cgbench: {error}", file=sys.stderr)
    return [progress(job, out, queue) for job in jobs]


class _Report:
    """Prints a line for each run that starts and for each that ends."""

    def __init__(self, tasks: dict[Any, Any], out: Path, notes: dict[str, str]) -> None:
        self.tasks, self.out, self.notes = tasks, out, notes
        self.ended = 0
        self.started: set[Any] = set()
        self.reasons: dict[str, str] = {}

    def start(self, task: Any) -> None:
        word = "resumed" if task in self.started else "started"  # resumed after SLURM has requeued it
        self.started.add(task)
        say(f"{'':<9} {word:<12} {task.name}")

    def end(self, task: Any, code: int) -> None:
        from cgbench.campaigns.sweep import progress

        self.ended += 1
        job = self.tasks[task]
        state = progress(job, self.out)
        if code and state.state != "finished":
            words = f"signal {-code}" if code < 0 else f"exit code {code}; {_last_line(task.log)}"
            self.reasons[job.name] = self.notes.get(task.name, words)
        note = state.note or self.reasons.get(job.name, "")
        words = f"{task.name}: {state.evaluations:,} evaluations" + (f"; {note}" if note else "")
        say(f"{self.ended:>4}/{len(self.tasks):<4} {state.state:<14} {words}")


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    return next((line.removeprefix("cgbench: ") for line in reversed(lines) if line.strip()), "no output")


def _counts(found: Any) -> str:
    counts = Counter(state.state for state in found)
    states = ("finished", "running", "queued", "interrupted", "failed", "other settings", "waiting")
    words = [f"{counts[name]} {name}" for name in states]
    words.append(f"{sum(state.outdated for state in found)} made by other code")
    return ", ".join(word for word in words if not word.startswith("0 "))


def _table(jobs: Any, found: Any) -> str:
    from cgbench.results.tables import markdown

    header = ["system", "method", "preset", "state", "seed", "evaluations"]
    rows = [
        [job.plan.system.name, job.plan.method_class.name, job.plan.preset, state.state, str(job.seed)]
        + ["  ".join(filter(None, [f"{state.evaluations:,}", state.note, "other code" * state.outdated]))]
        for job, state in zip(jobs, found, strict=True)
    ]
    return markdown(header, rows, 4)
