"""Records to a ranking."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgbench.errors import UserError
from cgbench.md_curve import ESTIMATORS, MDCurve, longest_walkers
from cgbench.record import Record
from cgbench.run_folder import RunFolder

__all__ = ["TARGETS", "FoundRun", "evaluations_to", "find_runs", "grouped", "leaderboard", "md_curves", "show_kld"]

TARGETS = {"evaluations_to_kld_1e-2": 1e-2, "evaluations_to_kld_1e-3": 1e-3}
KEY = ("system", "version", "method", "preset")
Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class FoundRun:
    """A record, its curve, its side estimates if there are any, and where it lies."""

    record: Record
    evaluations: np.ndarray
    forward_kld: np.ndarray
    side: pd.DataFrame | None = None
    path: Path | None = None

    @property
    def noise_floor(self) -> float:
        """Forward KLD that the reference's own noise causes."""
        return float((self.record.reference or {}).get("noise_floor", 0.0))

    @property
    def final_kld(self) -> float:
        """Forward KLD of the final PMF; nan if it was not scored."""
        kld = self.record.metrics.get("forward_kld")
        return math.nan if kld is None else kld


def show_kld(kld: float, noise_floor: float) -> str:
    """Format a forward KLD; below the noise floor it is a bound, not a number."""
    return f"<= {noise_floor:.1e}" if kld < noise_floor else f"{kld:.2e}"


def find_runs(folders: Sequence[Path]) -> list[FoundRun]:
    """Read all records that ended ("finished" or "budget") below the folders, each file once.

    Raises
    ------
    UserError
        If a folder is missing, or a record or curve cannot be read.
    """
    paths: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no folder of runs {str(folder)!r} (--runs)")
        for path in sorted(folder.rglob("record.json")):
            paths.setdefault(path.resolve(), path.parent)
    found = []
    for path in paths.values():
        record = RunFolder(path).read_record()
        if record is None or record.status not in ("finished", "budget"):
            continue
        try:
            columns = _read_curve(path / "curve.csv")
            side_file = path / "side_estimates.csv"
            side = pd.read_csv(side_file) if side_file.exists() else None
        except (OSError, LookupError, ValueError) as error:
            raise UserError(f"curve {path / 'curve.csv'} cannot be read: {error}") from error
        found.append(FoundRun(record, *columns, side, path))
    return found


def _read_curve(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Evaluations and forward KLD; a thousand of these files are read ten times as fast as by pandas."""
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    places = [header.index(name) for name in ("evaluations", "forward_kld")]
    evaluations, kld = (np.array([float(row[at] or "nan") for row in rows]) for at in places)
    return evaluations, kld


def evaluations_to(run: FoundRun, target: float) -> float:
    """Evaluations from which on the forward KLD stays at or below the target; infinite for a miss."""
    above = ~(run.forward_kld <= target)
    if len(above) == 0 or above[-1]:
        return math.inf
    return (
        float(run.evaluations[len(above) - int(np.argmax(above[::-1]))]) if above.any() else float(run.evaluations[0])
    )


def grouped(runs: Sequence[FoundRun]) -> dict[Key, list[FoundRun]]:
    """Runs by system, version, method and preset, sorted, seeds in order.

    A preset that was run with several configurations or engines becomes several, told apart by the hash of the
    configuration or by the engine: they are never averaged. The same run found twice counts once.

    Raises
    ------
    UserError
        If two different runs have the same seed.
    """
    presets: dict[Key, list[FoundRun]] = defaultdict(list)
    for run in runs:
        r = run.record
        presets[r.system, r.system_version, r.method, r.preset].append(run)
    groups: dict[Key, dict[int, FoundRun]] = defaultdict(dict)
    for (*names, preset), members in presets.items():
        configs, engines = {m.record.config_hash for m in members}, {m.record.engine for m in members}
        for run in members:
            r = run.record
            label = preset + f"-{r.config_hash[:8]}" * (len(configs) > 1) + f"-{r.engine}" * (len(engines) > 1)
            same = groups[names[0], names[1], names[2], label].setdefault(r.seed, run)
            if (same.record.evaluations, str(same.record.metrics)) != (r.evaluations, str(r.metrics)):  # nan is not nan
                raise UserError(
                    f"two different runs of {r.method} on {r.system}, preset {preset}, seed {r.seed}: "
                    f"{same.path} and {run.path}; give one of them"
                )
    return {key: [seeds[seed] for seed in sorted(seeds)] for key, seeds in sorted(groups.items())}


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
    """One row per system, version, method and preset; medians over seeds, best forward KLD first.

    Raises
    ------
    UserError
        If two different runs have the same seed.
    """
    groups = grouped(runs)
    curves = {
        version: md_curves([m for key, ms in groups.items() if key[:3] == (*version, "md") for m in ms])
        for version in {key[:2] for key in groups}
    }
    rows = [dict(zip(KEY, key, strict=True)) | _row(ms, curves[key[:2]]) for key, ms in groups.items()]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["system", "version", "forward_kld", "method", "preset"], kind="stable")


COLUMNS = (
    [*KEY, "n_seeds", "evaluations", "evaluations_paper_convention"]
    + ["forward_kld", "forward_kld_se", "noise_floor", "shown_kld", *TARGETS, "speedup_vs_md", "speedup_lo"]
    + ["speedup_hi", "extrapolated", "speedup_vs_smoothed_md", "smoothed_lo", "smoothed_hi", "basin_df_error_kT"]
    + ["wall_s", "hardware", "basin_df_errors_kT", "ln_kld_mean", "ln_kld_se"]
    + [name for target in TARGETS for name in (f"{target}_seeds", f"ln_{target}_mean", f"ln_{target}_se")]
)


def _row(members: Sequence[FoundRun], md: Mapping[str, MDCurve]) -> dict[str, Any]:
    records = [m.record for m in members]
    klds = np.array([m.final_kld for m in members])
    kld, floor = float(np.median(klds)), members[0].noise_floor
    row: dict[str, Any] = {
        "n_seeds": len(members),
        "evaluations": float(np.median([r.evaluations.total for r in records])),
        "evaluations_paper_convention": float(np.median([r.evaluations.publication_convention for r in records])),
        "forward_kld": kld,
        "forward_kld_se": _standard_error(klds),
        "noise_floor": floor,
        "shown_kld": show_kld(kld, floor),
        "wall_s": float(np.median([r.wall_seconds for r in records])),
        "hardware": "; ".join(sorted({_hardware(r) for r in records})),
    }
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(klds, floor))
    row |= {"ln_kld_mean": float(logs.mean()), "ln_kld_se": _standard_error(logs)}
    for name, target in TARGETS.items():
        needed = np.array([evaluations_to(m, target) for m in members])
        reached = np.log(needed[np.isfinite(needed)])
        row |= {
            name: float(np.median(needed)),
            f"{name}_seeds": len(reached),
            f"ln_{name}_mean": float(reached.mean()) if len(reached) else math.nan,
            f"ln_{name}_se": _standard_error(reached),
        }
    row |= _basins(records)
    if math.isfinite(kld) and max(kld, floor) > 0:
        row |= dict(_speedups(members, md))
    return row


def _standard_error(values: np.ndarray) -> float:
    """Standard error of the mean, nan for fewer than two; exactly 0 if all are equal."""
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values))) if np.ptp(values) > 0 else 0.0


def _hardware(record: Record) -> str:
    return str(record.provenance.get("accelerator") or record.provenance.get("cpu", ""))


def _basins(records: Sequence[Record]) -> dict[str, Any]:
    """The largest error of a basin's free energy (median over seeds), and that of each basin with its sign."""
    errors: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for name, value in record.metrics.items():
            if name.startswith("delta_f_error/") and value is not None:
                errors[name.partition("/")[2]].append(value)
    largest = [
        max(
            (abs(v) for k, v in r.metrics.items() if k.startswith("delta_f_error/") and v is not None), default=math.nan
        )
        for r in records
    ]
    return {
        "basin_df_error_kT": float(np.median(largest)),
        "basin_df_errors_kT": "; ".join(f"{name} {np.median(values):+.3f}" for name, values in errors.items()),
    }


def _speedups(members: Sequence[FoundRun], md: Mapping[str, MDCurve]) -> Iterator[tuple[str, Any]]:
    """Speedups over MD at equal forward KLD, with bootstrap intervals over seeds and MD simulations.

    A draw takes seeds with replacement, each with its own score and cost, and a curve from resampled simulations. A
    score below the noise floor counts as the noise floor.
    """
    totals = np.array([m.record.evaluations.total for m in members])
    klds = np.array([max(m.final_kld, m.noise_floor) for m in members])
    for estimator, curve in md.items():
        drawn = np.random.default_rng(0).integers(len(members), size=(len(curve.draws), len(members)))
        costs, scores = np.median(totals[drawn], axis=1), np.median(klds[drawn], axis=1)
        draws = [c.evaluations_to(kld)[0] / cost for c, kld, cost in zip(curve.draws, scores, costs, strict=True)]
        low, high = np.quantile(draws, [0.025, 0.975])
        needed, extrapolated = curve.evaluations_to(float(np.median(klds)))
        names = ("speedup_vs_md", "speedup_lo", "speedup_hi")
        if estimator == "histogram":
            yield "extrapolated", extrapolated
        else:
            names = ("speedup_vs_smoothed_md", "smoothed_lo", "smoothed_hi")
        yield from zip(names, (needed / float(np.median(totals)), low, high), strict=True)
