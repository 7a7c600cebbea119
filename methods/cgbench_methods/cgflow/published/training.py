"""Training of the published recipe, epoch by epoch: by example on the starting trajectory, then by energy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.training import by_example_loss, reverse_kl_losses, set_learning_rate
from cgbench_methods.cgflow.published.config import ByEnergyConfig, PublishedConfig
from cgbench_methods.lib.estimators.importance import free_energies
from cgbench_methods.lib.flows.build import ConditionalFlow
from cgbench_methods.lib.flows.steps import sound_step
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["PublishedTraining"]


class PublishedTraining:
    """Training of a flow.

    Parameters
    ----------
    problem
        Counts steps, and those skipped.
    target
        The energy as a function of s and y.
    flow
        The flow.
    features
        The flow's context as a function of `s`.
    config, streams
        As for `cgbench.contracts.method.Method`.

    Attributes
    ----------
    optimiser
        Adam over all parameters of the flow.
    """

    def __init__(
        self,
        problem: Problem,
        target: ConditionalTarget,
        flow: ConditionalFlow,
        features: Callable[[torch.Tensor], torch.Tensor],
        config: PublishedConfig,
        streams: Streams,
    ) -> None:
        self.problem, self.target, self.flow, self.features = problem, target, flow, features
        self.config, self.streams = config, streams
        self.optimiser = torch.optim.Adam(flow.parameters(), lr=0.0, fused=True)

    def epoch_by_example(self, s: torch.Tensor, y: torch.Tensor) -> None:
        """Train on every example ``(s, y)`` once."""
        config = self.config.by_example
        generator = self.streams.torch("by example")
        features = self.features(s)
        set_learning_rate(self.optimiser, [config.learning_rate])
        for rows in torch.randperm(len(s), generator=generator).split(config.batch):
            self.optimiser.zero_grad(set_to_none=True)
            loss = by_example_loss(self.flow, y[rows], features[rows])
            loss.backward()
            sound = math.isfinite(float(loss.detach()))
            sound_step(self.problem, self.optimiser, clip_norm=self.config.by_energy.clip, sound=sound)

    def epoch_by_energy(
        self, s: torch.Tensor, epoch: int, first_iteration: bool
    ) -> tuple[float, tuple[torch.Tensor, torch.Tensor]]:
        """Train on every s once, each with all its noise samples.

        Parameters
        ----------
        s
            Training points ``[points, cvs]``, in order.
        epoch
            Number of the epoch in its iteration, from 0.
        first_iteration
            Whether this is the first iteration, which has a separate schedule.

        Returns
        -------
        loss
            Mean over batches; NaN if none was finite.
        labels
            The points, and labels of the PMF there from the training samples.
        """
        config = self.config.by_energy
        generator = self.streams.torch("by energy", self.problem.device)
        warmup = config.warmup_first if first_iteration else config.warmup
        epochs = config.epochs_first if first_iteration else config.epochs
        clip = config.clip_warmup if epoch < warmup else config.clip
        losses, points, labels = [], [], []
        batches = s.split(config.batch)
        for number, batch in enumerate(batches):
            rate = _learning_rate(config, epoch + number / len(batches), warmup, epochs)
            set_learning_rate(self.optimiser, [rate])
            self.optimiser.zero_grad(set_to_none=True)
            loss, log_weights = self.draw_losses(batch, generator)
            kept = loss[loss.isfinite()]
            if len(kept) > config.drop_highest:
                kept = kept.topk(len(kept) - config.drop_highest, largest=False).values
            if len(kept):
                kept.mean().backward()
                losses.append(float(kept.detach().mean()))
            sound_step(self.problem, self.optimiser, clip_norm=clip, sound=len(kept) > 0)
            points.append(batch)
            labels.append(free_energies(log_weights.reshape(len(batch), -1), self.config.ensemble.clip_largest))
        mean = float(np.mean(losses)) if losses else math.nan
        return mean, (torch.cat(points), torch.cat(labels))

    def draw_losses(self, s: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw all noise samples of each s; return losses and log-weights, each ``[points * samples]``."""
        repeated = s.repeat_interleave(self.config.by_energy.samples, 0)
        return reverse_kl_losses(self.flow, self.target, repeated, self.features(repeated), generator)

    @torch.no_grad()
    def validation_loss(self, s: torch.Tensor) -> float:
        """Return the median reverse KL at held-out values of s, for the record only; NaN without any."""
        generator = self.streams.torch("validation", self.problem.device)
        losses = []
        for batch in s.split(self.config.by_energy.batch):
            loss, _ = self.draw_losses(batch, generator)
            losses.append(loss[loss.isfinite()])
        return float(torch.cat(losses).median()) if losses else math.nan


def _learning_rate(config: ByEnergyConfig, epoch: float, warmup: int, epochs: int) -> float:
    """Return the learning rate: linear warm-up, then constant or half a cosine; `epoch` has a fraction for batches."""
    rate = config.learning_rate
    if epoch < warmup:
        rate *= (epoch + 1e-3) / warmup
    elif config.cosine:
        rate *= 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(epochs - warmup, 1)))
    return rate
