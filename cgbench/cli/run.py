"""``cgbench run``."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from typing import Any

import click

from cgbench.cli.numbers import EVALUATIONS
from cgbench.storage.standard_streams import say

__all__ = ["command"]


@click.command("run")
@click.option("--system", required=True, metavar="NAME", help="Name, path/to/file.py:Class, or a molecule's YAML file.")
@click.option("--method", required=True, metavar="NAME", help="Registered method, or path/to/file.py:Class.")
@click.option("--preset", default="default", show_default=True, metavar="NAME", help="Preset of the method.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Random seed.")
@click.option("--budget", type=EVALUATIONS, metavar="N", help="Stop before exceeding N energy evaluations.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting. Repeatable.")
@click.option("--engine", metavar="NAME", help="Engine of the system.  [default: its first]")
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE", help="Torch device, such as cuda:0.")
@click.option("--threads", type=int, metavar="N", help="CPU threads.  [default: OMP_NUM_THREADS, or all cores]")
@click.option("--out", default="runs", show_default=True, metavar="FOLDER", help="Parent folder of all runs.")
@click.option("--restart", is_flag=True, help="Start from the beginning, even if there is a checkpoint or a result.")
@click.option("--renew", is_flag=True, help="Start over what other code or settings have made.")
def command(**options: Any) -> int:
    """Run a method on a system, or resume an interrupted run.

    Files are written to OUT/SYSTEM/METHOD/PRESET/seed-N. 'cgbench list' shows systems, methods and presets. The exit
    code is 1 if the run failed.
    """
    from cgbench.running.run import prepare
    from cgbench.running.signals import handlers, raise_interrupt

    with handlers(raise_interrupt, (signal.SIGTERM,)):  # nothing to save yet
        return _run(prepare(options.pop("system"), options.pop("method"), **options))


def _run(job: Any) -> int:
    from cgbench.running.run import finished_record
    from cgbench.running.signals import Interrupts

    existing = finished_record(job)
    if existing is not None:
        say("This run is complete; use --restart to run it again.")
        say(_summary(existing, job.folder.path))
        return 0
    job.resume()
    for message in job.messages:
        say(message)
    said = len(job.messages)
    with _Progress(job) as progress, Interrupts(progress.announce) as interrupts:
        job.stop = interrupts.requested
        record = job.execute()
    for message in job.messages[said:]:
        say(f"cgbench: {message}", error=True)
    say(_summary(record, job.folder.path))
    if record.status == "failed":
        say(f"cgbench: the run failed: {record.reason} (see {job.folder.path / 'run.log'})", error=True)
        return 1
    return 0


class _Progress:
    """Shows progress: a live line in a terminal, one line per estimate elsewhere. It never shows a score.

    Nothing that fails here, in the terminal or in what the method says about itself, affects the run.
    """

    def __init__(self, job: Any) -> None:
        self.job = job
        self.live: Any = None
        self.started = time.monotonic()
        self.before = job.ledger.total
        # progress at the start of this process, and when it was seen; a resumed method may not know it yet
        self.origin: tuple[float, float] | None = None
        with suppress(Exception):
            done = job.method.progress if job.curve else 0.0
            self.origin = None if done is None else (self.started, done)

    def __enter__(self) -> _Progress:
        try:
            self._start_live()
        except Exception:  # a terminal that rich cannot use
            self.live = None
        if self.live is None:
            self.job.on_estimate = self._print
        return self

    def _start_live(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console()
        if console.is_terminal:
            live = Live(get_renderable=self._line, console=console, refresh_per_second=2, transient=True)
            live.start()
            self.live = live

    def __exit__(self, *exception: Any) -> None:
        if self.live is not None:
            with suppress(Exception):
                self.live.stop()

    def _words(self) -> str:
        now = time.monotonic()
        elapsed = now - self.started
        total = self.job.ledger.total
        rate = (total - self.before) / max(elapsed, 1e-9)
        words = f"{elapsed:6.0f} s  {total:,} evaluations ({rate:,.0f}/s)  {self.job.method.status}"
        left = self._seconds_left(now)
        return words if left is None else f"{words}  about {left:.0f} s left"

    def _seconds_left(self, now: float) -> float | None:
        """Extrapolate the progress made in this process; None if it is unknown or too small."""
        done = self.job.method.progress
        if done is None:
            return None
        if self.origin is None or done < self.origin[1]:
            self.origin = (now, done)
        since, before = self.origin
        gained = done - before
        return (now - since) * (1.0 - done) / gained if 0.02 < gained and done <= 1.0 else None

    def _line(self) -> Any:
        try:
            return self._bar()
        except Exception:  # called from a thread of rich, where nothing else catches it
            return ""

    def _bar(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        line = Table.grid(padding=(0, 1))
        done = self.job.method.progress
        bar = ProgressBar(total=1.0, completed=done or 0.0, width=20, pulse=done is None)
        line.add_row(f"{self.job.method.name} on {self.job.system.name}", bar, self._words())
        return line

    def _print(self, job: Any) -> None:
        with suppress(Exception):
            say(self._words())

    def announce(self, line: str) -> None:
        """Print a line above the progress."""
        with suppress(Exception):
            if self.live is not None:
                self.live.console.print(line)
            else:
                say(f"cgbench: {line}", error=True)


def _summary(record: Any, folder: Any) -> str:
    """Summarise a run for its user."""
    from cgbench.results.numbers import at_most, rounded
    from cgbench.results.verdict import own_errors, verdict

    lines = [f"{record.method} on {record.system}, preset {record.preset}, seed {record.seed}: {record.status}"]
    if record.reason:
        lines.append(f"  note          {record.reason}")
    kld = record.metrics.get("forward_kld")
    if kld is not None:
        floor = (record.reference or {}).get("noise_floor", 0.0)
        known = f"(noise floor of the reference: {rounded(floor, 2)})" if floor else "(exact reference)"
        lines.append(f"  forward KLD   {at_most(floor) if kld < floor else rounded(kld)} {known}")
    else:
        lines += [f"  own errors    {own_errors(record) or 'none claimed'}", f"  trust         {verdict(record)}"]
    basins = [(k.partition("/")[2], v) for k, v in record.metrics.items() if k.startswith("delta_f_error/")]
    for name, error in basins:
        if error is not None:
            lines.append(f"  basin {name:<12} free energy error {error:+.3f} kT")
    total = record.evaluations.total
    phases = ", ".join(f"{name} {count:,}" for name, count in record.evaluations.by_phase.items())
    seconds = record.wall_seconds
    lines.append(f"  evaluations   {total:,} ({phases})")
    lines.append(f"  time          {seconds:.1f} s, {total / max(seconds, 1e-9):,.0f} evaluations/s")
    if (words := _state_space(record)) is not None:
        lines.append(f"  state space   {words}")
    for kind, anomaly in record.anomalies.items():
        if kind == "outside_state_space":  # in the line above
            continue
        lines.append(f"  anomalies     {kind}: {anomaly.count:,} of {anomaly.occasions:,}")
    for warning in record.warnings:
        lines.append(f"  warning       {warning}")
    lines.append(f"  files         {folder}")
    if record.status != "failed" and (folder / "pmf.png").exists():
        lines.append(f"  picture       {folder / 'pmf.png'}")
    return "\n".join(lines)


def _state_space(record: Any) -> str | None:
    """Say how many samples and proposals are outside the state space; None if none is, or if there is none."""
    found = record.state_space
    if found is None:
        return None
    if found.samples == found.proposed == 0:
        return "not reported by the method: samples outside would have been used"
    parts = [
        f"{count:,} of {total:,} {words}"
        for count, total, words in (
            (found.outside, found.samples, "samples outside, without weight"),
            (found.rejected, found.proposed, "proposals rejected"),
        )
        if count
    ]
    return ", ".join(parts) or None
