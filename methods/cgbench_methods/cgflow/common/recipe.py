"""Base class of the recipes: their interface to the method, and the state that both keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Estimate
from cgbench.contracts.method import Activity
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.stages import Stages, configurations_of
from cgbench_methods.cgflow.common.training import Flow
from cgbench_methods.lib.estimators.importance import LARGEST_SHARE
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["Recipe"]


class Recipe(ABC):
    """A way to train the flow and to estimate the PMF with it.

    Parameters
    ----------
    problem, streams
        As for `cgbench.contracts.method.Method`.
    coordinates
        Name of the set of fine-grained coordinates.
    stage
        Name of the first stage.
    cvs
        The CVs with the grid of the recipe's models; by default that of the PMF.

    Attributes
    ----------
    target
        The energy as a function of s and y.
    stage
        Part of the algorithm that runs now, "done" at the end; `estimates` continues from it.
    history
        One entry of the record's diagnostics per round or iteration.
    stages
        Model PMFs during exploration, for figures.
    activity
        Status line and progress of the run.
    uncounted_in_publication
        As for `cgbench.contracts.method.Method`.
    """

    uncounted_in_publication: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        problem: Problem,
        coordinates: str,
        streams: Streams,
        stage: str,
        cvs: CollectiveVariables | None = None,
    ) -> None:
        self.problem, self.streams = problem, streams
        self.cvs, self.device = problem.cvs if cvs is None else cvs, problem.device
        self.target = ConditionalTarget(problem, problem.coordinate_set(coordinates))
        self.coordinates = self.target.coordinates
        self.stage = stage
        self.history: list[dict[str, Any]] = []
        self.stages = Stages(self.cvs)
        self.activity = Activity()

    @abstractmethod
    def estimates(self) -> Iterator[PMF | Estimate]:
        """Yield the current PMF wherever the recipe could stop."""

    @abstractmethod
    def diagnostics(self) -> dict[str, Any]:
        """Return JSON-able numbers for the record."""

    @abstractmethod
    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """Return named arrays for figures."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue after a yield."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def weighted_samples(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Draw samples of the flow with weights, as for `cgbench.contracts.method.Method`; None without them."""
        return None

    def _shared_state(self) -> dict[str, Any]:
        """Return the part of the state that both recipes have."""
        return {"stage": self.stage, "history": list(self.history), "snapshots": self.stages.state_dict()}

    def _load_shared_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `_shared_state` returned."""
        self.stage, self.history = str(state["stage"]), list(state["history"])
        self.stages.load_state_dict(state["snapshots"])

    def _report_largest_share(self, share: float) -> None:
        """Count a ``dominant_weight`` if the largest of a set of importance weights has too large a share."""
        self.problem.report_anomaly("dominant_weight", int(share > LARGEST_SHARE), 1)

    def _keep_stage(
        self,
        name: str,
        flow: Flow,
        features: Callable[[torch.Tensor], torch.Tensor],
        mean_and_std: tuple[torch.Tensor, torch.Tensor],
        threshold: float,
        points: torch.Tensor,
    ) -> None:
        """Add the present model PMF, and the points chosen from it, to `stages`; parameters as for `Stages.add`."""
        configurations = configurations_of(flow, self.coordinates, self.cvs, features, self.streams, self.device)
        self.stages.add(name, self.problem.evaluations, *mean_and_std, threshold, points, configurations)
