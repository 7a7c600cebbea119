"""The quadratic response: an invertible map without change of volume, that follows a bent density."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nflows.transforms.base import CompositeTransform

from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench_methods.cgflow.common.training import path_gradient_step
from cgbench_methods.cgflow.harmonic.response import QuadraticResponse
from cgbench_methods.lib.estimators.importance import effective_sample_size
from cgbench_methods.lib.flows.build import ConditionalFlow
from cgbench_methods.lib.flows.distributions import UniformGaussian
from cgbench_methods.lib.flows.target import ConditionalTarget
from tests.methods.cgflow.harmonic.plain import MadeUp, Unconditional
from tests.methods.cgflow.harmonic.test_wells import CVS


def perturbed(used: list[bool], generator: torch.Generator) -> QuadraticResponse:
    response = QuadraticResponse(torch.tensor(used))
    with torch.no_grad():
        for parameter in response.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return response


@pytest.mark.parametrize("used", [[True] * 13, [True, False, True, True, False], [True], [False, False]])
def test_inverse_and_volume(used: list[bool], generator) -> None:
    response = perturbed(used, generator)
    noise = 2 * torch.randn(20, len(used), generator=generator, dtype=torch.float64)
    data, log_det = response.inverse(noise)
    back, also = response.forward(data)
    torch.testing.assert_close(back, noise)
    assert not log_det.any() and not also.any()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: response.inverse(z[None])[0][0]))(noise)
    torch.testing.assert_close(jacobian.det(), torch.ones(20, dtype=torch.float64))
    unused = ~torch.tensor(used)
    torch.testing.assert_close(data[:, unused], noise[:, unused])
    assert (sum(used) < 2) == torch.equal(data, noise)


def test_starts_as_the_identity(generator) -> None:
    noise = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    assert torch.equal(QuadraticResponse(torch.ones(9, dtype=torch.bool)).inverse(noise)[0], noise)


class Bent(MadeUp):
    """A stiff coordinate that follows the square of a soft one, and another that follows a product."""

    name, cvs = "bent", CVS
    names, angles, start = ("a", "b", "c", "d"), (False,) * 4, (0.0,) * 5

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        _, a, b, c, d = x.unbind(1)
        return 0.5 * (c**2 + d**2 + (b - 0.6 * (d**2 - 1)) ** 2 + (a - 0.5 * c * d) ** 2)


@pytest.mark.parametrize("divergence", ["jensen_shannon", "reverse_kl"])
def test_training_finds_the_response(divergence: str, generator) -> None:
    problem = Problem(Bent(), Ledger())
    target = ConditionalTarget(problem, problem.coordinates)
    periodic = torch.zeros(4, dtype=torch.bool)
    bound = torch.full((4,), 5.0, dtype=torch.float64)
    response = QuadraticResponse(~periodic)
    flow = ConditionalFlow(CompositeTransform([response, Unconditional()]), UniformGaussian(-bound, bound, periodic))
    optimiser = torch.optim.Adam(response.parameters(), lr=0.02)
    s = torch.zeros(200, 1, dtype=torch.float64)
    level = torch.full((200,), -2 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64)))  # -ln of the integral
    reached = []
    for _ in range(100):
        optimiser.zero_grad()
        _, log_weights, _ = path_gradient_step(
            flow,
            target,
            s,
            lambda t: t,
            generator,
            clip_norm=6.0,
            free_energy=level if divergence == "jensen_shannon" else None,
        )
        optimiser.step()
        reached.append(float(effective_sample_size(log_weights)))
    assert reached[0] < 0.75
    assert np.median(reached[-10:]) > 0.95
