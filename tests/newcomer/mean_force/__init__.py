"""Thermodynamic integration: the mean force at fixed values of one collective variable, and its integral."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field
from scipy.interpolate import CubicSpline

from cgbench.contracts.declarations import Given
from cgbench.contracts.method import Method, MethodConfig
from cgbench.contracts.pmf import PMF
from cgbench.errors import UserError


class MeanForceConfig(MethodConfig):
    """Settings, checked before anything runs."""

    nodes: int = Field(40, ge=4, description="values of the CV at which the mean force is sampled")
    walkers: int = Field(10, ge=1, description="at each node")
    equilibration_steps: int = Field(200, ge=0)
    steps: int = Field(500, ge=1, description="that count, of each walker")
    step_size: float = Field(1.0, gt=0, description="of a Metropolis proposal, in scaled units of y")
    estimates: int = Field(10, ge=1)


class MeanForce(Method):
    """Thermodynamic integration of the mean force along one collective variable."""

    name = "mean_force"
    requires = frozenset({"coordinates"})
    Config = MeanForceConfig
    given = (
        Given(
            collective_variables="nodes in the domain of one",
            coordinates="fine-grained ones, sampled",
            state_space="nothing outside is evaluated",
            gradient="along the CV",
            start="all walkers",
        ),
    )

    def __init__(self, problem: Any, config: MeanForceConfig, streams: Any) -> None:
        super().__init__(problem, config, streams)
        if len(problem.cvs) != 1:
            raise UserError(f"method mean_force integrates along one CV, not along {', '.join(problem.cvs.names)}")
        self.nodes = np.linspace(problem.cvs.lower[0], problem.cvs.upper[0], config.nodes)
        self.s = torch.from_numpy(self.nodes).repeat_interleave(config.walkers)[:, None]
        start = problem.coordinates.to_internal(problem.initial_configuration()[None])[1]
        self.state = {
            "y": start.repeat(len(self.s), 1),
            "sum": torch.zeros(config.nodes, dtype=torch.float64),
            "step": 0,
        }

    def energy_and_force(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energy of ``(s, y)`` with the volume element, in kT, and its derivative along s, ``[walkers]`` each."""
        s = self.s.clone().requires_grad_()
        x, log_abs_det_jacobian = self.problem.coordinates.to_cartesian(s, y)
        outside = ~self.problem.in_state_space(x.detach())
        self.problem.report_proposals(outside.sum(), len(x))
        energy = self.problem.reduced_energy(x) - log_abs_det_jacobian  # counted here, by the harness
        (force,) = torch.autograd.grad(energy.sum(), s)
        return energy.detach().masked_fill(outside, torch.inf), force[:, 0]

    def estimates(self) -> Iterator[PMF]:
        """Metropolis sampling of y at every node at once; an estimate now and then."""
        config, state, random = self.config, self.state, self.streams.torch("metropolis")
        every = max(1, config.steps // config.estimates)
        if "energy" not in state:
            with self.problem.phase("start"):
                state["energy"], state["force"] = self.energy_and_force(state["y"])
        while (done := state["step"] - config.equilibration_steps) < config.steps:
            proposal = state["y"] + config.step_size * torch.randn(
                state["y"].shape, generator=random, dtype=torch.float64
            )
            with self.problem.phase("equilibrate" if done < 0 else "sample"):
                energy, force = self.energy_and_force(proposal)
            accepted = torch.rand(len(energy), generator=random).log() < state["energy"] - energy
            state["y"] = torch.where(accepted[:, None], proposal, state["y"])
            state["energy"] = torch.where(accepted, energy, state["energy"])
            state["force"] = torch.where(accepted, force, state["force"])
            state["sum"] += (done >= 0) * state["force"].reshape(config.nodes, config.walkers).mean(1)
            state["step"] += 1
            if done >= 0 and (done + 1) % every == 0:
                free_energy = CubicSpline(self.nodes, state["sum"].numpy() / (done + 1)).antiderivative()
                yield PMF.from_function(self.problem.cvs, lambda s, integral=free_energy: integral(s[:, 0]))

    def state_dict(self) -> dict[str, Any]:
        """Enough to go on bit-identically; the random streams are the harness's business."""
        return self.state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self.state = dict(state)
