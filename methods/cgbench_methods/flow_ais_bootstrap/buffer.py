"""Prioritised replay buffer with weights that follow the flow."""

from __future__ import annotations

import math
from typing import Any

import torch

__all__ = ["ReplayBuffer"]


class ReplayBuffer:
    """Ends of chains, drawn in proportion to their importance weights (Midgley et al., ICLR 2023, section 3.3).

    A weight is that of the target ``p^alpha q^(1 - alpha)`` for the flow q that last looked at the sample. When a
    sample is used again, the flow has changed: `correct` gives the factor between the weights for the new and the
    old flow, and brings the stored weight up to date.

    Parameters
    ----------
    capacity
        Samples kept; the oldest give way.
    dims
        Dimension of a sample.
    alpha
        Exponent of the target.
    dtype, device
        Of the samples.
    """

    def __init__(self, capacity: int, dims: int, alpha: float, dtype: torch.dtype, device: str = "cpu") -> None:
        options: Any = {"dtype": dtype, "device": device}
        self.capacity, self.alpha = capacity, alpha
        self.z = torch.zeros(capacity, dims, **options)
        self.log_w = torch.full((capacity,), -torch.inf, **options)
        self.log_q = torch.zeros(capacity, **options)
        self.size, self.next = 0, 0

    def __len__(self) -> int:
        return self.size

    def add(self, z: torch.Tensor, log_w: torch.Tensor, log_q: torch.Tensor) -> None:
        """Add samples with their log-weights and the flow's log-density; those that are not finite stay out."""
        usable = (log_w.isfinite() & log_q.isfinite()).nonzero().squeeze(1)[-self.capacity :]
        rows = torch.remainder(self.next + torch.arange(len(usable), device=z.device), self.capacity)
        self.z[rows], self.log_w[rows], self.log_q[rows] = z[usable], log_w[usable], log_q[usable]
        self.next = (self.next + len(usable)) % self.capacity
        self.size = min(self.capacity, self.size + len(usable))

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Rows of `count` samples ``[count]`` without replacement, by weight, in random order.

        Gumbel noise on the log-weights and the largest sums: the same as drawing one after the other.
        """
        log_w = self.log_w[: self.size].double()
        uniform = torch.rand(self.size, generator=generator, dtype=torch.float64, device=log_w.device)
        gumbel = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
        rows = (log_w + gumbel).topk(min(count, self.size)).indices
        return rows[torch.randperm(len(rows), generator=generator, device=log_w.device)]

    def correct(self, rows: torch.Tensor, log_q: torch.Tensor, limit: float) -> torch.Tensor:
        """Bring the weights of `rows` up to date with the flow's present log-densities.

        Returns
        -------
        factors
            New weight over the one that the samples were drawn by ``[rows]``, at most `limit`:
            ``(q_old / q_new)^(alpha - 1)``.
        """
        change = (self.alpha - 1.0) * (self.log_q[rows] - log_q)
        change = torch.nan_to_num(change, nan=-torch.inf)
        self.log_w[rows] += change
        self.log_q[rows] = torch.where(log_q.isfinite(), log_q, self.log_q[rows])
        return change.clamp(max=math.log(limit)).exp()

    def state_dict(self) -> dict[str, Any]:
        """Samples, weights and place."""
        filled = slice(0, self.size)
        return {
            "z": self.z[filled].clone(),
            "log_w": self.log_w[filled].clone(),
            "log_q": self.log_q[filled].clone(),
            "next": self.next,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.size, self.next = len(state["log_w"]), int(state["next"])
        filled = slice(0, self.size)
        self.z[filled], self.log_w[filled], self.log_q[filled] = state["z"], state["log_w"], state["log_q"]
