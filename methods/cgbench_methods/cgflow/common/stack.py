"""Conditional flow in the coordinates of a system: first transforms, spline couplings, base distribution."""

from __future__ import annotations

from typing import Any

import torch
from nflows.transforms.base import CompositeTransform, Transform

from cgbench.contracts.coordinates import Coordinates
from cgbench_methods.lib.flows.build import ConditionalFlow, spline_coupling_flow
from cgbench_methods.lib.flows.distributions import UniformGaussian

__all__ = ["conditional_flow"]

BOUND = 5.0  # the splines' linear tails begin here, in standard deviations of the base


def conditional_flow(
    coordinates: Coordinates,
    first: list[Transform],
    periodic: torch.Tensor | None = None,
    wide: torch.Tensor | None = None,
    wide_share: float = 0.1,
    **couplings: Any,
) -> ConditionalFlow:
    """Build a flow: transforms next to the data, then spline couplings, then the base.

    The base is uniform in periodic dimensions and a standard Gaussian in the others.

    Parameters
    ----------
    coordinates
        The fine-grained coordinates, with their periodic dimensions and bounds.
    first
        Transforms next to the data.
    periodic
        Which dimensions are periodic, boolean ``[fine]``; by default those of the coordinates.
    wide, wide_share
        Positions of dimensions whose base has wide tails, none by default; and the share of these.
    couplings
        Arguments of `cgbench_methods.lib.flows.build.spline_coupling_flow`; there are no couplings if `num_couplings`
        is 0 or missing.
    """
    periodic = coordinates.periodic if periodic is None else periodic
    bound = torch.full((len(periodic),), BOUND, dtype=torch.float64)
    lower = torch.where(periodic, coordinates.lower, -bound)
    upper = torch.where(periodic, coordinates.upper, bound)
    transforms = list(first)
    if couplings.get("num_couplings", 0):
        transforms.append(spline_coupling_flow(circular=periodic, lower=lower, upper=upper, **couplings))
    return ConditionalFlow(CompositeTransform(transforms), UniformGaussian(lower, upper, periodic, wide, wide_share))
