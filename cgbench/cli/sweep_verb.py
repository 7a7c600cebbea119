"""``cgbench sweep``."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

__all__ = ["command"]


@click.command("sweep", help="Make all runs that FILE names; those that are finished are kept, others go on.")
@click.argument("file")
@click.option("--workers", type=int, default=1, show_default=True, help="Runs at a time.")
@click.option("--threads", type=int, help="CPU threads of each run; all cores shared out by default.")
@click.option("--out", default="runs", show_default=True, help="Folder that run folders are made in.")
@click.option("--retry-failed", is_flag=True, help="Try failed runs again.")
@click.option("--status", is_flag=True, help="Show how far each run is, and start nothing.")
def command(file: str, workers: int, threads: int | None, out: str, retry_failed: bool, status: bool) -> int:
    """Make the runs; exit code 1 if any has not finished in the end."""
    from cgbench.errors import UserError
    from cgbench.launch import LocalExecutor
    from cgbench.provenance import physical_cores
    from cgbench.sweep import progress, read_sweep, task

    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, not {value}")
    jobs, place = read_sweep(Path(file)), Path(out)
    if place.exists() and not place.is_dir():
        raise UserError(f"cannot write to {out}: it is a file; choose another folder with --out")
    if status:
        found = [progress(job, place) for job in jobs]
        print(_table(jobs, found), end="")
        print(f"\n{_counts(found)}")
        return 0
    threads = threads or max(1, physical_cores() // workers)
    wanted = {"waiting", "interrupted"} | ({"failed"} if retry_failed else set())
    chosen = [job for job in jobs if progress(job, place).state in wanted]
    if len(chosen) < len(jobs):
        print(f"{len(chosen)} of {len(jobs)} runs to make")
    tasks = {task(job, place, threads): job for job in chosen}
    report = _Report(tasks, place)
    try:
        LocalExecutor(workers, threads).execute(list(tasks), report.start, report.end)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; choose another folder with --out") from error
    found = [progress(job, place) for job in jobs]
    for job, state in zip(jobs, found, strict=True):
        if state.state != "finished":
            note = state.note or report.reasons.get(job.name, "")
            print(f"cgbench: {job.name}: {state.state}{': ' * bool(note)}{note}", file=sys.stderr)
    print(_counts(found))
    return int(any(state.state != "finished" for state in found))


class _Report:
    """A line for each run that starts and each that ends."""

    def __init__(self, tasks: dict[Any, Any], out: Path) -> None:
        self.tasks, self.out = tasks, out
        self.ended = 0
        self.reasons: dict[str, str] = {}

    def start(self, task: Any) -> None:
        print(f"{'':<9} started      {task.name}", flush=True)

    def end(self, task: Any, code: int) -> None:
        from cgbench.sweep import progress

        self.ended += 1
        job = self.tasks[task]
        state = progress(job, self.out)
        if code:
            self.reasons[job.name] = f"signal {-code}" if code < 0 else f"exit code {code}; {_last_line(task.log)}"
        note = state.note or self.reasons.get(job.name, "")
        words = f"{task.name}: {state.evaluations:,} evaluations" + (f"; {note}" if note else "")
        print(f"{self.ended:>4}/{len(self.tasks):<4} {state.state:<12} {words}", flush=True)


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.removeprefix("cgbench: ") for line in reversed(lines) if line.strip()), "no output")


def _counts(found: Any) -> str:
    counts = Counter(state.state for state in found)
    words = [f"{counts[name]} {name}" for name in ("finished", "running", "interrupted", "failed", "waiting")]
    return ", ".join(word for word in words if not word.startswith("0 "))


def _table(jobs: Any, found: Any) -> str:
    from cgbench.tables import markdown

    header = ["system", "method", "preset", "state", "seed", "evaluations"]
    rows = [
        [job.plan.system.name, job.plan.method_class.name, job.plan.preset, state.state, str(job.seed)]
        + [f"{state.evaluations:,}" + (f"  {state.note}" if state.note else "")]
        for job, state in zip(jobs, found, strict=True)
    ]
    return markdown(header, rows, 4)
