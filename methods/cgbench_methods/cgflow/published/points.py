"""The values of s that the published recipe trains on, and those it holds out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["TrainingPoints"]


class TrainingPoints:
    """Values of s: the newest, the older ones, and some of both that are only ever validated with.

    Parameters
    ----------
    cvs
        How many collective variables there are.
    held_out_share
        Of all points, held out of training.
    older_share
        Older points in an epoch, relative to the newest.
    device
        Where they are kept.

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
        """Add points, a random share of them to those held out; what was the newest becomes older."""
        order = torch.randperm(len(s), generator=generator)
        held = round(self.held_out_share * len(s))
        self.older = torch.cat([self.older, self.newest])
        self.newest = s[order[held:]]
        self.held_out = torch.cat([self.held_out, s[order[:held]]])

    def epoch(self, generator: torch.Generator) -> torch.Tensor:
        """All the newest points and some of the older, in random order."""
        older = min(len(self.older), round(self.older_share * len(self.newest)))
        place = generator.device
        chosen = torch.randperm(len(self.older), generator=generator, device=place)[:older]
        s = torch.cat([self.newest, self.older[chosen]])
        return s[torch.randperm(len(s), generator=generator, device=place)]

    def all(self) -> torch.Tensor:
        """All points, in the order older, newest, held out."""
        return torch.cat([self.older, self.newest, self.held_out])

    def state(self) -> list[torch.Tensor]:
        """The three sets."""
        return [self.older, self.newest, self.held_out]

    def restore(self, state: Sequence[torch.Tensor]) -> None:
        """Take back what `state` returned."""
        self.older, self.newest, self.held_out = (s.to(self.older.device) for s in state)
