"""Weighted samples for several maps and states, where a frozen bias acts on other CVs than those of a map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Estimate, Map, States
from cgbench.contracts.pmf import PMF
from cgbench_methods.lib.estimators.importance import kish
from cgbench_methods.lib.estimators.weighted import weighted_pmf
from cgbench_methods.lib.sampling.visits import Visits

__all__ = ["MapsProduction"]

Array = NDArray[np.float64]


class MapsProduction:
    """Samples under a frozen bias, each with the weight ``exp(bias)``, in separate groups.

    Groups are sets of walkers if there are enough walkers, alternating stretches of time otherwise.

    Parameters
    ----------
    cvs
        All CVs of the system.
    maps, states
        What is estimated.
    walkers, groups
        Numbers of walkers and groups.
    """

    def __init__(
        self,
        cvs: CollectiveVariables,
        maps: Sequence[Map],
        states: States | None,
        walkers: int,
        groups: int,
    ) -> None:
        self.maps, self.states, self.groups = maps, states, groups
        self.offset: float | None = None  # subtracted from the bias, so that weights are of order 1
        self.group = np.arange(walkers) * groups // max(walkers, groups)
        self.in_time = walkers < groups
        sizes = [math.prod(one.cvs.bins) for one in maps]
        self.parts = [np.zeros((groups, size)) for size in sizes]
        self.squares = [np.zeros(size) for size in sizes]
        self.counts = [np.zeros(size) for size in sizes]
        self.in_states = np.zeros(len(states.names) if states else 0)
        self.moments = np.zeros(3)  # number, sum and sum of squares of the weights
        self.visits = Visits(cvs, walkers)
        self.facts: dict[str, Any] = {}

    def note(self, s: Array, bias: Array, stretch: int = 0) -> None:
        """Add samples of all walkers: CVs ``[walkers, cvs]``, not finite if unusable, and bias ``[walkers]`` in kT."""
        usable = np.isfinite(bias) & np.isfinite(s).all(1)
        if self.offset is None:
            if not usable.any():
                return
            self.offset = float(bias[usable].max())
        weights = np.exp(np.where(usable, bias - self.offset, 0.0))
        group = (self.group + stretch) % self.groups if self.in_time else self.group
        for number, one in enumerate(self.maps):
            index = one.cvs.bin_index(one.select(s))
            inside = usable & (index >= 0)
            np.add.at(self.parts[number], (group[inside], index[inside]), weights[inside])
            np.add.at(self.squares[number], index[inside], weights[inside] ** 2)
            np.add.at(self.counts[number], index[inside], 1.0)
        if self.states is not None:
            self.in_states += self.states.counts(s[usable], weights[usable])
        self.moments += usable.sum(), weights[usable].sum(), (weights[usable] ** 2).sum()
        self.visits.note(s)

    @property
    def effective_sample_size(self) -> float:
        """Kish's effective sample size of the weights; correlation in time is ignored."""
        return float(kish(self.moments[1], self.moments[2]))

    def estimate(self, orders: Sequence[int]) -> PMF | Estimate:
        """Fit a PMF to each map, with errors by the jackknife over groups; see `weighted_pmf`."""
        pmfs = []
        facts: dict[str, Any] = {}
        for number, one in enumerate(self.maps):
            shape = one.cvs.bins
            parts = self.parts[number].reshape(self.groups, *shape)
            squares, counts = self.squares[number].reshape(shape), self.counts[number].reshape(shape)
            pmf, facts[one.name] = weighted_pmf(one.cvs, parts, squares, counts, orders)
            pmfs.append(pmf)
        self.facts = {"maps": facts}
        if self.states is None:
            return pmfs[0] if len(pmfs) == 1 else Estimate(tuple(pmfs))
        shares = self.in_states / self.moments[1]
        return Estimate(tuple(pmfs), dict(zip(self.states.names, shares.tolist(), strict=True)))

    def state_dict(self) -> dict[str, Any]:
        """Return sums of weights and visits; the owner of the bias saves it."""
        return {
            "parts": [torch.from_numpy(each.copy()) for each in self.parts],
            "squares": [torch.from_numpy(each.copy()) for each in self.squares],
            "counts": [torch.from_numpy(each.copy()) for each in self.counts],
            "states": torch.from_numpy(self.in_states.copy()),
            "moments": torch.from_numpy(self.moments.copy()),
            "offset": self.offset,
            "visits": self.visits.state_dict(),
            "facts": self.facts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.parts, self.squares, self.counts = (
            [each.numpy().copy() for each in state[name]] for name in ("parts", "squares", "counts")
        )
        self.in_states, self.moments = state["states"].numpy().copy(), state["moments"].numpy().copy()
        self.offset, self.facts = state["offset"], dict(state["facts"])
        self.visits.load_state_dict(state["visits"])
