"""Variances of weighted samples about the fit of the PMF: a factor by group, a smooth field over the CVs, a dispersion.

Flows are worse in the first rounds and where the PMF is high. A sample counts in the fit by the inverse of its
variance.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.cgflow.harmonic.fit.cells import smooth, sum_by
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate
from cgbench_methods.lib.lengths import units

__all__ = ["Variances"]

WIDTH = 0.05  # standard deviation of the kernel that smooths the field, as a fraction of the domain
PRIOR = 10.0  # number of samples of mean variance that the field assumes everywhere
SCORES = (8000, 1000)  # samples used to measure the dispersion: with up to two CVs, and with more, of many modes


class Variances:
    """Variances of the ratios ``w exp(A)`` and of the weighted slopes, as factors.

    Parameters
    ----------
    cvs
        Collective variables and their grid.

    Attributes
    ----------
    by_group
        Relative variance of the weights, then variances of the weighted slopes in kT squared, per square of a length in
        `cgbench_methods.lib.lengths` ``[groups, 1 + cvs]``.
    field
        Factor of each cell for the same columns ``[cells, 1 + cvs]``.
    dispersion
        Factor of all variances.
    """

    def __init__(self, cvs: CollectiveVariables) -> None:
        self.cvs = cvs
        self.by_group = torch.zeros(0, 1 + len(cvs), dtype=torch.float64)
        self.field = torch.ones(math.prod(cvs.bins), 1 + len(cvs), dtype=torch.float64)
        self.dispersion = 1.0
        self._units = units(cvs)

    def add_group(self) -> None:
        """Add a group, whose slopes count little until they are measured."""
        first = torch.full((1, self.by_group.shape[1]), 100.0, dtype=torch.float64)
        first[0, 0] = 1.0
        self.by_group = torch.cat([self.by_group, first])

    def of(self, group: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """Return the variances of samples of given groups and cells, each ``[n]``; slopes in the unit of the CVs.

        Returns
        -------
        torch.Tensor
            ``[n, 1 + cvs]``.
        """
        variances = self.dispersion * self.by_group[group] * self.field[cell]
        variances[:, 1:] /= self._units.square()
        return variances

    def measure(self, group: torch.Tensor, cell: torch.Tensor, kept: torch.Tensor, residual: torch.Tensor) -> None:
        """Measure the variances by group and as a field.

        Parameters
        ----------
        group, cell
            Of each sample ``[n]``.
        kept
            ``w exp(A)`` without the excess of large weights ``[n]``. If it entered, places where large weights happen
            to be missing would have small variances, hence a large influence, and A would be too high.
        residual
            ``d ln w/ds + dA/ds`` ``[n, cvs]``; NaN where unknown.
        """
        residual = residual * self._units
        squares = torch.cat([(kept - 1.0)[:, None], kept[:, None] * residual], dim=1).square()
        known = squares.isfinite()
        squares = torch.where(known, squares, 0.0)
        number = sum_by(group, known.double(), len(self.by_group))
        near = smooth(self.cvs, sum_by(cell, known.double(), len(self.field)), WIDTH)
        for _ in range(2):
            scaled = torch.where(known, squares / self.field[cell], 0.0)
            mean_square = sum_by(group, scaled, len(self.by_group)) / number.clamp(min=1.0)
            measured = torch.where(number > 0, mean_square, self.by_group)
            self.by_group = measured.clamp(0.02, 1e6)
            scaled = torch.where(known, squares / self.by_group[group], 0.0)
            around = smooth(self.cvs, sum_by(cell, scaled, len(self.field)), WIDTH)
            self.field = ((around + PRIOR) / (near + PRIOR)).clamp(0.05, 1e3)

    def measure_dispersion(
        self,
        surrogate: FourierSurrogate,
        s: torch.Tensor,
        variance: torch.Tensor,
        ratio: torch.Tensor,
        residual: torch.Tensor,
    ) -> None:
        """Measure the dispersion, the factor by which all variances grow, as in quasi-likelihood.

        It is the sum of the squared scores of the samples over the sum of their information, both in the metric of the
        posterior covariance. It exceeds 1 if influential samples (those far from others) scatter more than the
        variances by group and field predict, or if a sample's weight and slopes are correlated.

        Parameters
        ----------
        surrogate
            The fitted model.
        s, variance, ratio, residual
            ``[n, cvs]``, as from `of` ``[n, 1 + cvs]``, ``w exp(A)`` with its excess spread ``[n]``, and as for
            `measure` ``[n, cvs]``.
        """
        scores = SCORES[len(self.cvs) > 2]
        chosen = slice(None, None, max(1, len(s) // scores))
        s, variance, ratio, residual = s[chosen], variance[chosen], ratio[chosen], residual[chosen]
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

    def state_dict(self) -> dict[str, Any]:
        """Return everything that is measured."""
        return {"group_variance": self.by_group, "field": self.field, "dispersion": self.dispersion}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.by_group, self.field = state["group_variance"], state["field"]
        self.dispersion = float(state["dispersion"])
