"""Records to a ranking."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgbench.errors import UserError
from cgbench.record import Record, RunFolder

__all__ = ["FoundRun", "evaluations_to", "find_runs", "leaderboard", "show_kld"]

TARGETS = {"evaluations_to_kld_1e-2": 1e-2, "evaluations_to_kld_1e-3": 1e-3}


@dataclass(frozen=True)
class FoundRun:
    """A record and its curve."""

    record: Record
    evaluations: np.ndarray
    forward_kld: np.ndarray


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
            except (OSError, KeyError, ValueError) as error:
                raise UserError(f"curve {path.with_name('curve.csv')} cannot be read: {error}") from error
            found.append(FoundRun(record, *columns))
    return found


def evaluations_to(run: FoundRun, target: float) -> float:
    """Evaluations from which on the forward KLD stays at or below the target; infinite for a miss."""
    above = ~(run.forward_kld <= target)
    if len(above) == 0 or above[-1]:
        return math.inf
    return (
        float(run.evaluations[len(above) - int(np.argmax(above[::-1]))]) if above.any() else float(run.evaluations[0])
    )


def _md_evaluations(runs: Sequence[FoundRun], kld: float) -> tuple[float, bool]:
    """MD evaluations to a forward KLD by a power law through the curves; whether it was extrapolated."""
    points = [(n, d) for run in runs for n, d in zip(run.evaluations, run.forward_kld, strict=True) if 0 < d < math.inf]
    if len(points) < 2:
        return math.nan, False
    n, d = np.array(points).T
    slope, intercept = np.polyfit(np.log(d), np.log(n), 1)
    return float(np.exp(intercept + slope * np.log(kld))), bool(kld < d.min())


def leaderboard(runs: Sequence[FoundRun]) -> pd.DataFrame:
    """One row per system, version, method and preset; medians over seeds, best forward KLD first."""
    groups: dict[tuple[str, str, str, str], list[FoundRun]] = defaultdict(list)
    for run in runs:
        r = run.record
        groups[r.system, r.system_version, r.method, r.preset].append(run)
    rows = []
    for key, members in sorted(groups.items()):
        md = [m for k, ms in groups.items() for m in ms if k[:3] == (*key[:2], "md")]
        rows.append(dict(zip(("system", "version", "method", "preset"), key, strict=True)) | _row(members, md))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["system", "version", "forward_kld", "method", "preset"], kind="stable")


COLUMNS = (
    ["system", "version", "method", "preset", "n_seeds", "evaluations", "evaluations_paper_convention"]
    + ["forward_kld", "forward_kld_se", "below_noise_floor", *TARGETS, "speedup_vs_md", "speedup_lo"]
    + ["speedup_hi", "extrapolated", "basin_df_error_kT", "wall_s", "hardware"]
)


def _row(members: Sequence[FoundRun], md: Sequence[FoundRun]) -> dict[str, Any]:
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
        "below_noise_floor": bool(kld < floor),
        "basin_df_error_kT": float(np.median(basins)),
        "wall_s": float(np.median([r.wall_seconds for r in records])),
        "hardware": records[0].provenance.get("accelerator") or records[0].provenance.get("cpu", ""),
    }
    for name, target in TARGETS.items():
        row[name] = float(np.median([evaluations_to(m, target) for m in members]))
    if md and math.isfinite(kld) and kld > 0:
        row |= _speedup(members, md, max(kld, floor))
    return row


def _speedup(members: Sequence[FoundRun], md: Sequence[FoundRun], kld: float) -> dict[str, Any]:
    """Speedup over MD at equal forward KLD, with a bootstrap interval over seeds of both."""
    needed, extrapolated = _md_evaluations(md, kld)
    totals = np.array([m.record.evaluations.total for m in members])
    random = np.random.default_rng(0)
    draws = []
    for _ in range(500):
        chosen = [md[i] for i in random.integers(len(md), size=len(md))]
        cost = float(np.median(totals[random.integers(len(totals), size=len(totals))]))
        draws.append(_md_evaluations(chosen, kld)[0] / cost)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "speedup_vs_md": needed / float(np.median(totals)),
        "speedup_lo": float(low),
        "speedup_hi": float(high),
        "extrapolated": extrapolated,
    }
