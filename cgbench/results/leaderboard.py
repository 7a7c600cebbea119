"""The leaderboard: one row for each system, method and preset, with medians over seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cgbench.errors import UserError
from cgbench.results.baseline.curve import ESTIMATORS, MDCurve, md_curves
from cgbench.results.baseline.speedups import UNKNOWN, Seeds, Speedup
from cgbench.results.baseline.times import md_seconds_per_evaluation, scaled, seconds_to, total_seconds
from cgbench.results.numbers import show_kld
from cgbench.results.rows import KEY, differences, grouped, of_row
from cgbench.results.runs import TARGETS, FoundRun
from cgbench.results.statistics import SMALLEST, median_interval, standard_error
from cgbench.running.configuration import preset_facts
from cgbench.running.record import Record
from cgbench.running.registry import load

__all__ = ["TIMED", "leaderboard"]

TIMED = {"1e-2": 1e-2, "1e-3": 1e-3}  # targets with times
PREFIXES = {"histogram": "speedup", "smoothed": "smoothed_speedup"}


def _ends(name: str) -> list[str]:
    return [name, f"{name}_lo", f"{name}_hi"]


def _speedup_columns(name: str) -> list[str]:
    return [*_ends(name), f"{name}_bound"]


LEVELS = ("vs_md", *(f"to_{name.removeprefix('evaluations_to_')}" for name in TARGETS))
COLUMNS = (
    [*KEY, "algorithm", "n_seeds", "n_failed", "confidence", "evaluations", "evaluations_with_gradient"]
    + ["evaluations_paper_convention", *_ends("forward_kld")]
    + ["noise_floor", "shown_kld", *(column for name in TARGETS for column in _ends(name))]
    + [column for e in ESTIMATORS for level in LEVELS for column in _speedup_columns(f"{PREFIXES[e]}_{level}")]
    + ["assumed_scatter", "md_runs", "wall_s", "seconds"]
    + [column for target in TIMED for column in _ends(f"seconds_to_kld_{target}")]
    + [column for level in LEVELS if level[-4:] != "1e-1" for column in _speedup_columns(f"time_speedup_{level}")]
    + ["scaled_seconds", "time_note", "hardware", "threads", "differences", "basin_df_error_kT", "basin_df_errors_kT"]
    + ["ln_kld_mean", "ln_kld_se"]
    + [name for target in TARGETS for name in (f"{target}_seeds", f"ln_{target}_mean", f"ln_{target}_se")]
)


def leaderboard(runs: Sequence[FoundRun], failed: Sequence[Record] = ()) -> pd.DataFrame:
    """Return one row per system, version, method and preset: medians over seeds, best forward KLD first.

    Parameters
    ----------
    runs
        Runs with a final PMF.
    failed
        Records of failed runs, which are counted in the rows that they would be in.

    Raises
    ------
    UserError
        If two different runs have the same seed.
    """
    groups = grouped(runs)
    md = {
        version: [m for key, ms in groups.items() if key[:3] == (*version, "md") for m in ms if _is_run(m)]
        for version in {key[:2] for key in groups}
    }
    curves = {version: md_curves(found) for version, found in md.items()}
    rows = [
        dict(zip(KEY, key, strict=True))
        | {"n_failed": len(of_row(ms, failed))}
        | _row(ms, key, curves[key[:2]], md[key[:2]])
        for key, ms in groups.items()
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["system", "version", "forward_kld", "method", "preset"], kind="stable")


def _is_run(run: FoundRun) -> bool:
    return run.record.origin == "run"


def _row(
    members: Sequence[FoundRun], key: Sequence[str], curves: Mapping[str, MDCurve], md: Sequence[FoundRun]
) -> dict[str, Any]:
    records = [m.record for m in members]
    klds = np.array([m.final_kld for m in members])
    kld, floor = float(np.median(klds)), max(m.noise_floor for m in members)
    mixed = differences(members)
    row: dict[str, Any] = {
        "algorithm": _algorithm(records[0]),
        "n_seeds": len(members),
        "confidence": median_interval(np.zeros(len(members)))[2],
        "evaluations": float(np.median([r.evaluations.total for r in records])),
        "evaluations_with_gradient": _with_gradient(records),
        "evaluations_paper_convention": float(np.median([r.evaluations.publication_convention for r in records])),
        **_median("forward_kld", klds),
        "noise_floor": floor,
        "shown_kld": show_kld(kld, floor),
        "wall_s": float(np.median([r.wall_seconds for r in records])),
        "seconds": float(np.median([total_seconds(m) for m in members])),
        "hardware": "; ".join(sorted({m.hardware for m in members})),
        "threads": "; ".join(sorted({str(r.threads) for r in records if r.origin == "run"})),
        "differences": "; ".join(f"{name}: {', '.join(values)}" for name, values in mixed.items()),
        "md_runs": max((curve.runs for curve in curves.values()), default=0),
    }
    logs = np.log(np.maximum(klds, max(floor, SMALLEST)))
    row |= {"ln_kld_mean": float(logs.mean()), "ln_kld_se": standard_error(logs)}
    for name, target in TARGETS.items():
        needed = np.array([m.evaluations_to(target) for m in members])
        reached = np.log(needed[np.isfinite(needed)])
        row |= _median(name, needed) | {
            f"{name}_seeds": len(reached),
            f"ln_{name}_mean": float(reached.mean()) if len(reached) else math.nan,
            f"ln_{name}_se": standard_error(reached),
        }
    for name, target in TIMED.items():
        row |= _median(f"seconds_to_kld_{name}", np.array([seconds_to(m, target) for m in members]))
    row |= _basins(records) | {"scaled_seconds": any(map(scaled, members))}
    # MD has no speedup over itself; tests compare its simulations with its curve
    return row if records[0].method == "md" else row | dict(_speedups(members, key, curves, md))


def _algorithm(record: Record) -> str:
    """Return whose algorithm a run is of, as the installed preset of that name declares; empty if it is not known.

    It is not known for changed settings (`Plan.preset` then has another name) and for results of other programs.
    """
    if record.origin != "run":
        return ""
    try:
        facts = preset_facts(load("method", record.method), record.system, record.preset)
    except UserError:  # not installed here, or its preset cannot be read
        return ""
    return "" if facts is None else facts.algorithm


def _with_gradient(records: Sequence[Record]) -> float:
    """Return the median number of evaluations with a gradient; nan if a record does not have it."""
    counts = [record.evaluations.with_gradient for record in records]
    return float(np.median([math.nan if count is None else count for count in counts]))


def _median(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    """Return the columns of a median over seeds and its interval."""
    low, high, _ = median_interval(values)
    return dict(zip(_ends(name), (float(np.median(values)), low, high), strict=True))


def _basins(records: Sequence[Record]) -> dict[str, Any]:
    """Return the largest error of a basin's free energy (median over seeds), and the signed error of each basin."""
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


def _speedups(
    members: Sequence[FoundRun], key: Sequence[str], curves: Mapping[str, MDCurve], md: Sequence[FoundRun]
) -> Iterator[tuple[str, Any]]:
    """Yield the speedups over MD, in evaluations and in seconds, at the score of each seed and at the targets."""
    if not any(m.scored for m in members):
        return
    seeds = Seeds(np.array([m.final_kld for m in members]), max(m.noise_floor for m in members), "/".join(key))
    totals = np.array([float(m.record.evaluations.total) for m in members])
    yield "assumed_scatter", seeds.assumed
    for estimator, curve in curves.items():
        yield from _columns(f"{PREFIXES[estimator]}_vs_md", seeds.at_scores(curve, totals))
        for name, target in TARGETS.items():
            found = seeds.at_target(curve, target, np.array([m.evaluations_to(target) for m in members]))
            yield from _columns(f"{PREFIXES[estimator]}_to_{name.removeprefix('evaluations_to_')}", found)
    rate, reason = md_seconds_per_evaluation(members, md)
    if reason or "histogram" not in curves:
        yield "time_note", f"no speedup in time: {reason or 'no run of MD'}"
        return
    curve = curves["histogram"]
    spent = np.array([total_seconds(m) for m in members])
    yield from _columns("time_speedup_vs_md", seeds.at_scores(curve, spent, rate))
    for name, target in TIMED.items():
        costs = np.array([seconds_to(m, target) for m in members])
        yield from _columns(f"time_speedup_to_kld_{name}", seeds.at_target(curve, target, costs, rate))


def _columns(name: str, found: Speedup) -> Iterator[tuple[str, Any]]:
    if found is UNKNOWN:
        return
    yield from zip(_speedup_columns(name), (found.value, found.low, found.high, found.bound), strict=True)
