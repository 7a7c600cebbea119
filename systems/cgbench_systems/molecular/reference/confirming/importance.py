"""Importance sampling with a trained generator: no walkers, no time step, energies in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgbench.contracts.reference import WeightedSampler
from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench_methods.lib.estimators.importance import kish, pareto_tail_index
from cgbench_systems.molecular.reference.route import Array, Route

__all__ = ["ImportanceRoute"]

GROUPS = 4  # in a block; more blocks give more groups
TAIL = 10_000  # largest weights that are kept; the tail index of 1e7 weights needs them


class ImportanceRoute(Route):
    """Weighted samples of a trained generator.

    A block holds one weighted histogram for each of several groups of samples. Weights are divided by the mean weight
    of the first block, and never truncated. A generator that omits a region gives no sign of it: this route confirms
    a reference, and cannot replace one.

    Attributes
    ----------
    tail
        The largest log-weights.
    squares
        Sum of the squared weights in each bin.

    Parameters
    ----------
    system, folder, seed
        As for `Route`.
    sampler
        The trained generator; None for a route that only reads its checkpoint.
    """

    name = "importance"
    title = "importance sampling with a trained flow"
    walkers, block_steps, stride = 20_000, 1, 1  # samples of a block
    equilibration = 0

    def __init__(self, system: System, folder: Path, seed: int = 14, sampler: WeightedSampler | None = None) -> None:
        super().__init__(system, folder, seed)
        self.sampler = sampler
        self.offset: float | None = None
        self.tail = torch.zeros(0, dtype=torch.float64)
        self.squares = np.zeros(system.cvs.bins)

    def advance(self) -> None:
        """Draw a block of samples."""
        drawn = None if self.sampler is None else self.sampler.weighted_samples(self.walkers, self.generator)
        if drawn is None:
            raise UserError(
                "route importance draws from a trained generator: give the folder of a run of cgflow_al or cgflow_grid "
                "with recipe.kind harmonic, which has a checkpoint (--from)"
            )
        s, log_weights = drawn[0].double().cpu().numpy(), drawn[1].detach().double().cpu()
        log_weights = log_weights.masked_fill(log_weights.isnan(), -torch.inf)
        if self.offset is None:
            self.offset = float(torch.logsumexp(log_weights, 0)) - math.log(len(log_weights))
        relative = log_weights - self.offset
        self.tail = torch.cat([self.tail, relative]).topk(min(TAIL, len(self.tail) + len(relative))).values
        weights = relative.exp().numpy()
        cvs = self.system.cvs
        parts = zip(np.array_split(s, GROUPS), np.array_split(weights, GROUPS), strict=True)
        self.blocks.append(np.array([cvs.histogram(points, values) for points, values in parts]))
        self.squares += cvs.histogram(s, weights**2)

    def group_histograms(self) -> Array:
        """Return the weighted histograms of independent groups of samples ``[groups, bins, bins]``."""
        kept = self.kept()
        return np.asarray(kept.reshape(-1, *kept.shape[2:]))

    def halves(self) -> tuple[Array, Array]:
        """Return `group_histograms` of the first and of the second half of the samples."""
        groups = self.group_histograms()
        return groups[: len(groups) // 2], groups[len(groups) // 2 :]

    def quality(self, mask: np.ndarray | None = None) -> tuple[float, float]:
        """Return the effective number of samples in some bins, and the tail index of all weights."""
        total = self.group_histograms().sum(axis=0)
        chosen = np.ones(total.shape, dtype=bool) if mask is None else mask
        return float(kish(float(total[chosen].sum()), float(self.squares[chosen].sum()))), pareto_tail_index(
            self.tail, self.steps
        )

    def summary(self) -> str:
        """Describe the progress: samples, effective samples, tail index."""
        size, index = self.quality()
        return f"{self.steps} samples, {size:.0f} effective ones, Pareto k {index:.2f}"

    def state(self) -> dict[str, Any]:
        """Return what is kept of the weights."""
        return {"offset": self.offset, "tail": self.tail, "squares": torch.from_numpy(self.squares)}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.offset, self.tail, self.squares = state["offset"], state["tail"], state["squares"].numpy()
