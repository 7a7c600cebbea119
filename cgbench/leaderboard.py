"""Records to a ranking."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgbench.errors import UserError
from cgbench.md_curve import ESTIMATORS, MDCurve, longest_walkers
from cgbench.record import Record, RunFolder

__all__ = ["FoundRun", "evaluations_to", "find_runs", "leaderboard", "md_curves", "show_kld"]

TARGETS = {"evaluations_to_kld_1e-2": 1e-2, "evaluations_to_kld_1e-3": 1e-3}


@dataclass(frozen=True)
class FoundRun:
    """A record, its curve, and its side estimates if there are any."""

    record: Record
    evaluations: np.ndarray
    forward_kld: np.ndarray
    side: pd.DataFrame | None = None


def show_kld(kld: float, noise_floor: float) -> str:
    """Format a forward KLD; below the noise floor it is a bound, not a number."""
    return f"<= {noise_floor:.1e}" if kld < noise_floor else f"{kld:.2e}"


def find_runs(folders: Sequence[Path]) -> list[FoundRun]:
    """Read all records that ended ("finished" or "budget") below the folders.

    Raises
    ------
    UserError
        If a folder is missing, or a record or curve cannot be read.
    """
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no folder of runs {str(folder)!r} (--runs)")
        for path in sorted(folder.rglob("record.json")):
            record = RunFolder(path.parent).read_record()
            if record is None or record.status not in ("finished", "budget"):
                continue
            try:
                curve = pd.read_csv(path.with_name("curve.csv"))
                columns = curve["evaluations"].to_numpy(float), curve["forward_kld"].to_numpy(float)
                side_file = path.with_name("side_estimates.csv")
                side = pd.read_csv(side_file) if side_file.exists() else None
            except (OSError, KeyError, ValueError) as error:
                raise UserError(f"curve {path.with_name('curve.csv')} cannot be read: {error}") from error
            found.append(FoundRun(record, *columns, side))
    return found


def evaluations_to(run: FoundRun, target: float) -> float:
    """Evaluations from which on the forward KLD stays at or below the target; infinite for a miss."""
    above = ~(run.forward_kld <= target)
    if len(above) == 0 or above[-1]:
        return math.inf
    return (
        float(run.evaluations[len(above) - int(np.argmax(above[::-1]))]) if above.any() else float(run.evaluations[0])
    )


def md_curves(runs: Sequence[FoundRun]) -> dict[str, MDCurve]:
    """Curves of plain dynamics by estimator, from runs of method "md" on one version of one system.

    Only the preset with the most evaluations counts. Runs without side estimates give one curve, "histogram".
    """
    totals: dict[str, int] = defaultdict(int)
    for run in runs:
        totals[run.record.preset] = max(totals[run.record.preset], run.record.evaluations.total)
    if not totals:
        return {}
    chosen = [run for run in runs if run.record.preset == max(totals, key=lambda name: totals[name])]
    own = pd.concat(
        [
            pd.DataFrame(
                {
                    "name": f"histogram/{run.record.config.get('walkers', 1)}",
                    "replicate": 0,
                    "evaluations": run.evaluations,
                    "forward_kld": run.forward_kld,
                    "run": run.record.seed,
                }
            )
            for run in chosen
        ]
    )
    sides = [run.side.assign(run=run.record.seed) for run in chosen if run.side is not None]
    everything = pd.concat([own, *sides], ignore_index=True)
    present = {name.partition("/")[0] for name in everything["name"]}
    return {
        estimator: MDCurve.from_table(longest_walkers(everything, estimator))
        for estimator in ESTIMATORS
        if estimator in present
    }


def leaderboard(runs: Sequence[FoundRun]) -> pd.DataFrame:
    """One row per system, version, method and preset; medians over seeds, best forward KLD first."""
    groups: dict[tuple[str, str, str, str], list[FoundRun]] = defaultdict(list)
    for run in runs:
        r = run.record
        groups[r.system, r.system_version, r.method, r.preset].append(run)
    curves = {
        version: md_curves([m for key, ms in groups.items() if key[:3] == (*version, "md") for m in ms])
        for version in {key[:2] for key in groups}
    }
    rows = []
    for key, members in sorted(groups.items()):
        names = dict(zip(("system", "version", "method", "preset"), key, strict=True))
        rows.append(names | _row(members, curves[key[:2]]))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["system", "version", "forward_kld", "method", "preset"], kind="stable")


COLUMNS = (
    ["system", "version", "method", "preset", "n_seeds", "evaluations", "evaluations_paper_convention"]
    + ["forward_kld", "forward_kld_se", "noise_floor", "shown_kld", *TARGETS, "speedup_vs_md", "speedup_lo"]
    + [
        "speedup_hi",
        "extrapolated",
        "speedup_vs_smoothed_md",
        "smoothed_lo",
        "smoothed_hi",
        "basin_df_error_kT",
        "wall_s",
        "hardware",
    ]
)


def _row(members: Sequence[FoundRun], md: Mapping[str, MDCurve]) -> dict[str, Any]:
    records = [m.record for m in members]
    klds = np.array([math.nan if (k := r.metrics.get("forward_kld")) is None else k for r in records])
    kld = float(np.median(klds))
    evaluations = float(np.median([r.evaluations.total for r in records]))
    basins = [
        max(
            (abs(v) for k, v in r.metrics.items() if k.startswith("delta_f_error/") and v is not None), default=math.nan
        )
        for r in records
    ]
    floor = float((records[0].reference or {}).get("noise_floor", 0.0))
    row: dict[str, Any] = {
        "n_seeds": len(members),
        "evaluations": evaluations,
        "evaluations_paper_convention": float(np.median([r.evaluations.publication_convention for r in records])),
        "forward_kld": kld,
        "forward_kld_se": float(klds.std(ddof=1) / math.sqrt(len(klds))) if len(klds) > 1 else math.nan,
        "noise_floor": floor,
        "shown_kld": show_kld(kld, floor),
        "basin_df_error_kT": float(np.median(basins)),
        "wall_s": float(np.median([r.wall_seconds for r in records])),
        "hardware": records[0].provenance.get("accelerator") or records[0].provenance.get("cpu", ""),
    }
    for name, target in TARGETS.items():
        row[name] = float(np.median([evaluations_to(m, target) for m in members]))
    if math.isfinite(kld) and kld > 0:
        row |= _speedups(members, md, max(kld, floor))
    return row


def _speedups(members: Sequence[FoundRun], md: Mapping[str, MDCurve], kld: float) -> dict[str, Any]:
    """Speedups over MD at equal forward KLD, with bootstrap intervals over seeds and MD simulations."""
    totals = np.array([m.record.evaluations.total for m in members])
    row: dict[str, Any] = {}
    for estimator, curve in md.items():
        needed, extrapolated = curve.evaluations_to(kld)
        random = np.random.default_rng(0)
        draws = []
        for drawn in curve.draws:
            cost = float(np.median(totals[random.integers(len(totals), size=len(totals))]))
            draws.append(drawn.evaluations_to(kld)[0] / cost)
        low, high = np.quantile(draws, [0.025, 0.975])
        value = needed / float(np.median(totals))
        if estimator == "histogram":
            row |= {"speedup_vs_md": value, "speedup_lo": low, "speedup_hi": high, "extrapolated": extrapolated}
        else:
            row |= {"speedup_vs_smoothed_md": value, "smoothed_lo": low, "smoothed_hi": high}
    return row
