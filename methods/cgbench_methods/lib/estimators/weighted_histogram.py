"""The PMF from weighted samples of a flow that changes while they are drawn.

Every set k of N_k samples of some flow q estimates the same unnormalised probabilities of bins,

    P_b^(k) = (1 / N_k) sum_{i in bin b} p(z_i) / q(z_i),

without bias. The sets are averaged with weights ``N_k E_k``, where E_k is the running mean of the effective sample
sizes (as fractions) of earlier sets. If it included the set itself, sets with a rare large weight would count less,
and the average would be biased.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import xlogy

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench_methods.lib.estimators.exposure import exposure
from cgbench_methods.lib.estimators.importance import effective_sample_size, kish
from cgbench_methods.lib.estimators.jackknife import Fitted, jackknife_fit
from cgbench_methods.lib.estimators.smoothing import WIDTHS, smooth, smoothed_pmf

__all__ = ["Regularisation", "WeightedHistogram"]

Array = NDArray[np.float64]
SHARES = (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 0.99)  # candidates: share of the flow's marginal in the estimate
LARGEST = 300.0  # logarithm of a weight; its square is still far from overflow in float64
RESCALE = 1e80  # mean weight above which all sums are rescaled
MEMORY = 0.9  # decay per set of the running means


class Regularisation(Protocol):
    """How weights and histograms are regularised."""

    @property
    def truncation(self) -> float | None:
        """Weights are clipped at this multiple of their mean."""

    @property
    def smoothing(self) -> bool:
        """Whether the histogram is smoothed."""

    @property
    def pseudocount(self) -> float:
        """Added to each bin."""


class WeightedHistogram:
    """Accumulates histograms of importance-weighted samples, set by set.

    The estimate is a mixture of the smoothed weighted histogram and the flow's own marginal. Kernel width and share of
    the flow maximise the likelihood of each half of the weighted samples under the other half. The flow dominates
    while a few weights do; later its share is negligible.

    Parameters
    ----------
    cvs
        Grid of the PMF.
    config
        Truncation, smoothing and regularisation.
    groups
        Number of groups of sets, an even number; set k belongs to group k modulo their number. Halves are the even and
        the odd groups.
    """

    def __init__(self, cvs: CollectiveVariables, config: Regularisation, groups: int = 2) -> None:
        self.cvs, self.config = cvs, config
        self.groups = np.zeros((groups, *cvs.bins))
        self.bin_squares, self.visits = np.zeros(cvs.bins), np.zeros(cvs.bins)
        self.flow = np.zeros((2, *cvs.bins))  # unweighted samples of the present flow
        self.flow_sums = [0.0, 0.0, 0.0]  # their number, sums of their weights and of the squares
        self.offset: float | None = None
        self.sets, self.precision, self.squares = 0, 0.0, 0.0
        self.expected = 0.0  # running effective sample size as a fraction
        self.mean = 0.0  # running mean weight, for truncation
        self.truncated = 0
        self.heaviest = 0.0  # largest contribution of one sample

    def add(self, s: torch.Tensor, log_weights: torch.Tensor, drawn: int) -> float:
        """Add one set of samples.

        Parameters
        ----------
        s
            Collective variables ``[samples, cvs]``.
        log_weights
            ``ln(p/q)`` ``[samples]``.
        drawn
            Number of samples drawn, including samples of weight zero that are not in `s`.

        Returns
        -------
        share
            Effective sample size of the set as a fraction of `drawn`.
        """
        usable = log_weights.isfinite()
        values = s.double().cpu().numpy()
        for half in range(2):
            self.flow[half] += self.cvs.histogram(values[half::2])
        self.flow_sums[0] += drawn
        share = float(effective_sample_size(log_weights[usable].double())) * float(usable.sum()) / drawn
        if share == 0.0:
            return share
        log_w = log_weights[usable].double().cpu().numpy()
        if self.offset is None:
            self.offset = float(log_w.max())
        w = np.exp(np.minimum(log_w - self.offset, LARGEST))
        self.flow_sums[1] += float(w.sum())
        self.flow_sums[2] += float((w**2).sum())
        if self.config.truncation is not None and self.sets:
            limit = self.config.truncation * self.mean
            self.truncated += int((w > limit).sum())
            w = np.minimum(w, limit)
        weight = drawn * max(self.expected if self.sets else share, 1e-9)
        inside = values[usable.cpu().numpy()]
        self.groups[self.sets % len(self.groups)] += weight / drawn * self.cvs.histogram(inside, w)
        self.bin_squares += (weight / drawn) ** 2 * self.cvs.histogram(inside, w**2)
        self.visits += self.cvs.histogram(inside)
        self.precision += weight
        self.squares += (weight / drawn) ** 2 * float((w**2).sum())
        self.heaviest = max(self.heaviest, weight / drawn * float(w.max()))
        mean = float(w.sum()) / drawn
        memory = MEMORY if self.sets else 0.0
        self.expected = memory * self.expected + (1.0 - memory) * share
        self.mean = memory * self.mean + (1.0 - memory) * mean
        self.sets += 1
        if self.mean > RESCALE:
            self._rescale()
        return share

    def _rescale(self) -> None:
        """Rescale all sums by the mean weight, before squares of weights overflow."""
        assert self.offset is not None
        unit, self.offset = self.mean, self.offset + float(np.log(self.mean))
        self.groups /= unit
        self.squares /= unit**2
        self.bin_squares /= unit**2
        self.heaviest /= unit
        self.flow_sums = [self.flow_sums[0], self.flow_sums[1] / unit, self.flow_sums[2] / unit**2]
        self.mean = 1.0

    @property
    def halves(self) -> Array:
        """Sums of the weights of the even and of the odd groups in each bin, ``[2, *bins]``."""
        return np.stack([self.groups[::2].sum(0), self.groups[1::2].sum(0)])

    @property
    def largest_share(self) -> float:
        """Share of the largest (truncated) weight in the sum of all."""
        total = float(self.halves.sum())
        return self.heaviest / total if total > 0 else 0.0

    @property
    def flow_effective_sample_size(self) -> float:
        """Effective sample size as a fraction of the samples drawn since the last `forget_flow`."""
        drawn, first, second = self.flow_sums
        return float(kish(first, second, drawn))

    @property
    def effective_samples(self) -> float:
        """Effective sample size of all samples."""
        return float(kish(self.halves.sum(), self.squares))

    @property
    def log_normalisation(self) -> float:
        """Estimate of ``ln Z`` with Z the integral of p; NaN before the first sample."""
        if self.offset is None:
            return float("nan")
        total = float(self.halves.sum())
        return self.offset + float(np.log(total / self.precision)) if total > 0 else -np.inf

    def pmf(self) -> PMF:
        """Return the estimate, positive on the whole grid."""
        total = self.halves.sum()
        if not self.config.smoothing:
            counts = self.halves.sum(0) * (self.effective_samples / total if total > 0 else 0.0)
            return PMF.from_counts(self.cvs, counts, self.config.pseudocount)
        flow = self.flow_pmf().probability
        if min(half.sum() for half in self.halves) == 0:
            return PMF(self.cvs, flow)
        width, share, _ = self._likeliest(flow)
        return PMF(self.cvs, (1.0 - share) * smooth(self.cvs, self.halves.sum(0) / total, width) + share * flow)

    def fitted(self, orders: Sequence[int]) -> Fitted:
        """Return a Fourier fit to the weighted histogram, with standard errors from a jackknife over groups.

        Parameters
        ----------
        orders
            Candidate orders of the fit.

        Raises
        ------
        ValueError
            If no sample has a weight within the grid.
        """
        total = self.groups.sum(0)
        if total.sum() <= 0:
            raise ValueError("no sample has a weight within the domain of the collective variables")
        visited = exposure(self.cvs, total, self.bin_squares, self.visits)

        def rest(group: int) -> Array:
            return np.asarray(np.delete(self.groups, group, axis=0).sum(0))

        return jackknife_fit(self.cvs, self.groups, visited, orders, rest)

    def better(self, orders: Sequence[int], fit_from: float) -> Fitted:
        """Return the Fourier fit or the smoothed histogram, by held-out likelihood.

        The histogram, mixed with the marginal of the flow, is better while few weights dominate. It has no standard
        errors.

        Parameters
        ----------
        orders
            Candidate orders of the fit.
        fit_from
            Effective samples from which the fit is tried.
        """
        if self.effective_samples >= fit_from:
            fitted = self.fitted(orders)
            if fitted.held_out <= self.held_out():
                return fitted
        return Fitted(self.pmf())

    def held_out(self) -> float:
        """Sum of the KL divergences of each half from the smoothed estimate of the other; infinite if one is empty."""
        halves = self.halves
        if min(half.sum() for half in halves) == 0:
            return math.inf
        _, _, score = self._likeliest(self.flow_pmf().probability)
        normalised = halves / halves.sum(axis=tuple(range(1, halves.ndim)), keepdims=True)
        return float(xlogy(normalised, normalised).sum()) - score

    def _likeliest(self, flow: Array) -> tuple[float, float, float]:
        """Choose kernel width in bins and share of the flow by the likelihood of each half under the other."""
        best, chosen = -np.inf, (WIDTHS[-1], SHARES[-1])
        normalised = [half / half.sum() for half in self.halves]
        for width in WIDTHS:
            smoothed = [smooth(self.cvs, half, width) for half in normalised]
            for share in SHARES:
                mixed = [np.log((1.0 - share) * known + share * flow) for known in smoothed]
                score = float((normalised[1] * mixed[0] + normalised[0] * mixed[1]).sum())
                if score > best:
                    best, chosen = score, (width, share)
        return *chosen, best

    def flow_pmf(self) -> PMF:
        """Return the smoothed histogram of the unweighted samples since the last `forget_flow`."""
        return smoothed_pmf(self.cvs, (self.flow[0], self.flow[1]), self.config.pseudocount)

    def forget_flow(self) -> None:
        """Reset the histogram of unweighted samples."""
        self.flow = np.zeros((2, *self.cvs.bins))
        self.flow_sums = [0.0, 0.0, 0.0]

    def state_dict(self) -> dict[str, Any]:
        """Return all sums."""
        return {
            "halves": torch.from_numpy(self.groups.copy()),
            "bins": torch.from_numpy(np.stack([self.bin_squares, self.visits])),
            "flow": torch.from_numpy(self.flow.copy()),
            "flow_sums": list(self.flow_sums),
            "offset": self.offset,
            "heaviest": self.heaviest,
            "numbers": [self.sets, self.precision, self.squares, self.expected, self.mean, self.truncated],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.groups, self.flow = state["halves"].numpy().copy(), state["flow"].numpy().copy()
        if "bins" in state:  # not in checkpoints of before, of methods that do not need them
            self.bin_squares, self.visits = state["bins"].numpy().copy()
        self.flow_sums = list(state["flow_sums"])
        self.offset = state["offset"]
        self.heaviest = float(state.get("heaviest", 0.0))
        self.sets, self.precision, self.squares, self.expected, self.mean, self.truncated = state["numbers"]
