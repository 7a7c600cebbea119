"""The flow of our recipe: a conditional Gaussian fitted to harmonic minima, then spline couplings; and its samples."""

from __future__ import annotations

import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench_methods.cgflow.common.stack import conditional_flow
from cgbench_methods.cgflow.common.training import path_gradient_step
from cgbench_methods.cgflow.harmonic.affine import fit_to_minima
from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima
from cgbench_methods.cgflow.harmonic.atlas.wells import WellFeatures, Wells
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.lib.estimators.fourier import FourierBasis
from cgbench_methods.lib.flows.build import ConditionalFlow, fixed_parameters
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["draw_weighted_samples", "flow_on_minima"]

SAMPLES_AT_ONCE = 1024


def flow_on_minima(
    minima: HarmonicMinima,
    coordinates: Coordinates,
    basis: FourierBasis | WellFeatures,
    config: HarmonicConfig,
    generator: torch.Generator,
    device: str = "cpu",
    wells: Wells | None = None,
) -> tuple[ConditionalFlow, torch.optim.Optimizer]:
    """Build the flow, which starts as the harmonic approximation, and its optimiser.

    Parameters
    ----------
    minima
        Harmonic minima that the Gaussian is fitted to.
    coordinates
        The fine-grained coordinates.
    basis
        Features of the points.
    config
        Size of the flow, and settings of the Gaussian's fit.
    generator
        Source of the couplings' initial weights.
    device
        Device of the flow.
    wells
        Wells of free torsions: in each well, these are dimensions of the Gaussian.

    Returns
    -------
    flow, optimiser
        The optimiser's first parameter group is the Gaussian; the second, if there are couplings, is the rest.
    """
    periodic = coordinates.periodic.clone()
    if wells is not None:
        periodic[wells.positions] = False
    affine = fit_to_minima(
        minima,
        periodic,
        basis,
        stiffness_offset=config.atlas.stiffness_offset,
        smoothness=config.atlas.smoothness,
    )
    flow = conditional_flow(
        coordinates,
        [affine],
        periodic,
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
    basis: FourierBasis | WellFeatures,
    generator: torch.Generator,
    *,
    mean_force: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Draw one sample of the flow at each s; return its log-weight and, with `mean_force`, the slopes along s.

    Returns
    -------
    log_weights, slopes
        As from `path_gradient_step`; slopes are None without `mean_force`.
    """
    log_weights, slopes = [], []
    for part in s.split(SAMPLES_AT_ONCE):
        if mean_force:
            with fixed_parameters(flow):
                of_part, slopes_of_part = path_gradient_step(flow, target, part, basis, generator, clip_norm=None)
            log_weights.append(of_part)
            slopes.append(slopes_of_part)
        else:
            with torch.no_grad():
                y, log_q = flow.sample_with_log_prob(basis(part), generator)
                log_weights.append(-(target.energy(part, y) + log_q))
    return torch.cat(log_weights), torch.cat(slopes) if slopes else None
