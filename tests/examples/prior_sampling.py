"""A method in one file: the PMF by importance sampling from a fixed Gaussian."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field

from cgbench.contracts.declarations import Given
from cgbench.contracts.method import Method, MethodConfig
from cgbench.contracts.pmf import PMF


class PriorSamplingConfig(MethodConfig):
    """Settings, checked before anything runs."""

    width: float = Field(2.0, gt=0, description="of the Gaussian that y is drawn from, in scaled units")
    rounds: int = Field(20, ge=1)
    samples_per_bin: int = Field(10, ge=1)


class PriorSampling(Method):
    """Draws y from one Gaussian at every bin centre and averages the Boltzmann weights."""

    name = "prior_sampling"
    requires = frozenset({"coordinates"})
    Config = PriorSamplingConfig
    given = (
        Given(
            collective_variables="bin centres of their domain",
            coordinates="fine-grained ones, drawn",
            state_space="nothing outside is evaluated",
            start="",
        ),
    )

    def __init__(self, problem: Any, config: PriorSamplingConfig, streams: Any) -> None:
        super().__init__(problem, config, streams)
        self.weights = np.zeros(problem.cvs.bins)
        self.round = 0

    def estimates(self) -> Iterator[PMF]:
        """Yield an estimate after each round; the harness scores it and writes a checkpoint."""
        coordinates, config = self.problem.coordinates, self.config
        base = torch.distributions.Normal(0.0, config.width)
        centres = torch.from_numpy(self.problem.cvs.grid()).repeat(config.samples_per_bin, 1)
        while self.round < config.rounds:
            noise = torch.randn(
                len(centres), len(coordinates.names), generator=self.streams.torch("samples"), dtype=torch.float64
            )
            y = config.width * noise
            x, log_abs_det_jacobian = coordinates.to_cartesian(centres, y)
            with self.problem.phase("sample"):  # evaluations are counted here, by the harness
                energy = self.problem.reduced_energy(x)
            outside = ~self.problem.in_state_space(x)  # no weight; the record has their number
            self.problem.report_proposals(outside.sum(), len(x))
            weights = torch.exp(log_abs_det_jacobian - energy - base.log_prob(y).sum(1)).masked_fill(outside, 0.0)
            self.weights += weights.reshape(config.samples_per_bin, *self.weights.shape).sum(0).numpy()
            self.round += 1
            self.status = f"round {self.round} of {config.rounds}"
            self.progress = self.round / config.rounds
            yield PMF(self.problem.cvs, self.weights + 1e-9 * self.weights.max())

    def state_dict(self) -> dict[str, Any]:
        """Enough to go on bit-identically; the random streams are the harness's business."""
        return {"weights": torch.from_numpy(self.weights), "round": self.round}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self.weights, self.round = state["weights"].numpy(), int(state["round"])
