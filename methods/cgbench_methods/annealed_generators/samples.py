"""Samples of the flow with their weights at the temperature of the PMF, and the estimate from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cgbench.contracts.maps import Estimate
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.annealed_generators.config import EstimateConfig
from cgbench_methods.annealed_generators.estimate import WeightedMaps
from cgbench_methods.annealed_generators.schedules import Buffer
from cgbench_methods.lib.flows.build import UnconditionalFlow
from cgbench_methods.lib.flows.joint import JointTarget

__all__ = ["FlowSamples"]


class FlowSamples:
    """Draws and evaluates samples of a flow that changes, and collects them for the estimate.

    Parameters
    ----------
    problem, streams
        As for `cgbench.contracts.method.Method`.
    target, flow
        The density of the PMF, and what draws the samples.
    config
        Settings of the estimate.

    Attributes
    ----------
    maps
        The weighted samples, by map.
    log_weights
        Those of the samples of the present flow, one tensor for each set.
    stale
        Whether the flow has changed since its samples were drawn.
    drawn, dropped
        Number of samples, and of those without a weight.
    """

    def __init__(
        self, problem: Problem, streams: Streams, target: JointTarget, flow: UnconditionalFlow, config: EstimateConfig
    ) -> None:
        self.problem, self.streams, self.target, self.flow, self.config = problem, streams, target, flow, config
        self.maps = self._empty_maps()
        self.log_weights: list[torch.Tensor] = []
        self.stale = True
        self.dropped = self.drawn = 0
        self._last: PMF | Estimate | None = None
        self._last_drawn = -1

    def _empty_maps(self) -> WeightedMaps:
        return WeightedMaps(self.problem.maps, self.problem.states, self.config)

    def draw(self, count: int, *, anew: bool) -> Buffer:
        """Draw samples of the flow, evaluate them, and add them to the estimate; `anew` as for `add`."""
        z, log_q = self.flow.sample_with_log_prob(count, self.streams.torch("flow samples", self.problem.device))
        z = self.target.wrap(z)
        part = Buffer(z, log_q, *self.target.parts(z))
        self.add(part, anew=anew)
        return part

    def add(self, part: Buffer, *, anew: bool) -> None:
        """Add samples to the estimate.

        Parameters
        ----------
        part
            The samples, evaluated.
        anew
            Whether samples of earlier flows are left out, if the flow has changed.
        """
        if self.stale:
            if anew:
                self.maps = self._empty_maps()
            self.maps.forget_flow()
            self.log_weights, self.stale = [], False
        log_weights = part.log_weights()
        count = len(part.z)
        broken = ~(part.z.isfinite().all(dim=1) & part.log_q.isfinite())
        unusable = int((~log_weights.isfinite()).sum())
        self.problem.report_anomaly("unusable_sample", broken.sum(), count)
        self.problem.report_anomaly("empty_batch", int(unusable == count), 1)
        self.drawn, self.dropped = self.drawn + count, self.dropped + unusable
        self.log_weights.append(log_weights.float().cpu())
        self.maps.add(self.target.split(part.z)[0], log_weights, count)

    def estimate(self) -> PMF | Estimate:
        """Return the estimate, which is computed again only after new samples."""
        if self._last is None or self._last_drawn != self.drawn:
            self._last, self._last_drawn = self.maps.estimate(), self.drawn
        return self._last

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and weights so far; `drawn` and `dropped` are with the counts of the method."""
        return {"maps": self.maps.state_dict(), "log_weights": list(self.log_weights), "stale": self.stale}

    def load_state_dict(self, state: Mapping[str, Any], dropped: int, drawn: int) -> None:
        """Restore what `state_dict` returned, and the counts."""
        self.maps.load_state_dict(state["maps"])
        self.log_weights, self.stale = list(state["log_weights"]), bool(state["stale"])
        self.dropped, self.drawn = dropped, drawn
        self._last, self._last_drawn = None, -1
