"""Weighted samples of the flow: the fit of the PMF to all of them, and the quality of their weights.

Sample i has a weight w_i, with ``E[w_i] = exp(-A(s_i))``, and slopes ``b_i = d ln w_i/ds`` at fixed noise, with
``E[w_i (b_i + dA/ds)] = 0``. The model A minimises

    sum_i [ (w_i exp(A(s_i)) - A(s_i)) / v_i + 1/2 r_i |b_i + dA/ds(s_i)|^2 / u_i ] + prior,    r_i = w_i exp(A(s_i)).

The first term is the deviance of an exponential variable: it is unbiased for the mean weight. The second uses r_i of
the previous fit. The variances v_i of r_i, and u_i of r_i (b_i + dA/ds), one per CV, are measured from the fit itself:
a factor for the group of the sample, times a smooth field over the CVs, times the dispersion.

*Large weights.* One weight of hundreds of times the mean would bend the model where it happens to lie. To cut it is to
lose its mass, and A becomes too high. Hence a ratio r_i above the `truncation` keeps this much, and the excess is
spread over the samples nearby: all their ratios are multiplied by ``1 + e(s)``, with e(s) the excess around s over what
was kept there. Only what is above ``3 sqrt(n)``, for n samples, is lost: the bias of a cut that grows as sqrt(n) is no
larger than the statistical error (Ionides, J. Comput. Graph. Stat. 17, 295, 2008). The excess is the mass of few
samples, so its own error is stated apart (`tail_error`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.estimators.importance import (
    LARGEST_SHARE,
    effective_sample_size,
    largest_share,
    pareto_tail_index,
)
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate

__all__ = ["WeightedSamples"]

OUTLIER_SHARE = 0.999  # share of one weight in the sum of all, from which on it is an outlier
HIGHEST = 3.0  # times the square root of the number of samples; larger ratios are cut
LEVELS = (4.0, 8.0)  # kT; the quality of weights is reported below, between and above these heights of the PMF


def _log_sum_without_outliers(log_weights: torch.Tensor) -> torch.Tensor:
    """Return ``ln sum w``; if one weight holds nearly all of the sum, omit the largest weights that dominate.

    Weights are truncated relative to this sum. A sum that consists of one outlier would leave the outlier whole, and
    would make all other weights negligible.
    """
    total = torch.logsumexp(log_weights, 0)
    if float((log_weights.max() - total).exp()) < OUTLIER_SHARE:
        return total
    rising = log_weights.sort().values
    running = rising.logcumsumexp(0)
    shared = ((rising - running).exp() <= LARGEST_SHARE).nonzero()
    return running[shared[-1, 0]] if len(shared) else total


class WeightedSamples:
    """All samples so far: values of s, log-weights, and slopes of the log-weights along the CVs.

    A group holds the samples of one round of training, or all samples of the trained flow. The variance of a sample
    about the fit is modelled as a factor for its group times a smooth field over the CVs, because flows are worse in
    the first rounds and where the PMF is high, times the `dispersion`, one factor for all samples.

    Parameters
    ----------
    cvs
        Collective variables and their grid.

    Attributes
    ----------
    tail_error
        Standard error of A in kT from the excess of large weights, at the bins of the CVs' grid ``[cells]``; zero
        before the first fit.
    """

    WIDTH = 0.05  # standard deviation of the kernel that smooths the field, as a fraction of the domain
    SPREAD = 0.1  # the same of the kernel that spreads the excess of large weights
    PRIOR = 10.0  # number of samples of mean variance that the field assumes everywhere
    SCORES = (8000, 1000)  # samples used to measure the dispersion: with up to two CVs, and with more, of many modes

    def __init__(self, cvs: CollectiveVariables) -> None:
        self.cvs = cvs
        dimensions = len(cvs)
        self.s = torch.zeros(0, dimensions, dtype=torch.float64)
        self.log_weights = torch.zeros(0, dtype=torch.float64)
        self.slopes = torch.zeros(0, dimensions, dtype=torch.float64)
        self.well = torch.zeros(0, dtype=torch.long)
        self.group = torch.zeros(0, dtype=torch.long)
        self.groups = 0
        # relative variance of the weights, then variance of the weighted slopes in kT squared per unit squared
        self.group_variance = torch.zeros(0, 1 + dimensions, dtype=torch.float64)
        self.field = torch.ones(int(np.prod(cvs.bins)), 1 + dimensions, dtype=torch.float64)
        self.dispersion = 1.0
        self.tail_error = torch.zeros(len(self.field), dtype=torch.float64)

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
            first = torch.full((1, 1 + s.shape[1]), 100.0, dtype=torch.float64)
            first[0, 0] = 1.0
            self.group_variance = torch.cat([self.group_variance, first])
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
        occupied, cell = self.cvs.bin_index(self.s, nearest=True).unique(return_inverse=True)
        centres = torch.from_numpy(self.cvs.grid())[occupied]
        for _ in range(sweeps):
            ratio, residual, mean = self._compare(surrogate, truncation)
            at_centre = surrogate.mean_and_slopes(centres)
            at_centre[:, 0] += float(mean[0] - surrogate.mean(self.s[:1])[0])  # the constant of _compare
            variance = self._variance()
            total = self._sum(cell, 1.0 / variance[:, 0], len(centres))
            log_weights = (self._sum(cell, ratio / variance[:, 0], len(centres)) / total).log() - at_centre[:, 0]
            known = residual.isfinite().all(dim=1)
            slopes, precision = None, None
            if bool(known.any()):
                share = ratio[known, None] / variance[known, 1:]
                precision = self._sum(cell[known], share, len(centres))
                moved = self._sum(cell[known], share * residual[known], len(centres))
                slopes = at_centre[:, 1:] - moved / precision.clamp(min=1e-300)
            surrogate.fit_weights(centres, log_weights, total, slopes, precision, cells=occupied)
            self._measure_variances(surrogate, truncation)
            self._measure_dispersion(surrogate, truncation)

    def informative(self, surrogate: FourierSurrogate, truncation: float) -> torch.Tensor:
        """Return ``w exp(A)``, its excess spread, divided by its second moment in the group ``[n]``.

        The sums of these values are about effective numbers of samples.
        """
        ratio, _, _ = self._compare(surrogate, truncation)
        return ratio / (1.0 + self.group_variance[self.group, 0])

    def variances(self) -> tuple[torch.Tensor, torch.Tensor, float, torch.Tensor]:
        """Return what the last fit measured: variances by group and as a field, the dispersion, the `tail_error`."""
        return self.group_variance, self.field, self.dispersion, self.tail_error

    def set_variances(self, variances: tuple[torch.Tensor, torch.Tensor, float, torch.Tensor]) -> None:
        """Restore what `variances` returned."""
        self.group_variance, self.field, self.dispersion, self.tail_error = variances

    def _variance(self) -> torch.Tensor:
        """Return the variance of each sample's weight and slopes ``[n, 1 + cvs]``."""
        cell = self.cvs.bin_index(self.s, nearest=True)
        return self.dispersion * self.group_variance[self.group] * self.field[cell]

    def _compare(
        self, surrogate: FourierSurrogate, truncation: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compare the samples with the model, whose free constant is fitted to them first.

        Returns
        -------
        ratio, residual, mean
            ``w exp(A)``, its excess spread ``[n]``; ``d ln w/ds + dA/ds`` ``[n, cvs]``; A ``[n]``.
        """
        model = surrogate.mean_and_slopes(self.s)
        mean = model[:, 0]
        # what is large is so relative to the model, so its constant must fit the weights
        inverse = 1.0 / self._variance()[:, 0]
        excess = self.log_weights + mean
        usable = excess.isfinite()
        mean = mean - (_log_sum_without_outliers(excess[usable] + inverse[usable].log()) - inverse.sum().log())
        whole = (self.log_weights + mean).exp().clamp(max=max(truncation, HIGHEST * math.sqrt(len(self))))
        ratio = self._with_spread_excess(whole, truncation, inverse)
        return ratio, self.slopes + model[:, 1:], mean

    def _with_spread_excess(self, whole: torch.Tensor, truncation: float, precision: torch.Tensor) -> torch.Tensor:
        """Cut ratios ``[n]`` at `truncation`, spread the excess over the samples nearby, and set `tail_error`.

        Sums over samples have the weights `precision` ``[n]``, as those of the fit.
        """
        kept = whole.clamp(max=truncation)
        excess = whole - kept
        if not bool((excess > 0).any()):
            self.tail_error = torch.zeros_like(self.tail_error)
            return whole
        cell = self.cvs.bin_index(self.s, nearest=True)
        parts = torch.stack([kept, excess, excess**2 * precision], dim=1) * precision[:, None]
        around = self._smooth(self._sum(cell, parts, len(self.tail_error)), self.SPREAD).clamp(min=0.0)
        near, added, squares = around.unbind(1)
        near = near.clamp(min=1e-300)
        self.tail_error = squares.sqrt() / (near + added)
        return kept * (1.0 + added / near)[cell]

    def _measure_variances(self, surrogate: FourierSurrogate, truncation: float) -> None:
        """Measure the variances of what is kept of ``w exp(A)``, and of its slopes' residuals, by group and as a field.

        The excess of large weights does not enter. Else places where large weights happen to be missing would have
        small variances, hence a large influence, and A would be too high.
        """
        _, residual, mean = self._compare(surrogate, truncation)
        kept = (self.log_weights + mean).exp().clamp(max=truncation)
        squares = torch.cat([(kept - 1.0)[:, None], kept[:, None] * residual], dim=1).square()
        known = squares.isfinite()
        squares = torch.where(known, squares, 0.0)
        cell = self.cvs.bin_index(self.s, nearest=True)
        number = self._sum(self.group, known.double(), self.groups)
        near = self._smooth(self._sum(cell, known.double(), len(self.field)), self.WIDTH)
        for _ in range(2):
            scaled = torch.where(known, squares / self.field[cell], 0.0)
            mean_square = self._sum(self.group, scaled, self.groups) / number.clamp(min=1.0)
            measured = torch.where(number > 0, mean_square, self.group_variance)
            self.group_variance = measured.clamp(0.02, 1e6)
            scaled = torch.where(known, squares / self.group_variance[self.group], 0.0)
            around = self._smooth(self._sum(cell, scaled, len(self.field)), self.WIDTH)
            self.field = ((around + self.PRIOR) / (near + self.PRIOR)).clamp(0.05, 1e3)

    def _measure_dispersion(self, surrogate: FourierSurrogate, truncation: float) -> None:
        """Measure the dispersion, the factor by which all variances grow, as in quasi-likelihood.

        It is the sum of the squared scores of the samples over the sum of their information, both in the metric of the
        posterior covariance. It exceeds 1 if influential samples (those far from others) scatter more than the
        variances by group and field predict, or if a sample's weight and slopes are correlated.
        """
        ratio, residual, _ = self._compare(surrogate, truncation)
        scores = self.SCORES[len(self.cvs) > 2]
        chosen = slice(None, None, max(1, len(self.s) // scores))
        variance = self._variance()[chosen]
        s, ratio, residual = self.s[chosen], ratio[chosen], residual[chosen]
        known = residual.isfinite().all(dim=1)
        whitened = surrogate.whitened_features(s)
        score = whitened * ((ratio - 1.0) / variance[:, 0])[:, None]
        expected = float((whitened.square().sum(1) / variance[:, 0]).sum())
        for axis in range(residual.shape[1]):
            whitened = surrogate.whitened_features(s, axis)
            share = torch.where(known, ratio / variance[:, 1 + axis], 0.0)
            score += whitened * torch.where(known, share * residual[:, axis], 0.0)[:, None]
            expected += float((whitened.square().sum(1) * share).sum())
        factor = float(score.square().sum()) / expected
        self.dispersion = min(10.0, max(1.0, self.dispersion * factor))

    def _smooth(self, counts: torch.Tensor, width: float) -> torch.Tensor:
        """Sum over the neighbourhood of each cell, with a Gaussian kernel of height 1; ``[cells, columns]``.

        Parameters
        ----------
        counts
            ``[cells, columns]``.
        width
            Standard deviation of the kernel as a fraction of the domain.
        """
        widths = [width * bins for bins in self.cvs.bins]
        modes = ["wrap" if periodic else "constant" for periodic in self.cvs.periodic]
        reach = float(np.prod([np.sqrt(2 * np.pi) * width for width in widths]))  # cells in the kernel
        columns = [
            gaussian_filter(column.numpy().reshape(self.cvs.bins), widths, mode=modes).reshape(-1) * reach
            for column in counts.T
        ]
        return torch.from_numpy(np.stack(columns, axis=1))

    @staticmethod
    def _sum(index: torch.Tensor, values: torch.Tensor, size: int) -> torch.Tensor:
        return torch.zeros(size, *values.shape[1:], dtype=values.dtype).index_add_(0, index, values)

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
            "group_variance": self.group_variance,
            "field": self.field,
            "dispersion": self.dispersion,
            "tail_error": self.tail_error,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.s, self.log_weights, self.slopes = state["s"], state["log_weights"], state["slopes"]
        self.well = state.get("well", torch.zeros(len(self.s), dtype=torch.long))
        self.group, self.groups = state["group"], int(state["groups"])
        self.group_variance, self.field = state["group_variance"], state["field"]
        self.dispersion = float(state["dispersion"])
        self.tail_error = state.get("tail_error", self.tail_error)
