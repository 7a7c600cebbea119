"""Labels of the PMF from importance weights, and what they say about their own quality."""

from __future__ import annotations

from typing import Any

import torch

from methods.cgflow.surrogate import FourierSurrogate

__all__ = ["LabelStore", "effective_sample_size", "mean_weight_labels"]


def mean_weight_labels(log_weights: torch.Tensor, clip_largest: int = 0) -> torch.Tensor:
    """PMF labels ``-ln mean w`` per point from several samples each, up to a constant.

    Parameters
    ----------
    log_weights
        ``[points, samples]``.
    clip_largest
        The largest weights of each point are set to the one that ranks here (0: none are).
    """
    if clip_largest:
        ceiling = log_weights.topk(clip_largest, dim=1).values[:, -1:]
        log_weights = torch.minimum(log_weights, ceiling)
    return -(torch.logsumexp(log_weights, dim=1) - torch.log(torch.tensor(float(log_weights.shape[1]))))


def effective_sample_size(log_weights: torch.Tensor) -> torch.Tensor:
    """Kish's effective sample size as a fraction of the samples, along the last axis."""
    usable = torch.nan_to_num(log_weights, nan=-torch.inf)
    ratio = 2 * torch.logsumexp(usable, -1) - torch.logsumexp(2 * usable, -1)
    return torch.exp(ratio) / log_weights.shape[-1]


class LabelStore:
    """All importance weights so far, in groups of equal flow, each group weighted by its inverse variance."""

    def __init__(self, cvs: int) -> None:
        self.s = torch.zeros(0, cvs, dtype=torch.float64)
        self.log_weights = torch.zeros(0, dtype=torch.float64)
        self.group = torch.zeros(0, dtype=torch.long)
        self.relative_variance: list[float] = []

    def __len__(self) -> int:
        return len(self.s)

    def add(self, s: torch.Tensor, log_weights: torch.Tensor, new_group: bool = True) -> None:
        """Add samples ``[n, cvs]`` with log-weights ``[n]``; a new group unless told otherwise."""
        if new_group or not self.relative_variance:
            self.relative_variance.append(1.0)
        group = torch.full((len(s),), len(self.relative_variance) - 1)
        self.s = torch.cat([self.s, s.detach()])
        self.log_weights = torch.cat([self.log_weights, log_weights.detach()])
        self.group = torch.cat([self.group, group])

    def fit(self, surrogate: FourierSurrogate, truncation: float, sweeps: int = 2) -> float:
        """Fit the model to all weights, estimating each group's variance from the fit.

        Labels are gathered in the cells of the PMF's grid, moved to the cell's centre along the slope of the
        model of the sweep before; then the cost of a fit does not grow with their number.

        Parameters
        ----------
        truncation
            Weights are cut at this multiple of the model of the sweep before.

        Returns
        -------
        float
            Log evidence of the model.
        """
        evidence = 0.0
        centres, cell = self._cells(surrogate)
        for _ in range(sweeps):
            inverse = 1.0 / torch.tensor(self.relative_variance, dtype=torch.float64)[self.group]
            mean, at_centre = self._mean(surrogate, self.s), surrogate.mean(centres)
            self._gauge(mean, at_centre, inverse)
            ratio = (self.log_weights + mean).exp().clamp(max=truncation)
            weight = torch.zeros(len(centres), dtype=torch.float64)
            total, summed = weight.clone(), weight.clone()
            total.index_add_(0, cell, inverse)
            summed.index_add_(0, cell, inverse * ratio)
            log_weights = (summed / total).log() - at_centre
            evidence = surrogate.fit_weights(centres, log_weights, total)
            ratio = (self.log_weights + self._mean(surrogate, self.s)).exp().clamp(max=truncation)
            for index in range(len(self.relative_variance)):
                part = ratio[self.group == index]
                self.relative_variance[index] = float((part - 1.0).square().mean().clamp(0.05, 1e3))
        return evidence

    def _gauge(self, mean: torch.Tensor, at_centre: torch.Tensor, inverse: torch.Tensor) -> None:
        """Shift a model to the constant that suits the weights best, so that truncation means something."""
        excess = self.log_weights + mean
        usable = excess.isfinite()
        shift = torch.logsumexp(excess[usable] + inverse[usable].log(), 0) - inverse.sum().log()
        mean -= shift
        at_centre -= shift

    def _cells(self, surrogate: FourierSurrogate) -> tuple[torch.Tensor, torch.Tensor]:
        """Centres of the grid cells that hold labels ``[cells, cvs]``, and each label's cell ``[n]``."""
        cvs = surrogate.cvs
        flat = torch.zeros(len(self.s), dtype=torch.long)
        for axis, bins in enumerate(cvs.bins):
            fraction = (self.s[:, axis] - cvs.lower[axis]) / (cvs.upper[axis] - cvs.lower[axis])
            flat = flat * bins + (fraction * bins).floor().clamp(0, bins - 1).long()
        occupied, cell = flat.unique(return_inverse=True)
        return torch.from_numpy(cvs.grid())[occupied], cell

    @staticmethod
    def _mean(surrogate: FourierSurrogate, s: torch.Tensor) -> torch.Tensor:
        return torch.cat([surrogate.mean(part) for part in s.split(20_000)])

    def efficiency(self, surrogate: FourierSurrogate, groups: int = 1) -> float:
        """Effective sample size of the last groups' weights about the fit, as a fraction."""
        recent = self.group >= len(self.relative_variance) - groups
        excess = (self.log_weights + surrogate.mean(self.s))[recent]
        return float(effective_sample_size(excess))

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        return {
            "s": self.s,
            "log_weights": self.log_weights,
            "group": self.group,
            "relative_variance": list(self.relative_variance),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.s, self.log_weights, self.group = state["s"], state["log_weights"], state["group"]
        self.relative_variance = [float(v) for v in state["relative_variance"]]
