"""Extra draws of s in rare wells: a bias on each collective variable (CV) that evens out the populations of its wells.

With the density p_i of CV i under the model, and P_i the same smoothed over about the width of a well,

    b(s) = share * sum_i min(ln(max P_i / P_i(s_i)), LARGEST)

is added to ``ln pi(s)``. Within a well P_i hardly changes, so draws there are as before. A well with few per cent of
the population of another is drawn more often, and combinations of such wells of several CVs more often still.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.ndimage import gaussian_filter1d

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Map
from cgbench_methods.cgflow.harmonic.pairs.marginals import marginal
from cgbench_methods.cgflow.harmonic.pairs.model import PairModel

__all__ = ["Balance"]

LARGEST = math.log(30.0)
LEAST = 1e-12  # probability of a bin


class Balance:
    """The bias, as a table for each CV.

    Parameters
    ----------
    cvs
        The CVs; the tables have their bins.
    share
        Factor of the bias; 0 for none.
    width
        Standard deviation of the smoothing, as a fraction of the domain.
    """

    def __init__(self, cvs: CollectiveVariables, share: float, width: float) -> None:
        self.cvs, self.share, self.width = cvs, share, width
        self.tables = [torch.zeros(bins, dtype=torch.float64) for bins in cvs.bins]

    def __call__(self, s: torch.Tensor) -> torch.Tensor:
        """Return the bias ``[batch]`` in kT at ``s [batch, cvs]``."""
        total = s.new_zeros(len(s))
        for axis, table in enumerate(self.tables):
            low, high, bins = self.cvs.lower[axis], self.cvs.upper[axis], self.cvs.bins[axis]
            place = ((s[:, axis] - low) * (bins / (high - low))).long().clamp(0, bins - 1)
            total += table[place]
        return total

    def update(self, model: PairModel, s: torch.Tensor, log_weights: torch.Tensor) -> None:
        """Follow a change of the model.

        Parameters
        ----------
        model
            The model of the PMF.
        s, log_weights
            Draws ``[n, cvs]`` and the logarithms of their weights under ``exp(-A_model)`` ``[n]``.
        """
        if not self.share:
            return
        for axis, bins in enumerate(self.cvs.bins):
            p = marginal(model, Map((axis,), self.cvs.subset((axis,))), s, log_weights).numpy()
            mode = "wrap" if self.cvs.periodic[axis] else "reflect"
            smooth = torch.from_numpy(gaussian_filter1d(p, self.width * bins, mode=mode)).clamp(min=LEAST)
            self.tables[axis] = self.share * (smooth.max() / smooth).log().clamp(max=LARGEST)

    def state_dict(self) -> dict[str, Any]:
        """Return the tables."""
        return {"tables": self.tables}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.tables = list(state["tables"])
