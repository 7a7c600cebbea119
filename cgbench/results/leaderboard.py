"""The leaderboard: one row for each system, method and preset, with medians over seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cgbench.results.md_baseline import MDCurve, md_curves
from cgbench.results.numbers import show_kld
from cgbench.results.runs import KEY, TARGETS, FoundRun, grouped
from cgbench.results.statistics import standard_error
from cgbench.running.record import Record

__all__ = ["leaderboard"]

COLUMNS = (
    [*KEY, "n_seeds", "evaluations", "evaluations_paper_convention"]
    + ["forward_kld", "forward_kld_se", "noise_floor", "shown_kld", *TARGETS, "speedup_vs_md", "speedup_lo"]
    + ["speedup_hi", "extrapolated", "speedup_vs_smoothed_md", "smoothed_lo", "smoothed_hi", "basin_df_error_kT"]
    + ["wall_s", "hardware", "basin_df_errors_kT", "ln_kld_mean", "ln_kld_se"]
    + [name for target in TARGETS for name in (f"{target}_seeds", f"ln_{target}_mean", f"ln_{target}_se")]
)


def leaderboard(runs: Sequence[FoundRun]) -> pd.DataFrame:
    """Return one row per system, version, method and preset: medians over seeds, best forward KLD first.

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


def _row(members: Sequence[FoundRun], md: Mapping[str, MDCurve]) -> dict[str, Any]:
    records = [m.record for m in members]
    klds = np.array([m.final_kld for m in members])
    kld, floor = float(np.median(klds)), members[0].noise_floor
    row: dict[str, Any] = {
        "n_seeds": len(members),
        "evaluations": float(np.median([r.evaluations.total for r in records])),
        "evaluations_paper_convention": float(np.median([r.evaluations.publication_convention for r in records])),
        "forward_kld": kld,
        "forward_kld_se": standard_error(klds),
        "noise_floor": floor,
        "shown_kld": show_kld(kld, floor),
        "wall_s": float(np.median([r.wall_seconds for r in records])),
        "hardware": "; ".join(sorted({m.hardware for m in members})),
    }
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(klds, floor))
    row |= {"ln_kld_mean": float(logs.mean()), "ln_kld_se": standard_error(logs)}
    for name, target in TARGETS.items():
        needed = np.array([m.evaluations_to(target) for m in members])
        reached = np.log(needed[np.isfinite(needed)])
        row |= {
            name: float(np.median(needed)),
            f"{name}_seeds": len(reached),
            f"ln_{name}_mean": float(reached.mean()) if len(reached) else math.nan,
            f"ln_{name}_se": standard_error(reached),
        }
    row |= _basins(records)
    if math.isfinite(kld) and max(kld, floor) > 0:
        row |= dict(_speedups(members, md))
    return row


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


def _speedups(members: Sequence[FoundRun], md: Mapping[str, MDCurve]) -> Iterator[tuple[str, Any]]:
    """Yield speedups over MD at equal forward KLD, with bootstrap intervals over seeds and MD simulations.

    Each bootstrap sample draws seeds with replacement, each with its score and cost, and a curve from resampled
    simulations. A score below the noise floor counts as the noise floor.
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
