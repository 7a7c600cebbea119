"""Weighted samples of the flow: the fit of the PMF to all of them, and the quality of their weights.

Sample i has a weight w_i, with ``E[w_i] = exp(-A(s_i))``, and slopes ``b_i = d ln w_i/ds`` at fixed noise, with
``E[w_i (b_i + dA/ds)] = 0``. The model A minimises

    sum_i [ (w_i exp(A(s_i)) - A(s_i)) / v_i + 1/2 r_i |b_i + dA/ds(s_i)|^2 / u_i ] + prior,    r_i = w_i exp(A(s_i)).

The first term is the deviance of an exponential variable: it is unbiased for the mean weight. The second uses r_i of
the previous fit. The variances v_i of r_i, and u_i of r_i (b_i + dA/ds), one per CV, are measured from the fit itself
(`variances`). Large r_i are spread over the samples nearby (`large_weights`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.cgflow.harmonic.fit.cells import sum_by
from cgbench_methods.cgflow.harmonic.fit.large_weights import (
    log_sum_without_outliers,
    spread_excess,
    without_highest,
)
from cgbench_methods.cgflow.harmonic.fit.misfit import Misfit, misfit
from cgbench_methods.cgflow.harmonic.fit.variances import Variances
from cgbench_methods.lib.estimators.importance import effective_sample_size, largest_share, pareto_tail_index
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate

__all__ = ["WeightedSamples"]

LEVELS = (4.0, 8.0)  # kT; the quality of weights is reported below, between and above these heights of the PMF


@dataclass(frozen=True)
class Comparison:
    """Samples compared with the model of the PMF.

    Attributes
    ----------
    whole, ratio
        ``w exp(A)``, and the same with its excess spread ``[n]``.
    residual
        ``d ln w/ds + dA/ds`` ``[n, cvs]``.
    mean
        A ``[n]``, its free constant fitted to the samples.
    tail_error
        Standard error of A in kT from the excess ``[cells]``.
    """

    whole: torch.Tensor
    ratio: torch.Tensor
    residual: torch.Tensor
    mean: torch.Tensor
    tail_error: torch.Tensor


class WeightedSamples:
    """All samples so far: values of s, log-weights, and slopes of the log-weights along the CVs.

    A group holds the samples of one round of training, or all samples of the trained flow.

    Parameters
    ----------
    cvs
        Collective variables and their grid.

    Attributes
    ----------
    variances
        Variances of the samples about the fit.
    tail_error
        Standard error of A in kT from the excess of large weights, at the bins of the CVs' grid ``[cells]``; zero
        before the first fit.
    """

    def __init__(self, cvs: CollectiveVariables) -> None:
        self.cvs = cvs
        dimensions = len(cvs)
        self.s = torch.zeros(0, dimensions, dtype=torch.float64)
        self.log_weights = torch.zeros(0, dtype=torch.float64)
        self.slopes = torch.zeros(0, dimensions, dtype=torch.float64)
        self.well = torch.zeros(0, dtype=torch.long)
        self.group = torch.zeros(0, dtype=torch.long)
        self.groups = 0
        self.variances = Variances(cvs)
        self.tail_error = torch.zeros(math.prod(cvs.bins), dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.s)

    def add(
        self,
        s: torch.Tensor,
        log_weights: torch.Tensor,
        slopes: torch.Tensor | None = None,
        new_group: bool = True,
        well: torch.Tensor | None = None,
    ) -> int:
        """Add samples, as a new group by default; skip weights that are NaN or infinite.

        Parameters
        ----------
        s, log_weights
            ``[n, cvs]`` and ``[n]``.
        slopes
            ``d ln w / ds`` at fixed noise ``[n, cvs]``; their weighted mean is the mean force. NaN, or None for all,
            where unknown.
        well
            Number of the well ``[n]``; zero by default.

        Returns
        -------
        int
            Number of samples skipped.
        """
        if new_group or not self.groups:
            self.groups += 1
            self.variances.add_group()
        if slopes is None:
            slopes = torch.full_like(s, torch.nan)
        if well is None:
            well = torch.zeros(len(s), dtype=torch.long)
        usable = ~(log_weights.isnan() | log_weights.isposinf())  # minus infinity is a weight of zero
        s, log_weights, slopes = s[usable], log_weights[usable], slopes[usable]
        self.s = torch.cat([self.s, s.detach()])
        self.log_weights = torch.cat([self.log_weights, log_weights.detach()])
        self.slopes = torch.cat([self.slopes, slopes.detach()])
        self.well = torch.cat([self.well, well[usable]])
        self.group = torch.cat([self.group, torch.full((len(s),), self.groups - 1)])
        return int((~usable).sum())

    @property
    def weightless(self) -> bool:
        """Whether no sample has a weight above zero."""
        return not bool(self.log_weights.isfinite().any())

    def fit(self, surrogate: FourierSurrogate, truncation: float, sweeps: int = 2) -> None:
        """Fit the model to all samples, then measure their variances about it; repeat.

        The samples of each cell of the PMF's grid are averaged, after moving them to the cell's centre along the slope
        of the previous model: the cost of the fit does not grow with their number.

        Parameters
        ----------
        surrogate
            The model; its present state is the previous model of the first sweep.
        truncation
            What weights have above this multiple of the previous model is spread over the samples nearby.
        sweeps
            Number of repetitions.
        """
        cell = self._cells()
        occupied, row = cell.unique(return_inverse=True)
        centres = torch.from_numpy(self.cvs.grid())[occupied]
        for _ in range(sweeps):
            found = self._compare(surrogate, truncation)
            at_centre = surrogate.mean_and_slopes(centres)
            at_centre[:, 0] += float(found.mean[0] - surrogate.mean(self.s[:1])[0])  # the constant of the comparison
            variance = self._variance()
            total = sum_by(row, 1.0 / variance[:, 0], len(centres))
            log_weights = (sum_by(row, found.ratio / variance[:, 0], len(centres)) / total).log() - at_centre[:, 0]
            known = found.residual.isfinite().all(dim=1)
            slopes, precision = None, None
            if bool(known.any()):
                share = found.ratio[known, None] / variance[known, 1:]
                precision = sum_by(row[known], share, len(centres))
                moved = sum_by(row[known], share * found.residual[known], len(centres))
                slopes = at_centre[:, 1:] - moved / precision.clamp(min=1e-300)
            surrogate.fit_weights(centres, log_weights, total, slopes, precision, cells=occupied)
            found = self._compare(surrogate, truncation)
            kept = found.whole.clamp(max=truncation)
            self.variances.measure(self.group, cell, kept, found.residual)
            found = self._compare(surrogate, truncation)
            self.variances.measure_dispersion(surrogate, self.s, self._variance(), found.ratio, found.residual)
            self.tail_error = found.tail_error

    def informative(self, surrogate: FourierSurrogate, truncation: float) -> torch.Tensor:
        """Return ``w exp(A)``, its excess spread, divided by its second moment in the group ``[n]``.

        The sums of these values are about effective numbers of samples.
        """
        return self._compare(surrogate, truncation).ratio / (1.0 + self.variances.by_group[self.group, 0])

    def misfit(self, surrogate: FourierSurrogate, truncation: float) -> Misfit:
        """Return what the samples say against the model; see `cgbench_methods.cgflow.harmonic.fit.misfit`."""
        found, precision = self._compare(surrogate, truncation), 1.0 / self._variance()[:, 0]
        cells, bins = self._cells(), math.prod(self.cvs.bins)
        information = sum_by(cells, precision, bins).numpy().reshape(self.cvs.bins)
        residual = sum_by(cells, precision * (found.ratio - 1.0), bins).numpy().reshape(self.cvs.bins)
        p = torch.softmax(-surrogate.on_grid()[0], 0).numpy().reshape(self.cvs.bins)
        return misfit(self.cvs, surrogate.order, p, information, residual)

    def _cells(self) -> torch.Tensor:
        return self.cvs.bin_index(self.s, nearest=True)

    def _variance(self) -> torch.Tensor:
        """Return the variance of each sample's weight and slopes ``[n, 1 + cvs]``."""
        return self.variances.of(self.group, self._cells())

    def _compare(self, surrogate: FourierSurrogate, truncation: float) -> Comparison:
        """Compare the samples with the model, whose free constant is fitted to them first."""
        model = surrogate.mean_and_slopes(self.s)
        mean = model[:, 0]
        # what is large is so relative to the model, so its constant must fit the weights
        precision = 1.0 / self._variance()[:, 0]
        excess = self.log_weights + mean
        usable = excess.isfinite()
        mean = mean - (log_sum_without_outliers(excess[usable] + precision[usable].log()) - precision.sum().log())
        whole = without_highest((self.log_weights + mean).exp(), truncation)
        ratio, tail_error = spread_excess(self.cvs, self._cells(), whole, truncation, precision)
        return Comparison(whole, ratio, self.slopes + model[:, 1:], mean, tail_error)

    @property
    def last_group(self) -> torch.Tensor:
        """Which samples belong to the last group, boolean ``[n]``."""
        return self.group == self.groups - 1

    @property
    def late(self) -> torch.Tensor:
        """Which samples belong to the last quarter, boolean ``[n]``."""
        return torch.arange(len(self)) >= 3 * len(self) // 4

    def quality(self, surrogate: FourierSurrogate, chosen: torch.Tensor) -> dict[str, Any]:
        """Return the quality of the weights of some samples, relative to the fit.

        Parameters
        ----------
        chosen
            Which samples, boolean ``[n]``.

        Returns
        -------
        dict
            ``effective_sample_size``, as a fraction of the samples; ``effective_sample_size_by_level``, the same where
            the PMF is below 4 kT, from 4 to 8 kT, and above (None without samples); ``largest_share``, share of the
            largest weight in the sum of all; ``pareto_k``, tail index of the weights.
        """
        mean = surrogate.mean(self.s[chosen])
        excess = self.log_weights[chosen] + mean
        level = torch.bucketize(mean - surrogate.on_grid()[0].min(), torch.tensor(LEVELS, dtype=mean.dtype))
        by_level = [excess[level == number] for number in range(len(LEVELS) + 1)]
        return {
            "effective_sample_size": float(effective_sample_size(excess)),
            "effective_sample_size_by_level": [float(effective_sample_size(e)) if len(e) else None for e in by_level],
            "largest_share": largest_share(excess),
            "pareto_k": pareto_tail_index(excess),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all samples and variances."""
        return {
            "s": self.s,
            "log_weights": self.log_weights,
            "slopes": self.slopes,
            "well": self.well,
            "group": self.group,
            "groups": self.groups,
            "tail_error": self.tail_error,
            **self.variances.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.s, self.log_weights, self.slopes = state["s"], state["log_weights"], state["slopes"]
        self.well = state.get("well", torch.zeros(len(self.s), dtype=torch.long))
        self.group, self.groups = state["group"], int(state["groups"])
        self.tail_error = state.get("tail_error", self.tail_error)
        self.variances.load_state_dict(state)
