"""The flow of our own recipe: an atlas's Gaussians and spline couplings on top; labels drawn from it."""

from __future__ import annotations

import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench_methods.cgflow.common.stack import conditional_flow
from cgbench_methods.cgflow.common.training import path_gradient_step
from cgbench_methods.cgflow.harmonic.affine import fit_to_minima
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.cgflow.harmonic.minima import HarmonicMinima
from cgbench_methods.lib.estimators.fourier import FourierBasis
from cgbench_methods.lib.flows.build import ConditionalFlow, fixed_parameters
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["draw_weighted_samples", "flow_on_minima"]

LABELS_AT_ONCE = 1024


def flow_on_minima(
    minima: HarmonicMinima,
    coordinates: Coordinates,
    basis: FourierBasis,
    config: HarmonicConfig,
    generator: torch.Generator,
    device: str = "cpu",
) -> tuple[ConditionalFlow, torch.optim.Optimizer]:
    """Build the flow, which starts as the atlas's harmonic approximation, and its optimiser.

    Parameters
    ----------
    atlas
        Fitted by the Gaussian next to the data.
    coordinates
        Of the fine-grained coordinates.
    basis
        Features of `s`.
    config
        Shape of the flow, and how the Gaussian is fitted.
    generator
        Source of the couplings' initial weights.
    device
        Where the flow is to be.

    Returns
    -------
    flow, optimiser
        Parameters of the Gaussian are the optimiser's first group, the couplings', if there are any, its second.
    """
    affine = fit_to_minima(
        minima,
        coordinates.periodic,
        basis,
        stiffness_offset=config.atlas.stiffness_offset,
        smoothness=config.atlas.smoothness,
    )
    flow = conditional_flow(
        coordinates,
        [affine],
        context_features=len(basis),
        num_couplings=config.flow.num_couplings,
        hidden_features=config.flow.hidden_features,
        num_blocks=config.flow.num_blocks,
        num_bins=config.flow.num_bins,
        generator=generator,
        dtype=torch.float64,
    ).to(device)
    gaussian = list(affine.parameters())
    known = {id(p) for p in gaussian}
    others = [p for p in flow.parameters() if id(p) not in known]
    groups = [{"params": gaussian}] + ([{"params": others}] if others else [])
    return flow, torch.optim.Adam(groups, lr=0.0, betas=(0.9, 0.99), fused=True)


def draw_weighted_samples(
    flow: ConditionalFlow,
    target: ConditionalTarget,
    s: torch.Tensor,
    basis: FourierBasis,
    generator: torch.Generator,
    *,
    mean_force: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One sample of the flow for each s: its log-weight, and with `mean_force` the slopes of that along s.

    Returns
    -------
    log_weights, slopes
        As `path_gradient_step` returns them; without `mean_force` the slopes are None.
    """
    log_weights, slopes = [], []
    for part in s.split(LABELS_AT_ONCE):
        if mean_force:
            with fixed_parameters(flow):
                labels = path_gradient_step(flow, target, part, basis, generator, clip_norm=None)
            log_weights.append(labels[0])
            slopes.append(labels[1])
        else:
            with torch.no_grad():
                y, log_q = flow.sample_with_log_prob(basis(part), generator)
                log_weights.append(-(target.energy(part, y) + log_q))
    return torch.cat(log_weights), torch.cat(slopes) if slopes else None
