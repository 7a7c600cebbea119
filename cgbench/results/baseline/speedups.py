"""Speedups over plain MD: ratios of costs at equal forward KLD, with intervals and bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgbench.results.baseline.curve import DRAWS, MDCurve
from cgbench.results.statistics import FEWEST, quantiles, random_stream

__all__ = ["UNKNOWN", "Seeds", "Speedup"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Speedup:
    """Median speedup over seeds, with its 95 % interval.

    Attributes
    ----------
    value, low, high
        The median and the ends of the interval; `low` is 0 and `high` infinite where the MD curve gives no bound.
    bound
        "at least" if the true value may be larger because the MD curve ends above the score or the score is below the
        noise floor, "at most" if it may be smaller because the MD curve begins below the score; else "".
    """

    value: float
    low: float
    high: float
    bound: str = ""


UNKNOWN = Speedup(math.nan, math.nan, math.nan)


class Seeds:
    """The seeds of a row, for its speedups.

    The interval is a bootstrap: each draw takes seeds with replacement and a curve of resampled simulations. With
    fewer than three seeds, their own scatter says nothing; each is then kept and scaled by a random factor of the
    typical spread between simulations of MD, an assumption that the leaderboard marks.

    Parameters
    ----------
    scores
        Final forward KLD of each seed.
    noise_floor
        Of the reference. A score below counts as the noise floor, and its speedup is a lower bound.
    name
        Of the random stream, which is independent of that of the curve.
    """

    def __init__(self, scores: Array, noise_floor: float, name: str) -> None:
        self.scores = np.maximum(scores, noise_floor)
        self.bounded = scores < noise_floor
        random = random_stream("seeds", name)
        size = (DRAWS, len(scores))
        self.assumed = len(scores) < FEWEST
        self._drawn = (
            np.tile(np.arange(len(scores)), (DRAWS, 1)) if self.assumed else random.integers(size[1], size=size)
        )
        self._scatter = random.normal(size=size) if self.assumed else np.zeros(size)

    def at_scores(self, curve: MDCurve, costs: Array, cost_per_evaluation: float = 1.0) -> Speedup:
        """Return the speedup at the score that each seed reached.

        Parameters
        ----------
        curve
            The MD curve.
        costs
            Total cost of each seed: evaluations, or seconds.
        cost_per_evaluation
            Cost of one evaluation of MD, in the same unit.
        """
        if not np.isfinite(self.scores).all() or not (self.scores > 0).all():
            return UNKNOWN
        ends = curve.reached(self.scores)
        ends[self.bounded, 1] = np.inf
        levels = self.scores[self._drawn] * np.exp(self._spread(curve) * self._scatter)
        floor = self.scores[self.bounded].max(initial=0.0)
        drawn = curve.reached_in_draws(np.maximum(levels, floor))
        drawn[..., 1] = np.where(self.bounded[self._drawn], np.inf, drawn[..., 1])
        return _speedup(ends, costs, drawn, costs[self._drawn], cost_per_evaluation)

    def at_target(self, curve: MDCurve, target: float, costs: Array, cost_per_evaluation: float = 1.0) -> Speedup:
        """Return the speedup at a fixed forward KLD.

        Parameters
        ----------
        curve
            The MD curve.
        target
            The forward KLD.
        costs
            Cost of each seed to the target: evaluations, or seconds; infinite for a miss.
        cost_per_evaluation
            Cost of one evaluation of MD, in the same unit.
        """
        if not math.isfinite(float(np.median(costs))):
            return UNKNOWN
        ends, drawn = curve.to_target(target)
        scattered = costs[self._drawn] * np.exp(self._spread(curve) * self._scatter)
        return _speedup(ends[None], costs, drawn[:, None], scattered, cost_per_evaluation)

    def _spread(self, curve: MDCurve) -> float:
        return 0.0 if math.isnan(curve.spread) else curve.spread


def _speedup(md: Array, costs: Array, drawn_md: Array, drawn_costs: Array, cost_per_evaluation: float) -> Speedup:
    """Return the median of ``md / costs`` over seeds; the last axis of `md` holds the smallest and largest values."""
    seeds = cost_per_evaluation * _ratios(md, costs)
    least, most = (float(end) for end in np.median(seeds, axis=0))
    if math.isnan(least):
        return UNKNOWN
    ratios = cost_per_evaluation * np.median(_ratios(drawn_md, drawn_costs), axis=1)
    low, high = float(quantiles(ratios[:, 0])[0]), float(quantiles(ratios[:, 1])[1])
    if least == most:
        return Speedup(least, low, high)
    if least > 0 and np.isinf(seeds[:, 1]).any():
        return Speedup(least, low, high, "at least")
    return UNKNOWN if math.isinf(most) else Speedup(most, low, high, "at most")


def _ratios(md: Array, costs: Array) -> Array:
    """Divide; where neither MD nor the method reached the target, the ratio can be anything from 0 to infinity."""
    with np.errstate(invalid="ignore"):
        ratios: Array = md / costs[..., None]
    ratios[..., 0] = np.where(np.isinf(costs) & np.isinf(md[..., 0]), 0.0, ratios[..., 0])
    ratios[..., 1] = np.where(np.isinf(costs) & np.isinf(md[..., 1]), np.inf, ratios[..., 1])
    return ratios
