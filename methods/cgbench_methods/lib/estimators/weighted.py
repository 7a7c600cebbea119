"""A smooth PMF from a weighted histogram, with errors from groups of independent samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench_methods.lib.estimators.exposure import exposure
from cgbench_methods.lib.estimators.jackknife import jackknife_fit

__all__ = ["weighted_pmf"]

Array = NDArray[np.float64]


def weighted_pmf(
    cvs: CollectiveVariables,
    parts: Array,
    squares: Array,
    visits: Array,
    orders: Sequence[int],
    offset: Array | None = None,
) -> tuple[PMF, dict[str, Any]]:
    """Fit a PMF to sums of weights; choose the order of the fit on one half of the groups against the other.

    The exposure of the fit follows from the weights (`exposure`): they need not be a function of these CVs. Standard
    errors are those of `cgbench_methods.lib.estimators.jackknife`.

    Parameters
    ----------
    cvs
        Domain and grid.
    parts
        Sums of weights of each group in each bin, ``[groups, *cvs.bins]``.
    squares, visits
        Sums of squared weights and numbers of samples in each bin, of shape ``cvs.bins``.
    orders
        Candidate orders of the fit, increasing.
    offset
        A known part of ``ln p`` of shape ``cvs.bins``; the fit corrects it.

    Returns
    -------
    pmf, facts
        The PMF, with errors if there are two groups or more, and numbers for the record.

    Raises
    ------
    ValueError
        If no sample is within the domain.
    """
    if not parts.sum() > 0:
        raise ValueError("no sample is within the domain of the collective variables")
    visited = exposure(cvs, parts.sum(0), squares, visits)
    whole = parts.sum(0)
    found = jackknife_fit(cvs, parts, visited, orders, lambda group: np.asarray(whole - parts[group]), offset)
    return found.pmf, found.facts | {"visited_part_of_the_grid": float((visits > 0).mean())}
