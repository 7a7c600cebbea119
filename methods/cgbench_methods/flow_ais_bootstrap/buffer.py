"""Prioritised replay buffer whose weights are corrected for the change of the flow.

Sample i is drawn with probability proportional to its weight w_i, stored with the log-density of the flow q_old that
it was computed for. For the present flow q, the weight of the target ``p^alpha q^(1 - alpha)`` is
``w_i (q_old / q)^(alpha - 1)`` (Midgley et al., ICLR 2023, section 3.3).
"""

from __future__ import annotations

import math
from typing import Any

import torch

__all__ = ["ReplayBuffer"]


class ReplayBuffer:
    """Ends of AIS chains, drawn in proportion to their importance weights.

    `correct` returns the factor by which the weight of a drawn sample has changed, and updates the stored weight.

    Parameters
    ----------
    capacity
        Largest number of samples; new ones replace the oldest.
    dims
        Dimension of a sample.
    alpha
        Exponent of the target.
    dtype, device
        Type and device of the samples.
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
        """Add samples with log-weights and log-densities of the flow; samples with non-finite ones are ignored."""
        usable = (log_w.isfinite() & log_q.isfinite()).nonzero().squeeze(1)[-self.capacity :]
        rows = torch.remainder(self.next + torch.arange(len(usable), device=z.device), self.capacity)
        self.z[rows], self.log_w[rows], self.log_q[rows] = z[usable], log_w[usable], log_q[usable]
        self.next = (self.next + len(usable)) % self.capacity
        self.size = min(self.capacity, self.size + len(usable))

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Draw rows of `count` samples ``[count]`` without replacement, by weight, in random order.

        The largest sums of log-weights and Gumbel noise are distributed as successive draws.
        """
        log_w = self.log_w[: self.size].double()
        uniform = torch.rand(self.size, generator=generator, dtype=torch.float64, device=log_w.device)
        gumbel = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
        rows = (log_w + gumbel).topk(min(count, self.size)).indices
        return rows[torch.randperm(len(rows), generator=generator, device=log_w.device)]

    def correct(self, rows: torch.Tensor, log_q: torch.Tensor, limit: float) -> torch.Tensor:
        """Update the weights of `rows` for the flow's present log-densities.

        A sample whose log-density is not finite keeps its weight and the log-density that this was computed for.

        Returns
        -------
        factors
            Ratio of the new weight to the one that the samples were drawn by ``[rows]``, at most `limit`:
            ``(q_old / q)^(alpha - 1)``. Zero where the log-density is not finite.
        """
        change = (self.alpha - 1.0) * (self.log_q[rows] - log_q)
        finite = change.isfinite()
        self.log_w[rows] += torch.where(finite, change, 0.0)
        self.log_q[rows] = torch.where(finite, log_q, self.log_q[rows])
        return torch.where(finite, change.clamp(max=math.log(limit)).exp(), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return samples, weights and the next row to fill."""
        filled = slice(0, self.size)
        return {
            "z": self.z[filled].clone(),
            "log_w": self.log_w[filled].clone(),
            "log_q": self.log_q[filled].clone(),
            "next": self.next,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.size, self.next = len(state["log_w"]), int(state["next"])
        filled = slice(0, self.size)
        self.z[filled], self.log_w[filled], self.log_q[filled] = state["z"], state["log_w"], state["log_q"]
