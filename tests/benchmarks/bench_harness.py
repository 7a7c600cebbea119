"""Measure the overhead of the harness: scoring, records, checkpoints and the energy gate.

``python tests/benchmarks/bench_harness.py`` makes default runs in a temporary folder and prints the share of their time
spent on scoring, records and checkpoints; the limit is 2 %. Two parts are printed separately: the picture at the end,
and the energy gate (counting and detection of non-finite numbers), which costs a few microseconds per call.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import click

LIMIT = 0.02
PAIRS = ("cgflow_al/aldp", "cgflow_grid/aldp", "umbrella/muller_brown", "metadynamics/muller_brown")


class Stopwatch:
    """Accumulates the time spent in functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Add the time of every call of ``owner.name`` to a part."""
        original: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                self.seconds[part] += time.perf_counter() - begun

        setattr(owner, name, timed)


def measure(method: str, system: str, preset: str, seed: int) -> tuple[float, float, dict[str, float]]:
    """Make a run; return its wall seconds, those of the harness, and the latter by part."""
    from cgbench.running.run import prepare

    with tempfile.TemporaryDirectory() as out:
        job = prepare(system, method, preset=preset, seed=seed, out=out, threads=1)
        watch = Stopwatch()
        watch.watch(job.referee, "score", "scoring")
        watch.watch(job.referee, "score_density", "scoring")
        watch.watch(job.folder, "save_checkpoint", "checkpoints")
        watch.watch(job.folder, "write_record", "records and tables")
        watch.watch(job.folder, "write_table", "records and tables")
        watch.watch(job, "_draw", "picture")
        watch.watch(job.system, "reduced_energy_and_gradient", "energy")
        watch.watch(job.problem, "reduced_energy_and_gradient", "gate")
        begun = time.perf_counter()
        record = job.execute()
        total = time.perf_counter() - begun
    assert record.status == "finished", record.reason
    parts = dict(watch.seconds)
    energy = parts.pop("energy", 0.0)
    parts["gate"] = parts.get("gate", 0.0) - energy
    outside = total - record.wall_seconds  # the clock of the method stops while the harness works
    parts["rest"] = outside - sum(seconds for name, seconds in parts.items() if name != "gate")
    return total, outside - parts["picture"], parts


@click.command(help=__doc__)
@click.option("--pair", "pairs", multiple=True, default=PAIRS, show_default=True, metavar="METHOD/SYSTEM")
@click.option("--preset", default="default", show_default=True)
@click.option("--seed", default=0, show_default=True)
def command(pairs: tuple[str, ...], preset: str, seed: int) -> int:
    """Print one line per pair; exit code 1 if one is above the limit."""
    above = False
    for pair in pairs:
        method, _, system = pair.partition("/")
        total, harness, parts = measure(method, system, preset, seed)
        share = harness / total
        above |= share > LIMIT
        apart = ", ".join(f"{name} {parts.pop(name):.3f} s" for name in ("picture", "gate"))
        words = ", ".join(f"{name} {seconds:.3f}" for name, seconds in sorted(parts.items(), key=lambda p: -p[1]))
        print(f"{method} on {system}, {preset}: {total:.1f} s, harness {share:.2%} ({words} s); {apart}", flush=True)
    print(f"{'above' if above else 'within'} {LIMIT:.0%}")
    return int(above)


if __name__ == "__main__":
    raise SystemExit(command(standalone_mode=False))
