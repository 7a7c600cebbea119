"""Hamiltonian exchange between restraints (Sugita, Kitao, Okamoto, J. Chem. Phys. 113, 6042, 2000).

Walkers in windows i and j, with restraints u_i and u_j in kT and CVs s_i and s_j, exchange their configurations with
probability ``min(1, exp(u_i(s_i) + u_j(s_j) - u_i(s_j) - u_j(s_i)))``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["WindowExchange", "matchings", "rearranged"]


def matchings(pairs: torch.Tensor) -> list[torch.Tensor]:
    """Split pairs ``[pairs, 2]`` into sets without a repeated window, by greedy edge colouring."""
    used: list[set[int]] = []
    sets: list[list[list[int]]] = []
    for first, second in pairs.tolist():
        free = (i for i, members in enumerate(used) if first not in members and second not in members)
        chosen = next(free, len(used))
        if chosen == len(used):
            used.append(set())
            sets.append([])
        used[chosen] |= {first, second}
        sets[chosen].append([first, second])
    return [torch.tensor(one, dtype=torch.long) for one in sets]


def rearranged(state: Mapping[str, Any], order: torch.Tensor) -> dict[str, Any]:
    """Return the state of dynamics in which walker i continues from the state of walker ``order[i]``."""
    return {name: None if value is None else value[order.to(value.device)] for name, value in state.items()}


class WindowExchange:
    """Exchanges configurations between walkers of neighbouring windows by the Metropolis criterion.

    In every set of disjoint pairs of windows, random walkers of one window are paired with random walkers of the
    other. The pairing does not depend on configurations, which preserves detailed balance.

    Parameters
    ----------
    restraint
        Energies ``[n]`` in kT of configurations ``s [n, cvs]`` under restraints at centres ``[n, cvs]``.
    centres
        Centre of each walker's restraint, ``[walkers, cvs]``.
    window
        Window of each walker, ``[walkers]``. Walkers of one window have the same centre.
    pairs
        Windows that exchange, ``[pairs, 2]``.
    generator
        Source of partners and acceptances (on the CPU).
    """

    def __init__(
        self,
        restraint: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        centres: torch.Tensor,
        window: torch.Tensor,
        pairs: torch.Tensor,
        generator: torch.Generator,
    ) -> None:
        self.restraint, self.centres, self.window, self.generator = restraint, centres.cpu(), window, generator
        self.sets = matchings(pairs)
        self.counts = torch.bincount(window, minlength=int(pairs.max()) + 1 if len(pairs) else 1)
        self.attempted = self.accepted = 0

    def attempt(self, s: torch.Tensor) -> torch.Tensor:
        """Attempt one exchange for every set of pairs.

        Parameters
        ----------
        s
            Collective variables of the walkers, ``[walkers, cvs]``.

        Returns
        -------
        order
            ``[walkers]``: walker i continues with the configuration of walker ``order[i]``.
        """
        s = s.double().cpu()
        order = torch.arange(len(s))
        for pairs in self.sets:
            places = self._places()
            first, second = places[pairs[:, 0]].flatten(), places[pairs[:, 1]].flatten()
            both = (first >= 0) & (second >= 0)
            a, b = first[both], second[both]
            s_a, s_b, centre_a, centre_b = s[order[a]], s[order[b]], self.centres[a], self.centres[b]
            before = self.restraint(s_a, centre_a) + self.restraint(s_b, centre_b)
            after = self.restraint(s_b, centre_a) + self.restraint(s_a, centre_b)
            uniform = torch.rand(len(a), generator=self.generator, dtype=torch.float64)
            accept = uniform.log() < before - after
            a, b = a[accept], b[accept]
            order[a], order[b] = order[b], order[a]
            self.attempted += len(accept)
            self.accepted += len(a)
        return order

    def _places(self) -> torch.Tensor:
        """Walkers of each window in random order, ``[windows, most walkers of a window]``, padded with -1."""
        key = self.window + torch.rand(len(self.window), generator=self.generator, dtype=torch.float64)
        by_window = key.argsort()
        owner = self.window[by_window]
        rank = torch.arange(len(owner)) - (self.counts.cumsum(0) - self.counts)[owner]
        places = torch.full((len(self.counts), int(self.counts.max())), -1, dtype=torch.long)
        places[owner, rank] = by_window
        return places
