"""Ablation of the harmonic recipe: the default preset with one setting changed at a time.

Writes a CSV table for each system, with a row per setting: medians over seeds. The effective sample size is that of
the late samples, as a share of their number; `reliable` is the number of seeds that call their result reliable. An
interrupted study resumes, and finished runs are not repeated.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from cgbench.errors import UserError
from cgbench.storage.files import csv_bytes, write_atomically

__all__ = ["SETTINGS", "SETTINGS_OF_WELLS", "command", "settings_of"]

SETTINGS: dict[str, tuple[str, ...]] = {
    "default": (),
    "no mean force": ("recipe.labels.mean_force=false",),
    "no path gradients": ("recipe.training.path_gradients=false",),
    "path gradients of the reverse KL": ("recipe.training.divergence=reverse_kl",),
    "a single harmonic minimum": ("recipe.atlas.max_points=1",),
    "harmonic start only, no training": (
        "recipe.training.learning_rate=1e-12",
        "recipe.training.gaussian_learning_rate=1e-12",
        "recipe.training.quadratic_learning_rate=1e-12",
    ),
    "s uniform on the domain": ("recipe.labels.uniform_share=1.0", "recipe.labels.ceiling=1000.0"),
    "training samples not used for the PMF": (  # half of the evaluations train, the other half give the PMF
        "recipe.training.labels=false",
        "recipe.training.rounds=8",
        "recipe.labels.batch=3200",
        "recipe.labels.max_rounds=8",
        "recipe.labels.target_kld=1e-9",
    ),
    "fixed smoothness, not by evidence": (
        "recipe.surrogate.length_scales=[0.35]",
        "recipe.surrogate.amplitudes=[2.0]",
    ),
    "periodic coordinates start uniform": ("recipe.flow.peaks=false",),
    "large weights where they lie, not spread": ("recipe.labels.truncation=1e6",),
    "no quadratic response": ("recipe.flow.quadratic=false",),
    "no spline couplings, Gaussian only": ("recipe.flow.num_couplings=0",),
}
SETTINGS_OF_WELLS: dict[str, tuple[str, ...]] = {  # for systems with free torsions
    "one well of the free torsions": ("recipe.wells.largest_number=1",),
    "samples spread evenly over the wells": ("recipe.wells.even_share=1.0",),
    "no wide tails of free torsions": ("recipe.wells.wide_share=0",),
}
TARGETS = (1e-2, 1e-3)
COLUMNS = (
    "setting",
    "seeds",
    *(f"evaluations_to_{target:.0e}" for target in TARGETS),
    "evaluations",
    "forward_kld",
    "forward_kld_min",
    "forward_kld_max",
    "coverage_95",
    "effective_sample_size",
    "reliable",
    "cpu_seconds",
)


def _measure(method: str, system: str, overrides: tuple[str, ...], seed: int, out: str) -> dict[str, float | None]:
    """Run one configuration with one seed, or read its finished run; return the numbers of the table."""
    from cgbench.results.runs import find_runs
    from cgbench.running.run import finished_record, prepare

    job = prepare(system, method, preset="default", seed=seed, overrides=overrides, out=out, threads=1)
    if finished_record(job) is None:
        job.resume()
        record = job.execute()
        if record.status == "failed":
            raise UserError(f"the run in {job.folder.path} failed: {record.reason}")
    (run,) = find_runs([job.folder.path])
    return {
        "evaluations": float(run.record.evaluations.total),
        **{f"evaluations_to_{target:.0e}": run.evaluations_to(target) for target in TARGETS},
        "forward_kld": run.final_kld,
        "coverage_95": run.record.metrics.get("coverage_95"),
        "effective_sample_size": run.record.diagnostics.get("late", {}).get("effective_sample_size"),
        "reliable": float(run.record.diagnostics.get("reliable") is True),
        "cpu_seconds": run.cpu_seconds,
    }


def _measurements(
    tasks: Sequence[tuple[str, str, tuple[str, ...], int, str]], workers: int
) -> Iterator[dict[str, float | None]]:
    """Yield what `_measure` returns for each task, in their order; with several workers, some run at a time."""
    if workers == 1:
        yield from itertools.starmap(_measure, tasks)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        yield from pool.map(_measure, *zip(*tasks, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)


def _row(setting: str, runs: list[dict[str, float | None]]) -> dict[str, Any]:
    """Return the table's row of a setting: medians over seeds, range of the forward KLD, reliable seeds."""
    row: dict[str, Any] = {"setting": setting, "seeds": len(runs)}
    for column in COLUMNS[2:]:
        values = [value for run in runs if (value := run.get(column)) is not None]
        if values:
            row[column] = f"{statistics.median(values):.6g}"
    klds = [kld for run in runs if (kld := run["forward_kld"]) is not None]
    row |= {"forward_kld_min": f"{min(klds):.6g}", "forward_kld_max": f"{max(klds):.6g}"}
    return row | {"reliable": sum(run["reliable"] == 1.0 for run in runs)}


def settings_of(system: str) -> dict[str, tuple[str, ...]]:
    """Return the settings to compare on a system: those of wells only if it has free torsions."""
    from cgbench.contracts.coordinates import free_torsions
    from cgbench.running.plan import make_plan

    coordinates = make_plan(system, "cgflow_al").system.coordinates
    return SETTINGS | SETTINGS_OF_WELLS if free_torsions(coordinates).numel() else SETTINGS


@click.command(help=__doc__)
@click.option("--method", default="cgflow_al", show_default=True)
@click.option("--system", "systems", multiple=True, default=("aldp",), show_default=True, help="May be repeated.")
@click.option(
    "--seeds", type=click.IntRange(1), default=3, show_default=True, help="Number of seeds: 0, 1, ... for each setting."
)
@click.option(
    "--setting", "chosen", multiple=True, type=click.Choice([*SETTINGS, *SETTINGS_OF_WELLS]), help="Run only these."
)
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time, of a thread each."
)
@click.option("--out", default="ablation", show_default=True, help="Folder of the runs.")
@click.option("--tables", type=click.Path(file_okay=False), help="Their folder; default: OUT.")
def command(
    method: str,
    systems: tuple[str, ...],
    seeds: int,
    chosen: tuple[str, ...],
    workers: int,
    out: str,
    tables: str | None,
) -> None:
    """Run all settings and write the tables of medians over seeds."""
    for system in dict.fromkeys(systems):
        rows: list[dict[str, Any]] = []
        settings = settings_of(system)
        if missing := sorted(set(chosen) - settings.keys()):
            raise UserError(f"{system} has no free torsions, which setting {missing[0]!r} is about")
        wanted = [setting for setting in settings if setting in chosen or not chosen]
        tasks = [(method, system, settings[setting], seed, out) for setting in wanted for seed in range(seeds)]
        measurements = _measurements(tasks, workers)
        for setting in wanted:
            rows.append(_row(setting, list(itertools.islice(measurements, seeds))))
            click.echo(f"{system}: " + ", ".join(f"{key} {value}" for key, value in rows[-1].items()))
            target = Path(tables or out) / system / "ablation" / "ablation.csv"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, csv_bytes(COLUMNS, rows))


if __name__ == "__main__":
    from cgbench.cli.main import guarded

    sys.exit(guarded(command, "ablation"))
