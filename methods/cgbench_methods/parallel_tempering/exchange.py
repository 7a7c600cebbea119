"""Exchange of temperatures between the walkers of a ladder.

With ``b = T_0 / T`` and reduced energies u at T_0, walkers at neighbouring temperatures i and j exchange them with
probability ``min(1, exp((b_i - b_j) (u_i - u_j)))``. Even and odd pairs of neighbours take turns, which moves walkers
along the ladder faster than random pairs (Lingenheil et al., Chem. Phys. Lett. 478, 80, 2009).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["TemperatureExchange"]

NOWHERE, BOTTOM, TOP = 0, 1, 2  # the end of the ladder that a walker visited last


class TemperatureExchange:
    """Which walker of each ladder is at which temperature.

    Walker ``ladder * temperatures + i`` starts at temperature i. Walkers keep their configurations.

    Parameters
    ----------
    relative
        Increasing temperatures relative to that of the reduced energy, ``[temperatures]``.
    ladders
        Number of ladders.
    generator
        Source of acceptances (on the CPU).

    Attributes
    ----------
    holder
        Which walker of each ladder is at each temperature, ``[ladders, temperatures]``.
    attempted
        Exchanges attempted so far for each pair of neighbours, ``[temperatures - 1]``.
    expected
        Sum of their acceptance probabilities: a less noisy measure of the rate than the accepted number.
    """

    def __init__(self, relative: NDArray[np.float64], ladders: int, generator: torch.Generator) -> None:
        self.relative, self.generator = relative, generator
        self._temperature = torch.from_numpy(relative.copy())
        count = len(relative)
        self.holder = torch.arange(count).repeat(ladders, 1)
        self.parity = 0
        self.last = torch.full((ladders, count), NOWHERE)
        self.forget_counts()
        self._note_ends()

    def forget_counts(self) -> None:
        """Start counting exchanges and round trips anew."""
        self.attempted = torch.zeros(len(self.relative) - 1, dtype=torch.float64)
        self.expected = torch.zeros_like(self.attempted)
        self.ends = 0

    def rates(self) -> NDArray[np.float64]:
        """Mean acceptance probability of each pair of neighbours, ``[temperatures - 1]``; 0 without an attempt."""
        return (self.expected / self.attempted.clamp(min=1.0)).numpy()

    @property
    def round_trips(self) -> float:
        """Number of round trips of all walkers between the lowest and the highest temperature."""
        return self.ends / 2

    def temperatures(self) -> torch.Tensor:
        """Relative temperature of each walker, ``[ladders * temperatures]``, float64 on the CPU."""
        return self._temperature[self.holder.argsort(1)].flatten()

    def by_temperature(self, values: torch.Tensor) -> torch.Tensor:
        """Sort values of the walkers ``[ladders * temperatures, ...]`` to ``[ladders, temperatures, ...]``."""
        ladders, count = self.holder.shape
        walker = self.holder + count * torch.arange(ladders)[:, None]
        return values[walker.to(values.device)]

    def attempt(self, energies: torch.Tensor) -> None:
        """Attempt an exchange for every even, or every odd, pair of neighbours of all ladders.

        Parameters
        ----------
        energies
            Reduced energies of the walkers, ``[ladders * temperatures]``. Walkers without a finite energy stay at their
            temperature.
        """
        energy = self.by_temperature(energies.double().cpu())
        lower = torch.arange(self.parity, len(self.relative) - 1, 2)
        upper = lower + 1
        slope = 1.0 / self._temperature[lower] - 1.0 / self._temperature[upper]
        exponent = slope * (energy[:, lower] - energy[:, upper])
        exponent = exponent.masked_fill(~exponent.isfinite(), -torch.inf).clamp(max=0.0)
        accept = torch.rand(exponent.shape, generator=self.generator, dtype=torch.float64).log() < exponent
        below, above = self.holder[:, lower], self.holder[:, upper]
        self.holder[:, lower] = torch.where(accept, above, below)
        self.holder[:, upper] = torch.where(accept, below, above)
        self.attempted[lower] += len(exponent)
        self.expected[lower] += exponent.exp().sum(0)
        self.parity = 1 - self.parity
        self._note_ends()

    def _note_ends(self) -> None:
        for column, end in ((0, BOTTOM), (len(self.relative) - 1, TOP)):
            walker = self.holder[:, column : column + 1]
            before = self.last.gather(1, walker)
            self.ends += int(((before != end) & (before != NOWHERE)).sum())
            self.last.scatter_(1, walker, end)

    def state_dict(self) -> dict[str, Any]:
        """Return the walkers' places and all counts."""
        return {
            "relative": torch.from_numpy(self.relative.copy()),
            "holder": self.holder,
            "parity": self.parity,
            "last": self.last,
            "attempted": self.attempted,
            "expected": self.expected,
            "ends": self.ends,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, for the same temperatures."""
        self.holder, self.last = state["holder"].clone(), state["last"].clone()
        self.attempted, self.expected = state["attempted"].clone(), state["expected"].clone()
        self.parity, self.ends = int(state["parity"]), int(state["ends"])
