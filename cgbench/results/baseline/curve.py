"""The MD curve: forward KLD of plain MD against evaluations, never rising, with a band."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from cgbench.results.runs import FoundRun
from cgbench.results.statistics import quantiles, random_stream

__all__ = ["DRAWS", "ESTIMATORS", "MDCurve", "longest_walkers", "md_curves"]

Array = NDArray[np.float64]
ESTIMATORS = ("histogram", "smoothed")
DRAWS = 500
FEW = 8  # simulations; with fewer, their uncertainty comes from the typical spread
FIT_DECADES = 3.0  # last decades of evaluations: for the typical spread and the power law
BINS_PER_DECADE = 8


def longest_walkers(side: pd.DataFrame, estimator: str) -> pd.DataFrame:
    """Keep the simulations with the longest walkers at every number of evaluations.

    Parameters
    ----------
    side
        Table of ``side_estimates.csv``, with names like ``histogram/8`` for 8 walkers. Several runs may be stacked; a
        column "run" distinguishes them.
    estimator
        "histogram" or "smoothed".

    Returns
    -------
    pandas.DataFrame
        Columns run, walkers, steps (of each walker), evaluations, replicate, forward_kld. Simulations of one walker
        are used up to their full length, then those of eight walkers, and so on.
    """
    kind, _, walkers = zip(*(name.partition("/") for name in side["name"]), strict=True)
    table = side.assign(walkers=[int(w) for w in walkers])[np.array(kind) == estimator]
    kept, reached = [], 0.0
    for size in sorted(table["walkers"].unique()):
        level = table[(table["walkers"] == size) & (table["evaluations"] > reached)]
        kept.append(level)
        reached = max(reached, float(level["evaluations"].max())) if len(level) else reached
    found: pd.DataFrame = pd.concat(kept)
    found = found.assign(steps=found["evaluations"] / found["walkers"])
    columns: pd.DataFrame = found[["run", "walkers", "steps", "evaluations", "replicate", "forward_kld"]]
    return columns


@dataclass(frozen=True, eq=False)
class MDCurve:
    """Forward KLD of an MD estimator against evaluations: the median over independent simulations, made monotone.

    Evaluations are in bins of an eighth of a decade. The medians of the bins are replaced by the sequence closest to
    them that never rises (isotonic regression of the logarithms, weighted by the number of simulations), so that the
    curve reaches every level once and stays at or below it from there on.

    Attributes
    ----------
    evaluations
        Geometric mean of each bin ``[bins]``.
    median, forward_kld
        Median over simulations, and the curve ``[bins]``.
    held
        The same curve of the largest forward KLD that each simulation has from these evaluations on ``[bins]``. It is
        at or below a target where the median simulation has reached it, in the sense in which methods reach it.
    draws, held_draws
        Bootstrap samples of both curves ``[draws, bins]``. Whole simulations are drawn with replacement among those of
        equally many walkers. Where there are fewer than eight, each is kept and scaled by a random factor of the
        typical spread instead.
    simulations
        Number of simulations in each bin ``[bins]``.
    spread
        Typical spread: standard deviation of ln KLD between simulations, pooled over the last three decades; nan if no
        bin there has two simulations.
    typical
        Whether the band of a bin comes from the typical spread ``[bins]``.
    runs
        Number of independent runs behind the end of the curve.
    """

    evaluations: Array
    median: Array
    forward_kld: Array
    held: Array
    draws: Array
    held_draws: Array
    simulations: NDArray[np.integer]
    spread: float
    typical: NDArray[np.bool_]
    runs: int

    @classmethod
    def from_table(cls, table: pd.DataFrame, name: str = "") -> MDCurve:
        """Build a curve.

        Parameters
        ----------
        table
            Columns run, walkers, evaluations, replicate, forward_kld; estimates that are not finite and positive are
            skipped.
        name
            Of the random stream for the draws.
        """
        kld = table["forward_kld"].astype(float)
        table = table[np.isfinite(kld) & (kld > 0)]
        if table.empty:
            none, draws = np.empty(0), np.empty((DRAWS, 0))
            return cls(none, none, none, none, draws, draws, none.astype(int), math.nan, none.astype(bool), 0)
        n, logs, held, simulations = _binned(table)
        walkers, run = simulations["walkers"].to_numpy(), simulations["run"].to_numpy()
        number = np.isfinite(logs).sum(1)
        spread = _typical_spread(logs, n >= n.max() * 10**-FIT_DECADES)
        few = np.isin(walkers, [size for size in np.unique(walkers) if (walkers == size).sum() < FEW])
        columns, factors = _resampled(walkers, few, spread, random_stream("MD curve", name))

        def drawn(values: Array) -> Array:
            medians = np.empty((DRAWS, len(n)))
            for number_of_bin, of_bin in enumerate(values):
                near = np.isin(walkers, walkers[np.isfinite(of_bin)])
                medians[:, number_of_bin] = _medians(of_bin[columns[:, near]] + factors[:, near])
            medians = np.where(np.isnan(medians), _medians(values), medians)  # the drawn simulations ended earlier
            return np.exp([_never_rising(median, number) for median in medians])

        return cls(
            evaluations=n,
            median=np.exp(_medians(logs)),
            forward_kld=np.exp(_never_rising(_medians(logs), number)),
            held=np.exp(_never_rising(_medians(held), number)),
            draws=drawn(logs),
            held_draws=drawn(held),
            simulations=number,
            spread=spread,
            typical=np.any(np.isfinite(logs) & few, axis=1),
            runs=len(np.unique(run[walkers == walkers.max()])),
        )

    def reached(self, kld: Array) -> Array:
        """Return the evaluations from which on the curve stays at or below a forward KLD.

        Parameters
        ----------
        kld
            Any shape.

        Returns
        -------
        numpy.ndarray
            Smallest and largest number that the curve allows, along a new last axis. They are equal on the curve. To
            the left of it they are 0 and the first number of evaluations, to the right the last number and infinity;
            nan for a KLD of nan and without a curve.
        """
        return _reached(self.evaluations, self.forward_kld, kld)

    def reached_in_draws(self, kld: Array) -> Array:
        """Return what `reached` returns for each draw of the curve; `kld` is ``[draws, ...]``."""
        curves = self.draws.reshape(DRAWS, *(1,) * (kld.ndim - 1), len(self.evaluations))
        return _reached(self.evaluations, curves, kld)

    def to_target(self, target: float) -> tuple[Array, Array]:
        """Return the evaluations from which on the median simulation stays at or below a target.

        Returns
        -------
        tuple
            Smallest and largest number ``[2]``, as from `reached`, and those of each draw ``[draws, 2]``.
        """
        level = np.array(target)
        drawn = _reached(self.evaluations, self.held_draws, np.full(DRAWS, target))
        return _reached(self.evaluations, self.held, level), drawn

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per bin.

        Columns evaluations, forward_kld (the curve), lower and upper (95 % of the draws), median, held, simulations,
        and band ("simulations" or "typical spread").
        """
        lower, upper = quantiles(self.draws)
        return pd.DataFrame(
            {
                "evaluations": self.evaluations,
                "forward_kld": self.forward_kld,
                "lower": lower,
                "upper": upper,
                "median": self.median,
                "held": self.held,
                "simulations": self.simulations,
                "band": np.where(self.typical, "typical spread", "simulations"),
            }
        )

    @cached_property
    def power_law(self) -> tuple[float, float]:
        """``(a, b)`` of ``KLD = a N^b``, fitted to the last three decades; nan with fewer than two bins.

        It describes the curve; nothing is extrapolated with it.
        """
        last = self.evaluations >= self.evaluations.max(initial=0.0) * 10**-FIT_DECADES
        if last.sum() < 2:
            return math.nan, math.nan
        weights = np.sqrt(np.minimum(self.simulations[last], 16))
        slope, intercept = np.polyfit(np.log(self.evaluations[last]), np.log(self.median[last]), 1, w=weights)
        return float(np.exp(intercept)), float(slope)


def _binned(table: pd.DataFrame) -> tuple[Array, Array, Array, pd.DataFrame]:
    """Return the mean evaluations of each bin, ln KLD and ln held KLD ``[bins, simulations]``, and the simulations.

    Values are geometric means over the estimates of a simulation in a bin; nan where it has none. The simulations have
    columns walkers, run and replicate.
    """
    names = ["walkers", "run", "replicate"]
    ordered = table.sort_values([*names, "evaluations"], kind="stable")
    simulation = ordered.groupby(names).ngroup()
    kld = pd.Series(np.log(ordered["forward_kld"].to_numpy(float)), index=ordered.index)
    n = ordered["evaluations"].to_numpy(float)
    rows = pd.DataFrame(
        {
            "bin": np.round(BINS_PER_DECADE * np.log10(n)).astype(int),
            "simulation": simulation,
            "n": np.log(n),
            "kld": kld,
            "held": kld[::-1].groupby(simulation[::-1]).cummax()[::-1],
        }
    )
    known = rows.groupby(["bin", "simulation"])[["kld", "held"]].mean().unstack()
    middle = np.exp(rows.groupby("bin")["n"].mean().to_numpy())
    return middle, known["kld"].to_numpy(), known["held"].to_numpy(), ordered.drop_duplicates(names)[names]


def _typical_spread(logs: Array, late: NDArray[np.bool_]) -> float:
    """Return the standard deviation between simulations, pooled over the bins that are `late`."""
    number = np.isfinite(logs).sum(1)
    square = np.nansum((logs - (np.nansum(logs, axis=1) / number)[:, None]) ** 2, axis=1)
    freedom = (number - 1)[late].sum()
    return math.sqrt(float(square[late].sum() / freedom)) if freedom else math.nan


def _resampled(
    walkers: Array, few: NDArray[np.bool_], spread: float, random: np.random.Generator
) -> tuple[NDArray[np.integer], Array]:
    """Return the simulations of each draw, and what is added to the logarithm of each ``[draws, simulations]``."""
    columns = np.tile(np.arange(len(walkers)), (DRAWS, 1))
    for size in np.unique(walkers[~few]):
        members = np.flatnonzero(walkers == size)
        columns[:, members] = members[random.integers(len(members), size=(DRAWS, len(members)))]
    factors = random.normal(size=columns.shape) * few * (0.0 if math.isnan(spread) else spread)
    return columns, factors


def _medians(logs: Array) -> Array:
    """Return medians over the last axis without nan; nan if nothing is left."""
    ordered = np.sort(logs, axis=-1)  # nan comes last
    count = np.isfinite(logs).sum(-1, keepdims=True)
    below, above = (np.take_along_axis(ordered, place, -1) for place in ((count - 1) // 2, count // 2))
    middle: Array = 0.5 * (below + above)[..., 0]
    return middle


def _never_rising(logs: Array, weights: NDArray[np.integer]) -> Array:
    found: Array = isotonic_regression(logs, weights=weights.astype(float), increasing=False).x
    return found


def _reached(evaluations: Array, curve: Array, kld: Array) -> Array:
    """Return where curves that never rise ``[..., bins]`` reach a level ``[...]``, as `MDCurve.reached` does."""
    if len(evaluations) == 0:
        return np.full((*kld.shape, 2), np.nan)
    above = (curve > kld[..., None]).sum(-1)  # number of bins before the first that is at or below the level
    last = len(evaluations) - 1
    after, before = np.minimum(above, last), np.clip(above - 1, 0, last)
    n = np.log(evaluations)
    curve = np.broadcast_to(curve, (*kld.shape, last + 1))
    high, low = (np.log(np.take_along_axis(curve, at[..., None], -1))[..., 0] for at in (before, after))
    inside = (above > 0) & (above <= last)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(inside, (high - np.log(kld)) / (high - low), 0.0)
    at = np.exp(n[before] + share * (n[after] - n[before]))
    left = (above == 0) & (kld > np.exp(low) * (1 + 1e-12))
    ends = np.stack([np.where(left, 0.0, at), np.where(above > last, np.inf, at)], axis=-1)
    return np.where(np.isnan(kld)[..., None], np.nan, ends)


def _kind(run: FoundRun) -> tuple[str, str, str]:
    """Return what runs must have in common to be independent simulations of one kind."""
    return run.record.preset, run.record.config_hash, run.record.engine


def md_curves(runs: Sequence[FoundRun]) -> dict[str, MDCurve]:
    """Return the curves of plain MD by estimator, from runs of method "md" on one version of one system.

    Only the preset, configuration and engine with the most evaluations are used, with all their seeds. Runs without
    auxiliary estimates give one curve, "histogram". External results are left out, whatever their method is called:
    nobody counted their evaluations.
    """
    runs = [run for run in runs if run.record.origin == "run"]
    if not runs:
        return {}
    longest = max(runs, key=lambda run: run.record.evaluations.total)
    chosen = [run for run in runs if _kind(run) == _kind(longest)]
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
    sides = [run.auxiliary.assign(run=run.record.seed) for run in chosen if run.auxiliary is not None]
    everything = pd.concat([own, *sides], ignore_index=True)
    present = {name.partition("/")[0] for name in everything["name"]}
    return {
        estimator: MDCurve.from_table(
            longest_walkers(everything, estimator), f"{chosen[0].record.system}/{chosen[0].record.preset}/{estimator}"
        )
        for estimator in ESTIMATORS
        if estimator in present
    }
