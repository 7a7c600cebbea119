"""Large weights: what a ratio of a weight to the model has above a limit is spread over the samples nearby.

One weight of hundreds of times the mean would bend the model of the PMF A where it happens to lie. To cut it is to lose
its mass, and A becomes too high. Hence a ratio r_i above the `truncation` keeps this much, and the excess is spread
over the samples nearby: all their ratios are multiplied by ``1 + e(s)``, with e(s) the excess around s over what was
kept there. Only what is above ``3 sqrt(n)``, for n samples, is lost: the bias of a cut that grows as sqrt(n) is no
larger than the statistical error (Ionides, J. Comput. Graph. Stat. 17, 295, 2008). The excess is the mass of few
samples, so its own error is stated apart.
"""

from __future__ import annotations

import math

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.cgflow.harmonic.fit.cells import smooth, sum_by
from cgbench_methods.lib.estimators.importance import LARGEST_SHARE

__all__ = ["log_sum_without_outliers", "spread_excess", "without_highest"]

OUTLIER_SHARE = 0.999  # share of one weight in the sum of all, from which on it is an outlier
HIGHEST = 3.0  # times the square root of the number of samples; larger ratios are cut
WIDTH = 0.1  # standard deviation of the kernel that spreads the excess, as a fraction of the domain


def log_sum_without_outliers(log_weights: torch.Tensor) -> torch.Tensor:
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


def without_highest(ratio: torch.Tensor, truncation: float) -> torch.Tensor:
    """Cut ratios ``[n]`` where they are so large that even their spread mass would be mostly noise."""
    return ratio.clamp(max=max(truncation, HIGHEST * math.sqrt(len(ratio))))


def spread_excess(
    cvs: CollectiveVariables, cell: torch.Tensor, whole: torch.Tensor, truncation: float, precision: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut ratios at the truncation, and spread the excess over the samples nearby.

    Parameters
    ----------
    cvs
        The CVs with their grid.
    cell
        Cell of each sample ``[n]``.
    whole
        Ratios ``[n]``.
    truncation
        The limit.
    precision
        Weight of each sample in sums over samples, as in the fit ``[n]``.

    Returns
    -------
    ratio, error
        The new ratios ``[n]``, and the standard error of A in kT from the excess ``[cells]``.
    """
    kept = whole.clamp(max=truncation)
    excess = whole - kept
    cells = math.prod(cvs.bins)
    if not bool((excess > 0).any()):
        return whole, torch.zeros(cells, dtype=whole.dtype)
    parts = torch.stack([kept, excess, excess**2 * precision], dim=1) * precision[:, None]
    around = smooth(cvs, sum_by(cell, parts, cells), WIDTH).clamp(min=0.0)
    near, added, squares = around.unbind(1)
    near = near.clamp(min=1e-300)
    return kept * (1.0 + added / near)[cell], squares.sqrt() / (near + added)
