"""The flow of our recipe: a conditional Gaussian fitted to harmonic minima, then spline couplings; and its samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.method import Activity
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.stack import conditional_flow
from cgbench_methods.cgflow.common.training import path_gradient_step, plain_gradient_step, set_learning_rate
from cgbench_methods.cgflow.harmonic.affine import fit_to_minima, typical_displacements
from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima
from cgbench_methods.cgflow.harmonic.atlas.wells import Features, Wells
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig, more_for
from cgbench_methods.cgflow.harmonic.response import QuadraticResponse
from cgbench_methods.lib.flows.build import ConditionalFlow, fixed_parameters
from cgbench_methods.lib.flows.steps import sound_step
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["Features", "FlowTraining", "draw_configurations", "draw_weighted_samples", "flow_on_minima"]

SAMPLES_AT_ONCE = 1024

# from points, samples, log-weights and slopes to other log-weights and slopes
Reweighting = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor | None]
]


def flow_on_minima(
    minima: HarmonicMinima,
    coordinates: Coordinates,
    basis: Features,
    config: HarmonicConfig,
    generator: torch.Generator,
    device: str = "cpu",
    wells: Wells | None = None,
) -> tuple[ConditionalFlow, torch.optim.Optimizer, torch.Tensor]:
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
        Wells of free torsions: in each well, these are dimensions of the Gaussian, with wide tails.

    Returns
    -------
    flow, optimiser
        The optimiser's parameter groups are the Gaussian, the quadratic response and the couplings; any of these may
        have no parameters.
    units
        Displacements by one standard deviation of the harmonic start ``[fine, fine]``, for `path_gradient_step`.
    """
    periodic = coordinates.periodic.clone()
    if wells is not None:
        periodic[wells.positions] = False
    affine, peaks = fit_to_minima(
        minima,
        periodic,
        coordinates.lower,
        coordinates.upper,
        basis,
        stiffness_offset=config.atlas.stiffness_offset,
        smoothness=config.atlas.smoothness,
        peaks=config.flow.peaks,
        blocks=1 if wells is None else len(wells),
    )
    response = QuadraticResponse(~periodic if config.flow.quadratic else torch.zeros_like(periodic))
    flow = conditional_flow(
        coordinates,
        [affine, response, peaks],
        periodic,
        None if wells is None or config.wells.wide_share == 0 else wells.positions,
        config.wells.wide_share,
        context_features=len(basis),
        num_couplings=config.flow.num_couplings,
        hidden_features=config.flow.hidden_features,
        num_blocks=config.flow.num_blocks,
        num_bins=config.flow.num_bins,
        generator=generator,
        dtype=torch.float64,
    ).to(device)
    parts = [list(affine.parameters()), list(response.parameters())]
    known = {id(p) for part in parts for p in part}
    parts.append([p for p in flow.parameters() if id(p) not in known])
    optimiser = torch.optim.Adam([{"params": part} for part in parts], lr=0.0, betas=(0.9, 0.99), fused=True)
    return flow, optimiser, typical_displacements(affine, peaks).to(device)


def draw_weighted_samples(
    flow: ConditionalFlow,
    target: ConditionalTarget,
    s: torch.Tensor,
    basis: Features,
    generator: torch.Generator,
    *,
    mean_force: bool,
    reweight: Reweighting | None = None,
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
                y, of_part, slopes_of_part = path_gradient_step(flow, target, part, basis, generator, clip_norm=None)
        else:
            with torch.no_grad():
                y, log_q = flow.sample_with_log_prob(basis(part), generator)
                of_part, slopes_of_part = -(target.energy(part, y) + log_q), None
        if reweight is not None:
            of_part, slopes_of_part = reweight(part, y, of_part, slopes_of_part)
        log_weights.append(of_part)
        if slopes_of_part is not None:
            slopes.append(slopes_of_part)
    return torch.cat(log_weights), torch.cat(slopes) if slopes else None


@torch.no_grad()
def draw_configurations(
    flow: ConditionalFlow, target: ConditionalTarget, s: torch.Tensor, basis: Features, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw one sample of the flow at each s; return y ``[n, fine]``, reduced energies and log-weights, each ``[n]``."""
    ys, energies, log_weights = [], [], []
    for part in s.split(SAMPLES_AT_ONCE):
        y, log_q = flow.sample_with_log_prob(basis(part), generator)
        energy, volume = target.parts(part, y)
        ys.append(y)
        energies.append(energy)
        log_weights.append(volume - energy - log_q)
    return torch.cat(ys), torch.cat(energies), torch.cat(log_weights)


class FlowTraining:
    """The flow with its optimiser, and its training at given points.

    Parameters
    ----------
    problem, config, streams
        As for `cgbench.contracts.method.Method`.
    coordinates
        The fine-grained coordinates.
    target
        The energy; at points ``(s, k)`` with wells.
    basis
        The flow's context as a function of the points.
    activity
        Progress of the run.

    Attributes
    ----------
    wells
        Wells of the free torsions; None without these.
    flow, optimiser, units
        As from `flow_on_minima`; None until the minima are complete.
    """

    def __init__(
        self,
        problem: Problem,
        coordinates: Coordinates,
        target: ConditionalTarget,
        basis: Features,
        config: HarmonicConfig,
        streams: Streams,
        activity: Activity,
    ) -> None:
        self.problem, self.coordinates, self.target = problem, coordinates, target
        self.config, self.streams, self.activity = config, streams, activity
        self.basis = basis
        self.wells: Wells | None = None
        self.flow: ConditionalFlow | None = None
        self.optimiser: torch.optim.Optimizer | None = None
        self.units: torch.Tensor | None = None
        self.reweight: Reweighting | None = None

    def build_flow(self, minima: HarmonicMinima) -> None:
        """Build the flow, which starts as the harmonic approximation, and its optimiser."""
        self.flow, self.optimiser, self.units = flow_on_minima(
            minima,
            self.coordinates,
            self.basis,
            self.config,
            self.streams.torch("flow weights"),
            self.problem.device,
            self.wells,
        )

    def steps(self) -> int:
        """Return the number of training steps in a round: it grows with the number of wells, and of CVs above two."""
        steps = self.config.training.steps_per_round * more_for(len(self.problem.cvs))
        config = self.config.wells
        if self.wells is None:
            return steps
        growth: float = len(self.wells) ** config.growth
        return round(steps * min(growth, config.largest_growth))

    def train_at(
        self, points: torch.Tensor, free_energy: torch.Tensor, number: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Train the flow by energy for the steps of a round; return the log-weights and slopes of its samples.

        Parameters
        ----------
        points
            One point for each sample ``[steps * batch, ...]``.
        free_energy
            The model's ``-ln`` of the mean weight at each point ``[steps * batch]``.
        number
            Number of rounds before.
        """
        config = self.config.training
        assert self.flow is not None and self.optimiser is not None
        device = self.problem.device
        steps = self.steps()
        total = config.rounds * steps
        generator = self.streams.torch("training samples", device)
        log_weights, slopes = [], []
        for step in range(steps):
            batch = slice(step * config.batch, (step + 1) * config.batch)
            s, level = points[batch].to(device), free_energy[batch].to(device)
            done = (number * steps + step) / total
            decay = 0.5 * (1 + math.cos(math.pi * done))
            rates = (config.gaussian_learning_rate, config.quadratic_learning_rate, config.learning_rate)
            set_learning_rate(self.optimiser, [decay * rate for rate in rates])
            self.optimiser.zero_grad(set_to_none=True)
            of_batch, slopes_of_batch = self._step_at(s, level, generator)
            log_weights.append(of_batch.cpu())
            slopes.append(slopes_of_batch.cpu())
            sound_step(self.problem, self.optimiser)
            self.activity.progress = done
        return torch.cat(log_weights), torch.cat(slopes)

    def _step_at(
        self, s: torch.Tensor, free_energy: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Accumulate the gradient of a batch; return log-weights and slopes."""
        config = self.config.training
        assert self.flow is not None
        given = (self.flow, self.target, s, self.basis, generator)
        if config.path_gradients:
            level = free_energy if config.divergence == "jensen_shannon" else None
            y, log_weights, slopes = path_gradient_step(
                *given, clip_norm=config.clip_norm, units=self.units, free_energy=level
            )
        else:
            y, log_weights, slopes = plain_gradient_step(*given, clip_norm=config.clip_norm, units=self.units)
        if self.reweight is None:
            return log_weights, slopes
        log_weights, changed = self.reweight(s, y, log_weights, slopes)
        assert changed is not None
        return log_weights, changed

    def sample_at(self, points: torch.Tensor, *, mean_force: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Draw a sample of the trained flow at each point; return log-weights and slopes as `draw_weighted_samples`."""
        assert self.flow is not None
        self.activity.progress = None  # the number of rounds is not known
        generator = self.streams.torch("label samples", self.problem.device)
        log_weights, slopes = draw_weighted_samples(
            self.flow,
            self.target,
            points.to(self.problem.device),
            self.basis,
            generator,
            mean_force=mean_force,
            reweight=self.reweight,
        )
        return log_weights.cpu(), None if slopes is None else slopes.cpu()
