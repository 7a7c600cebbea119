"""Samples of (s, y) with joint weights, and the PMFs of maps and the populations of states from them.

The samples of a set have the same density pi(s) up to its constant, which is unknown. Hence each set is normalised by
the sum of its own weights. Sets are combined in proportion to their effective sample sizes. The bias of a normalised
set is of the order of the inverse of its effective sample size, and is far below the sampling error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.maps import Estimate
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench_methods.lib.estimators.importance import effective_sample_size, largest_share, pareto_tail_index
from cgbench_methods.lib.estimators.jackknife import Fitted, facts_of_maps
from cgbench_methods.lib.estimators.weighted import weighted_pmf

__all__ = ["JointSamples", "quality"]

Array = NDArray[np.float64]


def quality(log_weights: torch.Tensor) -> dict[str, Any]:
    """Return the quality of importance weights, given their logarithms ``[n]``.

    Returns
    -------
    dict
        ``effective_sample_size``, as a fraction of the samples; ``effective_samples``; ``largest_share``, share of the
        largest weight in the sum of all; ``pareto_k``, tail index of the weights.
    """
    share = float(effective_sample_size(log_weights))
    return {
        "effective_sample_size": share,
        "effective_samples": share * len(log_weights),
        "largest_share": largest_share(log_weights),
        "pareto_k": pareto_tail_index(log_weights),
    }


class JointSamples:
    """All samples so far: values of s, joint log-weights, set, and group of chains.

    Parameters
    ----------
    cvs
        Number of collective variables.
    groups
        Number of groups of chains, which are independent of each other.
    """

    def __init__(self, cvs: int, groups: int) -> None:
        self.groups = groups
        self.s = torch.zeros(0, cvs, dtype=torch.float64)
        self.log_weights = torch.zeros(0, dtype=torch.float64)
        self.group = torch.zeros(0, dtype=torch.long)
        self.set = torch.zeros(0, dtype=torch.long)
        self.sets = 0

    def __len__(self) -> int:
        return len(self.s)

    def clear(self) -> None:
        """Forget all samples."""
        self.s, self.log_weights = self.s[:0], self.log_weights[:0]
        self.group, self.set, self.sets = self.group[:0], self.set[:0], 0

    def add(self, s: torch.Tensor, log_weights: torch.Tensor, group: torch.Tensor, *, new_set: bool) -> int:
        """Add samples; skip weights that are NaN or infinite, and return how many are skipped.

        Parameters
        ----------
        s, log_weights, group
            ``[n, cvs]``, joint log-weights ``[n]``, and numbers of the groups of chains ``[n]``.
        new_set
            Whether pi(s) or the flow differs from that of the samples before.
        """
        if new_set or not self.sets:
            self.sets += 1
        usable = ~(log_weights.isnan() | log_weights.isposinf())  # minus infinity is a weight of zero
        self.s = torch.cat([self.s, s[usable]])
        self.log_weights = torch.cat([self.log_weights, log_weights[usable]])
        self.group = torch.cat([self.group, group[usable]])
        self.set = torch.cat([self.set, torch.full((int(usable.sum()),), self.sets - 1)])
        return int((~usable).sum())

    @property
    def weightless(self) -> bool:
        """Whether no sample has a weight above zero."""
        return not bool(self.log_weights.isfinite().any())

    def weights(self) -> torch.Tensor:
        """Return the weights ``[n]``, normalised by sets: the sum of a set is its effective sample size."""
        weights = torch.zeros_like(self.log_weights)
        for number in range(self.sets):
            own = self.set == number
            log = self.log_weights[own]
            if not bool(log.isfinite().any()):
                continue
            relative = (log - log.max()).exp()
            weights[own] = relative * (relative.sum() / relative.square().sum())
        return weights

    def estimate(
        self, problem: Problem, models: Sequence[Array], orders: Sequence[int]
    ) -> tuple[PMF | Estimate, dict[str, Any]]:
        """Return the PMFs of all maps with standard errors, the populations of the states, and facts for the record.

        What is fitted is the ratio of a map to that of a model, since it is smoother than the map.

        Parameters
        ----------
        problem
            Gives the maps and states.
        models
            Probabilities of each map under a model, positive, ``[*bins]``.
        orders
            Candidate orders of the fit of the ratio, as for `weighted_pmf`.

        Raises
        ------
        ValueError
            If no sample has a weight.
        """
        weights = self.weights().numpy()
        s, group = self.s.numpy(), self.group.numpy()
        if not weights.sum() > 0:
            raise ValueError("no sample has a weight")
        fitted = []
        for one, model in zip(problem.maps, models, strict=True):
            cvs = one.cvs
            bins = cvs.bin_index(one.select(s))
            inside, total = bins >= 0, math.prod(cvs.bins)
            own, of_bin = weights[inside], bins[inside]
            parts = np.bincount(group[inside] * total + of_bin, own, self.groups * total).astype(np.float64)
            squares = np.bincount(of_bin, own**2, total).astype(np.float64).reshape(cvs.bins)
            visits = np.bincount(of_bin[own > 0], minlength=total).astype(np.float64).reshape(cvs.bins)
            grouped = parts.reshape(self.groups, *cvs.bins)
            fitted.append(Fitted(*weighted_pmf(cvs, grouped, squares, visits, orders, np.log(model))))
        facts = facts_of_maps(problem.maps, fitted)
        pmfs = tuple(part.pmf for part in fitted)
        if problem.states is None:
            return (pmfs[0] if len(pmfs) == 1 else Estimate(pmfs)), facts
        shares = problem.states.counts(s, weights) / weights.sum()
        return Estimate(pmfs, dict(zip(problem.states.names, shares.tolist(), strict=True))), facts

    def state_dict(self) -> dict[str, Any]:
        """Return all samples."""
        return {
            "s": self.s,
            "log_weights": self.log_weights,
            "group": self.group,
            "set": self.set,
            "sets": self.sets,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.s, self.log_weights = state["s"], state["log_weights"]
        self.group, self.set, self.sets = state["group"], state["set"], int(state["sets"])
