"""The spline stack of a conditional flow in the coordinates of a system."""

from __future__ import annotations

from typing import Any

import torch
from nflows.transforms.base import CompositeTransform, Transform

from cgbench.contracts.coordinates import Coordinates
from cgbench_methods.lib.flows.build import ConditionalFlow, spline_coupling_flow
from cgbench_methods.lib.flows.distributions import UniformGaussian

__all__ = ["conditional_flow"]

BOUND = 5.0  # linear tails of the splines begin here, in units of the base's standard deviation


def conditional_flow(coordinates: Coordinates, first: list[Transform], **couplings: Any) -> ConditionalFlow:
    """Build a flow from transforms next to the data, then spline couplings, then the base.

    Parameters
    ----------
    coordinates
        Say which dimensions are periodic, and their bounds.
    first
        Transforms next to the data.
    couplings
        Arguments of `cgbench_methods.lib.flows.build.spline_coupling_flow`; no couplings if `num_couplings` is 0.
    """
    periodic = coordinates.periodic
    bound = torch.full((len(periodic),), BOUND, dtype=torch.float64)
    lower = torch.where(periodic, coordinates.lower, -bound)
    upper = torch.where(periodic, coordinates.upper, bound)
    stages = list(first)
    if couplings.get("num_couplings", 0):
        stages.append(spline_coupling_flow(circular=periodic, lower=lower, upper=upper, **couplings))
    return ConditionalFlow(CompositeTransform(stages), UniformGaussian(lower, upper, periodic))
