"""Comparison of two sets of results with statistical tests; the seeds are the samples.

Each side is shown by its median over seeds, as in the leaderboard. Scores and costs scatter by factors, so Welch's test
compares their logarithms. Its ratio is that of geometric means, which estimates the ratio of medians where the
logarithms scatter symmetrically; a test of medians alone would find nothing with five seeds. If some seeds missed a
target, or failed, a rank test is used instead, in which a miss is the largest cost. Leaderboards have no value of each
seed, so for them Fisher's exact test compares the numbers of seeds that reached the target. Holm's correction covers
all tests of a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cgbench.errors import UserError
from cgbench.results.rows import KEY, Key, grouped, of_row
from cgbench.results.runs import TARGETS, find_runs
from cgbench.results.statistics import SMALLEST, standard_error
from cgbench.running.record import Record

__all__ = ["Results", "Sample", "compare", "holm", "read_results"]

FEWEST = 3  # seeds on each side
COMPARED = {name: target for name, target in TARGETS.items() if target <= 1e-2}  # every further test costs power
QUANTITIES = ("forward_kld", *COMPARED)
SHOWN = "evaluations_with_gradient"  # shown beside what is tested, where both sides know it
LN_COLUMNS = {"forward_kld": "ln_kld"} | {target: f"ln_{target}" for target in COMPARED}
LARGEST_EXACT = 200_000  # permutations of seeds that are enumerated


@dataclass(frozen=True)
class Sample:
    """One quantity over the seeds of one row.

    Attributes
    ----------
    seeds, reached
        Number of seeds, and of seeds with a finite value.
    mean, error
        Mean of the logarithms of the finite values, and its standard error.
    median
        Median over all seeds, a miss being infinite.
    values
        The value of each seed, infinite for a miss; None if it comes from a leaderboard.
    """

    seeds: int
    reached: int
    mean: float
    error: float
    median: float
    values: np.ndarray | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Summarise values; nan (a run without a score) counts as a miss."""
        everything = np.nan_to_num(np.array(values, dtype=float), nan=np.inf, posinf=np.inf)
        logs = np.log(everything[np.isfinite(everything)])
        mean = float(logs.mean()) if len(logs) else math.nan
        return cls(len(everything), len(logs), mean, standard_error(logs), float(np.median(everything)), everything)

    @classmethod
    def shown(cls, seeds: int, median: float) -> Sample:
        """Return a median that is shown and not tested; it may be zero."""
        return cls(seeds, seeds, math.nan, math.nan, median)


Results = dict[Key, dict[str, Sample]]


def read_results(path: Path) -> Results:
    """Read a leaderboard in CSV, or a folder of runs, which also gives the value of each seed.

    Raises
    ------
    UserError
        If it is neither, or lacks a column, or a field is no number.
    """
    if path.is_dir():
        found: Results = {}
        unfinished: list[Record] = []
        runs = find_runs([path], on_skip=unfinished.append)
        if unfinished and not runs:
            raise UserError(f"{path} holds no finished run: {len(unfinished)} unfinished or failed")
        failed = [record for record in unfinished if record.status == "failed"]
        for key, members in grouped(runs).items():
            misses = [math.inf] * len(of_row(members, failed))
            klds = [max(m.final_kld, m.noise_floor, SMALLEST) for m in members]
            found[key] = {"forward_kld": Sample.of([*klds, *misses])}
            for name, target in COMPARED.items():
                found[key][name] = Sample.of([*(m.evaluations_to(target) for m in members), *misses])
            counts = [m.record.evaluations.with_gradient for m in members]
            if (known := [count for count in counts if count is not None]) == counts:
                found[key][SHOWN] = Sample.shown(len(known), float(np.median(known)))
        return found
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(KEY, str))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise UserError(f"{path} is neither a folder of runs nor a leaderboard: {reason}") from error
    needed = [*KEY, "n_seeds", "noise_floor", *QUANTITIES, *(f"{name}_seeds" for name in COMPARED)]
    needed += [f"{name}_{what}" for name in LN_COLUMNS.values() for what in ("mean", "se")]
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}: write it again with cgbench leaderboard")
    if table.duplicated(list(KEY)).any():
        raise UserError(f"{path} has two rows for the same system, version, method and preset")
    return {
        tuple(str(row[name]) for name in KEY): _of_row(_Row(row, f"{path}: row {number}"))  # type: ignore[misc]
        for number, row in enumerate(table.to_dict("records"), 1)
    }


@dataclass(frozen=True)
class _Row:
    """A row of a leaderboard whose fields are checked when they are read."""

    fields: Mapping[Any, Any]
    where: str

    def number(self, column: str) -> float:
        """Return a number; nan for an empty field, or without the column."""
        value = self.fields.get(column, math.nan)
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            raise self.wrong(column, "a number") from None

    def seeds(self, column: str, least: int, most: float = math.inf) -> int:
        """Return a number of seeds."""
        value = self.number(column)
        if not (least <= value <= most and value.is_integer()):
            raise self.wrong(column, f"a whole number from {least}" + f" to {most}" * math.isfinite(most))
        return int(value)

    def wrong(self, column: str, right: str) -> UserError:
        """Return the error for a field that is not right."""
        value = self.fields.get(column, math.nan)
        found = "nothing" if isinstance(value, float) and math.isnan(value) else repr(value)[:40]
        return UserError(f"{self.where} has {found} in the column {column!r}, which must be {right}")


def _of_row(row: _Row) -> dict[str, Sample]:
    finished = row.seeds("n_seeds", 1)
    failed = row.number("n_failed")  # tables of before do not have it
    seeds = finished + (0 if math.isnan(failed) else row.seeds("n_failed", 0))
    found = {}
    for name, column in LN_COLUMNS.items():
        mean, error = row.number(f"{column}_mean"), row.number(f"{column}_se")
        reached = row.seeds(f"{name}_seeds", 0, finished) if name in COMPARED else finished * math.isfinite(mean)
        if reached > 0 and not math.isfinite(mean):
            raise row.wrong(f"{column}_mean", "finite, because seeds reached the target")
        if reached > 1 and not 0 <= error < math.inf:
            raise row.wrong(f"{column}_se", "finite and not negative, because it is of several seeds")
        median = float(np.nan_to_num(row.number(name), nan=np.inf, posinf=np.inf))
        found[name] = Sample(
            seeds, reached, mean, error, median if name in COMPARED else max(median, row.number("noise_floor"))
        )
    if math.isfinite(count := row.number(SHOWN)):  # tables of before do not have it
        found[SHOWN] = Sample.shown(seeds, count)
    return found


@dataclass(frozen=True)
class _Outcome:
    """A test, its p-value and the ratio b over a with its 95 % interval; or the reason why nothing was tested."""

    test: str
    p: float = math.nan
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    worse: bool = False


def _outcome(a: Sample, b: Sample, alpha: float) -> _Outcome:
    if a.reached == b.reached == 0:
        return _Outcome("no value on either side")
    if min(a.seeds, b.seeds) < FEWEST:
        return _Outcome("not enough seeds")
    if a.reached == a.seeds and b.reached == b.seeds:
        return _by_logarithms(a, b, alpha)
    smallest = 2 / math.comb(a.seeds + b.seeds, a.seeds)
    if smallest > alpha:
        return _Outcome("not enough seeds")
    if a.values is not None and b.values is not None:
        p, worse = _rank_sum(a.values, b.values)
        return _Outcome("rank sum", p, worse=worse)
    counts = [[a.reached, a.seeds - a.reached], [b.reached, b.seeds - b.reached]]
    share = b.reached / b.seeds - a.reached / a.seeds
    return _Outcome("Fisher", float(stats.fisher_exact(counts).pvalue), worse=share < 0)


def _by_logarithms(a: Sample, b: Sample, alpha: float) -> _Outcome:
    """Apply Welch's test; if neither side has any spread, use the probability that the ranks separate completely."""
    difference, error = b.mean - a.mean, math.hypot(a.error, b.error)
    worse = difference > 0
    with np.errstate(over="ignore"):
        ratio = float(np.exp(difference))
    if error == 0:
        separated = abs(difference) > 1e-4  # leaderboards have six digits
        p = 2 / math.comb(a.seeds + b.seeds, a.seeds) if separated else 1.0
        if separated and p > alpha:
            return _Outcome("not enough seeds", ratio=ratio)
        return _Outcome("no spread", p, ratio, ratio, ratio, worse)
    freedom = 1 / ((a.error / error) ** 4 / (a.seeds - 1) + (b.error / error) ** 4 / (b.seeds - 1))
    p = float(2 * stats.t.sf(abs(difference) / error, freedom))
    half = float(stats.t.ppf(0.975, freedom)) * error
    with np.errstate(over="ignore"):
        low, high = np.exp([difference - half, difference + half])
    return _Outcome("Welch", p, ratio, float(low), float(high), worse)


def _rank_sum(a: np.ndarray, b: np.ndarray) -> tuple[float, bool]:
    """Return the two-sided p-value of the rank sum, and whether b ranks higher.

    The p-value is exact, also with ties, unless there are too many permutations to enumerate.
    """
    ranks = stats.rankdata(np.concatenate([a, b]))
    excess = ranks[: len(a)].sum() - ranks.mean() * len(a)
    if math.comb(len(ranks), len(a)) > LARGEST_EXACT:
        order = ranks[: len(a)], ranks[len(a) :]
        return float(stats.mannwhitneyu(*order, method="asymptotic").pvalue), bool(excess < 0)
    sums = np.array([sum(chosen) for chosen in combinations(ranks.tolist(), len(a))])
    p = float(np.mean(np.abs(sums - ranks.mean() * len(a)) >= abs(excess) - 1e-9))
    return p, bool(excess < 0)


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values (Holm, Scand. J. Stat. 6, 65, 1979); nan stays nan and is not counted."""
    values = np.array(p, dtype=float)
    order = [k for k in np.argsort(values, kind="stable") if math.isfinite(values[k])]
    largest = 0.0
    for place, k in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * values[k]))
        values[k] = largest
    return [float(value) for value in values]


def compare(a: Results, b: Results, alpha: float = 0.05, tolerance: float = 0.05) -> pd.DataFrame:
    """Compare the rows that both sets have: forward KLD, and evaluations to each target.

    Parameters
    ----------
    a, b
        Results before and after.
    alpha
        Probability of at least one false alarm in the whole comparison.
    tolerance
        Relative changes below this are ignored, even if they are significant.

    Returns
    -------
    pandas.DataFrame
        One row per quantity. ``a`` and ``b`` are medians over seeds, infinite if half of them missed the target;
        ``ratio`` is the geometric mean of b over that of a with its 95 % interval, ``p_holm`` the adjusted p-value,
        and ``verdict`` one of better, worse, no difference, not enough seeds, no value on either side. Evaluations
        with a gradient are shown where both sides know them, with the verdict "not tested": they are no score.
    """
    rows: list[dict[str, Any]] = []
    outcomes = []
    for key in sorted(set(a) & set(b)):
        shown = (SHOWN,) if SHOWN in a[key] and SHOWN in b[key] else ()
        for quantity in (*QUANTITIES, *shown):
            first, second = a[key][quantity], b[key][quantity]
            outcome = _Outcome("not tested") if quantity in shown else _outcome(first, second, alpha)
            row: dict[str, Any] = dict(zip(KEY, key, strict=True))
            row |= {"quantity": quantity} | _side("a", first) | _side("b", second)
            row |= {"ratio": outcome.ratio, "ratio_lo": outcome.low, "ratio_hi": outcome.high}
            row |= {"test": outcome.test if math.isfinite(outcome.p) else "", "p": outcome.p}
            rows.append(row)
            outcomes.append(outcome)
    for row, outcome, adjusted in zip(rows, outcomes, holm([o.p for o in outcomes]), strict=True):
        row |= {"p_holm": adjusted, "verdict": _verdict(outcome, adjusted, alpha, tolerance)}
    return pd.DataFrame(rows)


def _side(name: str, sample: Sample) -> dict[str, Any]:
    return {name: sample.median, f"seeds_{name}": sample.seeds, f"reached_{name}": sample.reached}


def _verdict(outcome: _Outcome, p: float, alpha: float, tolerance: float) -> str:
    if math.isnan(outcome.p):
        return outcome.test
    small = math.isfinite(outcome.ratio) and 1 / (1 + tolerance) <= outcome.ratio <= 1 + tolerance
    if p > alpha or small:
        return "no difference"
    return "worse" if outcome.worse else "better"
