"""Labels of the PMF from importance weights, and what they say about their own quality."""

from __future__ import annotations

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

__all__ = [
    "WeightedSamples",
]

SOLE_WINNER = 0.999  # of the sum of all weights
LEVELS = (4.0, 8.0)  # kT: heights of the PMF that the quality of weights is reported by


def _log_sum_without_winners(log_weights: torch.Tensor) -> torch.Tensor:
    """``ln sum w``; where one weight is a thousand times all others together, without those that dominate.

    Such a weight would set the scale by which it is itself to be cut, and all others would count for nothing.
    """
    total = torch.logsumexp(log_weights, 0)
    if float((log_weights.max() - total).exp()) < SOLE_WINNER:
        return total
    rising = log_weights.sort().values
    running = rising.logcumsumexp(0)
    shared = ((rising - running).exp() <= LARGEST_SHARE).nonzero()
    return running[shared[-1, 0]] if len(shared) else total


class WeightedSamples:
    """All importance weights so far, and the slopes of their logarithms along the CVs.

    Labels come in groups of equal flow. The variance of a label about the fit, which decides how much it
    counts, is measured as a factor for its group times a smooth field over the CVs: flows are worse in
    their first rounds, and where the PMF is high. What that leaves
    unexplained is one more factor, `dispersion`.

    Parameters
    ----------
    cvs
        Collective variables and their grid.
    """

    WIDTH = 0.05  # of the domain: standard deviation of the kernel that smooths the field
    PRIOR = 10.0  # labels of mean variance, everywhere
    SCORES = 8000  # labels that the dispersion is measured with

    def __init__(self, cvs: CollectiveVariables) -> None:
        self.cvs = cvs
        dimensions = len(cvs)
        self.s = torch.zeros(0, dimensions, dtype=torch.float64)
        self.log_weights = torch.zeros(0, dtype=torch.float64)
        self.slopes = torch.zeros(0, dimensions, dtype=torch.float64)
        self.group = torch.zeros(0, dtype=torch.long)
        self.groups = 0
        # relative variance of the weights, then variance of the weighted slopes in kT squared per unit squared
        self.group_variance = torch.zeros(0, 1 + dimensions, dtype=torch.float64)
        self.field = torch.ones(int(np.prod(cvs.bins)), 1 + dimensions, dtype=torch.float64)
        self.dispersion = 1.0

    def __len__(self) -> int:
        return len(self.s)

    def add(
        self, s: torch.Tensor, log_weights: torch.Tensor, slopes: torch.Tensor | None = None, new_group: bool = True
    ) -> int:
        """Add samples; a new group unless told otherwise. Weights that are not a number, or infinite, are left out.

        Parameters
        ----------
        s, log_weights
            ``[n, cvs]`` and ``[n]``.
        slopes
            ``d ln w / ds`` along the flow, at fixed noise ``[n, cvs]``; their weighted mean is the mean force.
            Not a number (or None) where it is not known.

        Returns
        -------
        int
            How many were left out.
        """
        if new_group or not self.groups:
            self.groups += 1
            first = torch.full((1, 1 + s.shape[1]), 100.0, dtype=torch.float64)
            first[0, 0] = 1.0
            self.group_variance = torch.cat([self.group_variance, first])
        if slopes is None:
            slopes = torch.full_like(s, torch.nan)
        usable = ~(log_weights.isnan() | log_weights.isposinf())  # minus infinity is a weight of zero
        s, log_weights, slopes = s[usable], log_weights[usable], slopes[usable]
        self.s = torch.cat([self.s, s.detach()])
        self.log_weights = torch.cat([self.log_weights, log_weights.detach()])
        self.slopes = torch.cat([self.slopes, slopes.detach()])
        self.group = torch.cat([self.group, torch.full((len(s),), self.groups - 1)])
        return int((~usable).sum())

    @property
    def weightless(self) -> bool:
        """Whether no label has any weight, so that there is nothing to fit."""
        return not bool(self.log_weights.isfinite().any())

    def fit(self, surrogate: FourierSurrogate, truncation: float, sweeps: int = 2) -> None:
        """Fit the model to all labels, estimating the variance of each class from the fit.

        Labels are gathered in the cells of the PMF's grid, moved to the cell's centre along the slope of the
        model of the sweep before; then the cost of a fit does not grow with their number. A slope counts with
        its sample's weight: ``E[w (d ln w / ds + dA/ds)] = 0`` holds for any flow.

        Parameters
        ----------
        truncation
            Weights are cut at this multiple of the model of the sweep before.
        """
        occupied, cell = self.cvs.bin_index(self.s, nearest=True).unique(return_inverse=True)
        centres = torch.from_numpy(self.cvs.grid())[occupied]
        for _ in range(sweeps):
            ratio, residual, mean = self._compare(surrogate, truncation)
            at_centre = surrogate.mean_and_slopes(centres)
            at_centre[:, 0] += float(mean[0] - surrogate.mean(self.s[:1])[0])  # the same constant
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
            surrogate.fit_weights(centres, log_weights, total, slopes, precision)
            self._measure_variances(surrogate, truncation)
            self._measure_dispersion(surrogate, truncation)

    def variances(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """What the last fit found of the labels' variances: by group, by place, and the dispersion."""
        return self.group_variance, self.field, self.dispersion

    def set_variances(self, variances: tuple[torch.Tensor, torch.Tensor, float]) -> None:
        """Take back what `variances` returned."""
        self.group_variance, self.field, self.dispersion = variances

    def _variance(self) -> torch.Tensor:
        """Variance of each label, weight and slopes ``[n, 1 + cvs]``."""
        return self.dispersion * self.group_variance[self.group] * self.field[self.cvs.bin_index(self.s, nearest=True)]

    def _compare(
        self, surrogate: FourierSurrogate, truncation: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Weight over the model's ``[n]``, slope minus the model's ``[n, cvs]``, the model's mean ``[n]``."""
        model = surrogate.mean_and_slopes(self.s)
        mean = model[:, 0]
        # the constant that suits the weights best, so that truncation means something
        inverse = 1.0 / self._variance()[:, 0]
        excess = self.log_weights + mean
        usable = excess.isfinite()
        mean = mean - (_log_sum_without_winners(excess[usable] + inverse[usable].log()) - inverse.sum().log())
        ratio = (self.log_weights + mean).exp().clamp(max=truncation)
        return ratio, self.slopes + model[:, 1:], mean

    def _measure_variances(self, surrogate: FourierSurrogate, truncation: float) -> None:
        """Variance of the weights about the model, and of the weighted slopes, by group and place."""
        ratio, residual, _ = self._compare(surrogate, truncation)
        squares = torch.cat([(ratio - 1.0)[:, None], ratio[:, None] * residual], dim=1).square()
        known = squares.isfinite()
        squares = torch.where(known, squares, 0.0)
        cell = self.cvs.bin_index(self.s, nearest=True)
        number = self._sum(self.group, known.double(), self.groups)
        near = self._smooth(self._sum(cell, known.double(), len(self.field)))
        for _ in range(2):
            scaled = torch.where(known, squares / self.field[cell], 0.0)
            mean = self._sum(self.group, scaled, self.groups) / number.clamp(min=1.0)
            measured = torch.where(number > 0, mean, self.group_variance)
            self.group_variance = measured.clamp(0.02, 1e6)
            scaled = torch.where(known, squares / self.group_variance[self.group], 0.0)
            around = self._smooth(self._sum(cell, scaled, len(self.field)))
            self.field = ((around + self.PRIOR) / (near + self.PRIOR)).clamp(0.05, 1e3)

    def _measure_dispersion(self, surrogate: FourierSurrogate, truncation: float) -> None:
        """Compare the scatter of the labels' scores with their information, as the posterior weighs both.

        Labels that decide much (those far from others) may scatter more than group and place let expect, and
        a weight and its slopes are one sample's. The ratio is the factor that all variances grow by, as in
        quasi-likelihood.
        """
        ratio, residual, _ = self._compare(surrogate, truncation)
        chosen = slice(None, None, max(1, len(self.s) // self.SCORES))
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

    def _smooth(self, counts: torch.Tensor) -> torch.Tensor:
        """Sum over the neighbourhood of each cell, ``[cells, columns]``."""
        widths = [self.WIDTH * bins for bins in self.cvs.bins]
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

    def quality(self, surrogate: FourierSurrogate, groups: int = 1) -> dict[str, Any]:
        """How good the weights of the last groups are, about the fit.

        Returns
        -------
        dict
            ``effective_sample_size``, as a fraction; the same by height of the PMF (below 4 kT, below 8 kT,
            above; None where there are no labels); ``largest_share``, of one weight in the sum of all; ``pareto_k``,
            the tail index of the weights.
        """
        recent = self.group >= self.groups - groups
        mean = surrogate.mean(self.s[recent])
        excess = self.log_weights[recent] + mean
        level = torch.bucketize(mean - surrogate.on_grid()[0].min(), torch.tensor(LEVELS, dtype=mean.dtype))
        by_level = [excess[level == number] for number in range(len(LEVELS) + 1)]
        return {
            "effective_sample_size": float(effective_sample_size(excess)),
            "effective_sample_size_by_level": [float(effective_sample_size(e)) if len(e) else None for e in by_level],
            "largest_share": largest_share(excess),
            "pareto_k": pareto_tail_index(excess),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        return {
            "s": self.s,
            "log_weights": self.log_weights,
            "slopes": self.slopes,
            "group": self.group,
            "groups": self.groups,
            "group_variance": self.group_variance,
            "field": self.field,
            "dispersion": self.dispersion,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.s, self.log_weights, self.slopes = state["s"], state["log_weights"], state["slopes"]
        self.group, self.groups = state["group"], int(state["groups"])
        self.group_variance, self.field = state["group_variance"], state["field"]
        self.dispersion = float(state["dispersion"])
