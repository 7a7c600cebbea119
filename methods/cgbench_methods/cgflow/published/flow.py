"""The flow of the published recipe, and the features of s for flow and ensemble."""

from __future__ import annotations

import math

import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.cgflow.common.stack import conditional_flow
from cgbench_methods.cgflow.published.config import PublishedFlowConfig
from cgbench_methods.cgflow.published.gaussian import ConditionalGaussian
from cgbench_methods.lib.flows.build import ConditionalFlow

__all__ = ["features_of", "published_flow"]


def features_of(cvs: CollectiveVariables, s: torch.Tensor) -> torch.Tensor:
    """Return cosine and sine of periodic CVs, and the others standardised on their domain; ``[batch, features]``."""
    columns = []
    for axis, periodic in enumerate(cvs.periodic):
        low, high = cvs.lower[axis], cvs.upper[axis]
        column = s[:, axis]
        if periodic:
            angle = 2 * math.pi * (column - low) / (high - low)
            columns += [angle.cos(), angle.sin()]
        else:
            columns.append((column - 0.5 * (low + high)) / ((high - low) / math.sqrt(12.0)))
    return torch.stack(columns, dim=1)


def published_flow(
    coordinates: Coordinates, features: int, config: PublishedFlowConfig, generator: torch.Generator
) -> ConditionalFlow:
    """Build the flow: spline couplings, or a single conditional Gaussian.

    Parameters
    ----------
    coordinates
        The fine-grained coordinates.
    features
        Number of features of `s`.
    config
        Size of the flow.
    generator
        Source of the initial weights.
    """
    if config.gaussian:
        gaussian = ConditionalGaussian(len(coordinates.names), features, config.gaussian_hidden, generator)
        return conditional_flow(coordinates, [gaussian])
    return conditional_flow(
        coordinates,
        [],
        context_features=features,
        num_couplings=config.num_couplings,
        hidden_features=config.hidden_features,
        num_blocks=config.num_blocks,
        num_bins=config.num_bins,
        generator=generator,
        dtype=torch.float64,
    )
