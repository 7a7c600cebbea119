"""What each part of the recipe is worth: the default preset with one setting changed at a time.

``python -m studies.ablation`` runs them all, resumes what was interrupted, and writes one table.
"""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from cgbench.results.runs import evaluations_to_target
from cgbench.storage.files import csv_bytes, write_atomically

__all__ = ["SETTINGS", "command"]

SETTINGS: dict[str, tuple[str, ...]] = {
    "default": (),
    "no mean-force labels": ("recipe.labels.mean_force=false",),
    "no path gradients": ("recipe.training.path_gradients=false",),
    "no warm start but at the minimum": ("recipe.atlas.max_points=1",),
    "warm start only, no training": (
        "recipe.training.learning_rate=1e-12",
        "recipe.training.gaussian_learning_rate=1e-12",
    ),
    "s uniform on the domain": ("recipe.labels.uniform_share=1.0", "recipe.labels.ceiling=1000.0"),
    "half for training, half for labels": (
        "recipe.training.labels=false",
        "recipe.training.rounds=8",
        "recipe.labels.batch=3200",
        "recipe.labels.max_rounds=8",
        "recipe.labels.target_kld=1e-9",
    ),
    "smoothness fixed, not by evidence": (
        "recipe.surrogate.length_scales=[0.35]",
        "recipe.surrogate.amplitudes=[2.0]",
    ),
    "no spline couplings, Gaussian only": ("recipe.flow.num_couplings=0",),
    "12 couplings of 256": ("recipe.flow.num_couplings=12", "recipe.flow.hidden_features=256"),
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
    "cpu_seconds",
)


def _measure(method: str, system: str, overrides: tuple[str, ...], seed: int, out: str) -> dict[str, float]:
    """Run (or read) one configuration with one seed."""
    from cgbench.running.run import finished_record, prepare

    job = prepare(system, method, preset="default", seed=seed, overrides=overrides, out=out, threads=1)
    record: Any = finished_record(job)
    if record is None:
        job.resume()
        record = job.execute()
    with (job.folder.path / "curve.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    evaluations, kld = (np.array([float(row[name]) for row in rows]) for name in ("evaluations", "forward_kld"))
    found = {"evaluations": float(record.evaluations.total), "coverage_95": record.metrics.get("coverage_95")}
    for target in TARGETS:
        found[f"evaluations_to_{target:.0e}"] = evaluations_to_target(evaluations, kld, target)
    found["forward_kld"] = float(record.metrics["forward_kld"])
    found["cpu_seconds"] = sum(phase["cpu"] for phase in record.seconds.values())
    return found


@click.command(help=__doc__)
@click.option("--method", default="cgflow_al", show_default=True)
@click.option("--system", default="aldp", show_default=True)
@click.option("--seeds", default=3, show_default=True, help="Seeds 0, 1, ... of each setting.")
@click.option("--setting", "chosen", multiple=True, type=click.Choice(list(SETTINGS)), help="Only these.")
@click.option("--out", default="ablation", show_default=True, help="Folder of the runs.")
@click.option("--table", type=click.Path(dir_okay=False), help="CSV table to write; by default ablation.csv in OUT.")
def command(method: str, system: str, seeds: int, chosen: tuple[str, ...], out: str, table: str | None) -> None:
    """Run all ablation and write the table of medians over seeds."""
    rows = []
    for name, overrides in SETTINGS.items():
        if chosen and name not in chosen:
            continue
        runs = [_measure(method, system, overrides, seed, out) for seed in range(seeds)]
        klds = [run["forward_kld"] for run in runs]
        row: dict[str, Any] = {"setting": name, "seeds": seeds}
        for column in COLUMNS[2:]:
            values = [run[column] for run in runs if run.get(column) is not None]
            if values:
                row[column] = f"{statistics.median(values):.6g}"
        row |= {"forward_kld_min": f"{min(klds):.6g}", "forward_kld_max": f"{max(klds):.6g}"}
        rows.append(row)
        click.echo(", ".join(f"{key} {value}" for key, value in row.items()))
        target = Path(table) if table else Path(out) / "ablation.csv"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, csv_bytes(COLUMNS, rows))


if __name__ == "__main__":
    from cgbench.cli.main import guarded

    sys.exit(guarded(command, "ablation"))
