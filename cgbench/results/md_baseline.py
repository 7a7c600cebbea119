"""The MD baseline: forward KLD of plain MD against evaluations, with a band and a power law."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cgbench.results.runs import FoundRun

__all__ = ["ESTIMATORS", "MDCurve", "longest_walkers", "md_curves"]

Array = NDArray[np.float64]
RESAMPLES = 200
ESTIMATORS = ("histogram", "smoothed")
FIT_DECADES = 3.0  # last decades of evaluations, to which the power law is fitted


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


@dataclass(frozen=True)
class MDCurve:
    """Forward KLD of an MD estimator against evaluations, from independent replicates.

    Attributes
    ----------
    evaluations, forward_kld
        One entry per scored estimate.
    replicate, stratum
        The independent simulation that an estimate is from (estimates of one simulation are correlated), and the
        group of simulations with the same number of walkers.
    """

    evaluations: Array
    forward_kld: Array
    replicate: NDArray[np.integer]
    stratum: NDArray[np.integer]

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> MDCurve:
        """Build from columns run, walkers, evaluations, replicate, forward_kld; non-finite KLDs are skipped."""
        kld = table["forward_kld"].astype(float)
        table = table[np.isfinite(kld) & (kld > 0)]
        identity = table.groupby(["run", "walkers", "replicate"]).ngroup()
        return cls(
            table["evaluations"].to_numpy(float),
            table["forward_kld"].to_numpy(float),
            identity.to_numpy(np.int64),
            table["walkers"].to_numpy(np.int64),
        )

    @cached_property
    def _spread(self) -> float:
        """Typical relative standard deviation between replicates; nan if no bin has four replicates."""
        _, _, spread, number = self._bins
        known = spread[number >= 4]
        return float(np.median(known)) if len(known) else math.nan

    @cached_property
    def _bins(self) -> tuple[Array, Array, Array, NDArray[np.integer]]:
        """Evaluations, mean, relative spread of replicates and their number, in bins of an eighth of a decade."""
        bins, where = np.unique(np.round(8 * np.log10(self.evaluations)).astype(int), return_inverse=True)
        replicates, who = np.unique(self.replicate, return_inverse=True)
        shape = len(bins), len(replicates)
        cell = where * shape[1] + who
        counts = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
        sums = np.bincount(cell, self.forward_kld, shape[0] * shape[1]).reshape(shape)
        present = counts > 0
        values = np.where(present, sums / np.maximum(counts, 1), 0.0)
        number = present.sum(1)
        mean = values.sum(1) / number
        square = (np.where(present, values - mean[:, None], 0.0) ** 2).sum(1)
        spread = np.where(number > 1, np.sqrt(square / np.maximum(number - 1, 1)) / mean, np.nan)
        middle = np.exp(np.bincount(where, np.log(self.evaluations)) / counts.sum(1))
        return middle, mean, spread, number

    @cached_property
    def table(self) -> pd.DataFrame:
        """Mean, 95 % interval of the mean and number of replicates in bins of an eighth of a decade.

        The interval comes from the spread between replicates. Bins with fewer than four replicates use the typical
        relative spread of the other bins.
        """
        evaluations, mean, spread, number = self._bins
        half = 1.96 * np.where(number >= 4, spread, self._spread) / np.sqrt(number)
        return pd.DataFrame(
            {
                "evaluations": evaluations,
                "forward_kld": mean,
                "replicates": number,
                "lower": mean * np.exp(-half),
                "upper": mean * np.exp(half),
            }
        )

    @cached_property
    def power_law(self) -> tuple[float, float]:
        """``(a, b)`` of ``KLD = a N^b``, fitted to the last decades of the table; nan with fewer than two rows."""
        evaluations, mean, _, number = self._bins
        last = evaluations >= evaluations.max(initial=0.0) * 10**-FIT_DECADES
        if last.sum() < 2:
            return math.nan, math.nan
        weights = np.sqrt(np.minimum(number[last], 16))
        slope, intercept = np.polyfit(np.log(evaluations[last]), np.log(mean[last]), 1, w=weights)
        return float(np.exp(intercept)), float(slope)

    def evaluations_to(self, kld: float) -> tuple[float, bool]:
        """Return the evaluations to a forward KLD, and whether they are extrapolated by the power law."""
        a, b = self.power_law
        if not (math.isfinite(a) and b < 0 and kld > 0):
            return math.nan, False
        first, last, log_evaluations, minus_log_reached = self._reached
        if last <= kld <= first:
            at = np.interp(-math.log(kld), minus_log_reached, log_evaluations)
            return math.exp(at), False
        return float((kld / a) ** (1.0 / b)), kld < last

    @cached_property
    def _reached(self) -> tuple[float, float, Array, Array]:
        """Largest and smallest forward KLD, and the logarithms of evaluations and of the lowest KLD so far, negated."""
        reached = np.minimum.accumulate(self._bins[1])
        return float(reached[0]), float(reached[-1]), np.log(self._bins[0]), -np.log(reached)

    @cached_property
    def draws(self) -> list[MDCurve]:
        """Bootstrap samples of the curve."""
        random = np.random.default_rng(0)
        return [self.resampled(random) for _ in range(RESAMPLES)]

    def resampled(self, random: np.random.Generator) -> MDCurve:
        """Return a bootstrap sample: simulations drawn with replacement within each stratum.

        In a stratum of fewer than four simulations, each is instead scaled by a random factor of the typical spread.
        """
        typical = self._spread if math.isfinite(self._spread) else 0.0
        taken: list[NDArray[np.integer]] = []
        factors: list[float] = []
        for members in self._strata:
            few = len(members) < 4
            chosen = range(len(members)) if few else random.choice(len(members), size=len(members))
            taken += [members[which] for which in chosen]
            factors += [math.exp(typical * random.normal()) if few else 1.0 for _ in chosen]
        sizes = [len(rows) for rows in taken]
        rows = np.concatenate(taken)
        return MDCurve(
            self.evaluations[rows],
            np.repeat(factors, sizes) * self.forward_kld[rows],
            np.repeat(np.arange(len(taken)), sizes),
            self.stratum[rows],
        )

    @cached_property
    def _strata(self) -> list[list[NDArray[np.integer]]]:
        """Rows of each simulation, in one list per stratum."""
        return [
            [np.flatnonzero(self.replicate == known) for known in np.unique(self.replicate[self.stratum == stratum])]
            for stratum in np.unique(self.stratum)
        ]


def md_curves(runs: Sequence[FoundRun]) -> dict[str, MDCurve]:
    """Return the curves of plain MD by estimator, from runs of method "md" on one version of one system.

    Only the preset with the most evaluations is used. Runs without auxiliary estimates give one curve, "histogram".
    External results are left out, whatever their method is called: nobody counted their evaluations.
    """
    runs = [run for run in runs if run.record.origin == "run"]
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
    sides = [run.auxiliary.assign(run=run.record.seed) for run in chosen if run.auxiliary is not None]
    everything = pd.concat([own, *sides], ignore_index=True)
    present = {name.partition("/")[0] for name in everything["name"]}
    return {
        estimator: MDCurve.from_table(longest_walkers(everything, estimator))
        for estimator in ESTIMATORS
        if estimator in present
    }
