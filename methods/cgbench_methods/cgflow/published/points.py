"""Training points of the published recipe: values of s for training, and others held out for validation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["TrainingPoints"]


class TrainingPoints:
    """Values of s: the newest, the older ones, and those held out for validation.

    Parameters
    ----------
    cvs
        Number of collective variables.
    held_out_share
        Share of all points that is held out.
    older_share
        Older points in an epoch, relative to the newest.
    device
        Device of the points.

    Attributes
    ----------
    older, newest, held_out
        Each ``[points, cvs]``.
    """

    def __init__(self, cvs: int, held_out_share: float, older_share: float, device: str = "cpu") -> None:
        self.held_out_share, self.older_share = held_out_share, older_share
        empty = torch.zeros(0, cvs, dtype=torch.float64, device=device)
        self.older, self.newest, self.held_out = empty, empty, empty

    def add(self, s: torch.Tensor, generator: torch.Generator) -> None:
        """Add points, a random share of them to those held out; the previous newest points become older."""
        order = torch.randperm(len(s), generator=generator)
        held = round(self.held_out_share * len(s))
        self.older = torch.cat([self.older, self.newest])
        self.newest = s[order[held:]]
        self.held_out = torch.cat([self.held_out, s[order[:held]]])

    def epoch(self, generator: torch.Generator) -> torch.Tensor:
        """Return all of the newest points and some of the older, in random order."""
        older = min(len(self.older), round(self.older_share * len(self.newest)))
        device = generator.device
        chosen = torch.randperm(len(self.older), generator=generator, device=device)[:older]
        s = torch.cat([self.newest, self.older[chosen]])
        return s[torch.randperm(len(s), generator=generator, device=device)]

    def all(self) -> torch.Tensor:
        """Return all points, in the order older, newest, held out."""
        return torch.cat([self.older, self.newest, self.held_out])

    def state(self) -> list[torch.Tensor]:
        """Return the three sets."""
        return [self.older, self.newest, self.held_out]

    def restore(self, state: Sequence[torch.Tensor]) -> None:
        """Restore what `state` returned."""
        self.older, self.newest, self.held_out = (s.to(self.older.device) for s in state)
