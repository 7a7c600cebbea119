"""PMFs of all maps and populations of all states from weighted samples of a flow that changes while they are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Estimate, Map, States
from cgbench.contracts.pmf import PMF
from cgbench_methods.annealed_generators.config import EstimateConfig
from cgbench_methods.lib.estimators.jackknife import facts_of_maps
from cgbench_methods.lib.estimators.weighted_histogram import WeightedHistogram

__all__ = ["WeightedMaps"]

Array = NDArray[np.float64]


class WeightedMaps:
    """One weighted histogram for each map, and one over the states.

    Parameters
    ----------
    maps, states
        What is estimated; `states` may be None.
    config
        Settings of the estimate.
    """

    def __init__(self, maps: Sequence[Map], states: States | None, config: EstimateConfig) -> None:
        self.maps, self.states, self.config = maps, states, config
        self.histograms = [WeightedHistogram(one.cvs, config, config.groups) for one in maps]
        self.fits: dict[str, Any] = {}
        if states is not None:
            self._of_states = WeightedHistogram(_states_as_grid(states), config)

    def add(self, s: torch.Tensor, log_weights: torch.Tensor, drawn: int) -> float:
        """Add a set of samples; see `WeightedHistogram.add`. `s` has all collective variables of the system."""
        shares = [
            histogram.add(one.select(s), log_weights, drawn)
            for one, histogram in zip(self.maps, self.histograms, strict=True)
        ]
        if self.states is not None:
            index = self.states.assign(s.double().cpu().numpy())
            self._of_states.add(torch.from_numpy(index + 1.5)[:, None], log_weights, drawn)
        return shares[0]

    @property
    def sets(self) -> int:
        """Number of sets so far."""
        return self.histograms[0].sets

    @property
    def first(self) -> WeightedHistogram:
        """The histogram of the first map; its sums of weights are those of all."""
        return self.histograms[0]

    def estimate(self) -> PMF | Estimate:
        """Return the PMFs and populations; each PMF is the better of two estimates (`WeightedHistogram.better`)."""
        fitted = [histogram.better(self.config.fit_orders, self.config.fit_from) for histogram in self.histograms]
        self.fits = facts_of_maps(self.maps, fitted)
        return self._with_populations([one.pmf for one in fitted], weighted=True)

    def flow_estimate(self) -> PMF | Estimate:
        """Return the marginals of the flow, without weights."""
        return self._with_populations([histogram.flow_pmf() for histogram in self.histograms], weighted=False)

    def _with_populations(self, pmfs: Sequence[PMF], *, weighted: bool) -> PMF | Estimate:
        if self.states is None:
            return pmfs[0] if len(pmfs) == 1 else Estimate(tuple(pmfs))
        sums = self._of_states.halves.sum(0) if weighted else self._of_states.flow.sum(0)
        sums = sums if sums.sum() > 0 else self._of_states.flow.sum(0)
        shares = (sums / max(float(sums.sum()), 1e-300))[1:]
        return Estimate(tuple(pmfs), dict(zip(self.states.names, shares.tolist(), strict=True)))

    def forget_flow(self) -> None:
        """Forget the samples without weights."""
        for histogram in self._all():
            histogram.forget_flow()

    def _all(self) -> list[WeightedHistogram]:
        return self.histograms + ([] if self.states is None else [self._of_states])

    def state_dict(self) -> dict[str, Any]:
        """Return all sums."""
        return {"histograms": [histogram.state_dict() for histogram in self._all()], "fits": dict(self.fits)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for histogram, its in zip(self._all(), state["histograms"], strict=True):
            histogram.load_state_dict(its)
        self.fits = dict(state["fits"])


def _states_as_grid(states: States) -> CollectiveVariables:
    """Return one axis with a bin for each state, after one for samples that belong to none."""
    bins = len(states.names) + 1
    return CollectiveVariables(("state",), (0.0,), (float(bins),), (False,), (bins,))
