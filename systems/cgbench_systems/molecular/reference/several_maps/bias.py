"""A bias on every torsion of a molecule: one for each of a set of disjoint maps, and one for each torsion left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.sampling.bias import FourierBias
from cgbench_systems.molecular.reference.side_chains.bias import torsion_domain

__all__ = ["TorsionsBias", "disjoint_sets"]

LARGEST_SET = 2  # torsions with a joint bias


def disjoint_sets(maps: Sequence[tuple[int, ...]], count: int) -> list[tuple[int, ...]]:
    """Return disjoint sets of torsions that together are all of `count`: maps as far as possible, then single ones.

    Maps are taken in their order, where they have at most two torsions and none that an earlier one has.
    """
    sets: list[tuple[int, ...]] = []
    taken: set[int] = set()
    for one in maps:
        if len(one) <= LARGEST_SET and not taken & set(one):
            sets.append(tuple(one))
            taken |= set(one)
    return sets + [(single,) for single in range(count) if single not in taken]


class TorsionsBias:
    """A sum of well-tempered biases ``sum_k V_k(s_k)`` in kT, each on one set of torsions.

    With a bias factor g, each V_k converges to about -(1 - 1/g) times the free energy of its set. The weight of a
    sample is the exponential of the sum, which is exact whatever the biases are.

    Attributes
    ----------
    bias_factor, width
        The bias factor, and the width of a hill in rad.
    height
        Height of one deposition over all walkers in kT, by number of torsions of the set.

    Parameters
    ----------
    cvs
        The collective variables (CVs), all of them torsions.
    maps
        Maps, as indices of CVs.
    more
        Number of further torsions, which follow the CVs.
    """

    bias_factor = 3.0
    width = 0.25
    height: Mapping[int, float] = {1: 5.0, 2: 50.0}

    def __init__(self, cvs: CollectiveVariables, maps: Sequence[tuple[int, ...]], more: int) -> None:
        self.sets = disjoint_sets(maps, len(cvs) + more)
        self.terms = [FourierBias(cvs.subset(one) if max(one) < len(cvs) else torsion_domain()) for one in self.sets]

    def energy(self, s: torch.Tensor) -> torch.Tensor:
        """Bias ``[batch]`` at torsions ``s [batch, torsions]``."""
        terms = [term.energy(s[:, list(one)]) for one, term in zip(self.sets, self.terms, strict=True)]
        return torch.stack(terms).sum(0)

    def energy_and_gradient(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bias ``[batch]`` and its gradient ``[batch, torsions]``."""
        total, gradient = s.new_zeros(len(s)), torch.zeros_like(s)
        for one, term in zip(self.sets, self.terms, strict=True):
            energy, slope = term.energy_and_gradient(s[:, list(one)])
            total = total + energy
            gradient[:, list(one)] = slope
        return total, gradient

    def deposit(self, s: torch.Tensor) -> None:
        """Add a hill at each of ``s [walkers, torsions]`` to the bias of every set."""
        for one, term in zip(self.sets, self.terms, strict=True):
            place = s[:, list(one)]
            heights = self.height[len(one)] / len(s) * torch.exp(-term.energy(place) / (self.bias_factor - 1.0))
            term.deposit(place, heights, (self.width,) * len(one))

    @property
    def largest(self) -> float:
        """Sum of the largest values of all terms in kT."""
        return math.fsum(float(term.on_grid().max()) for term in self.terms)

    def state_dict(self) -> dict[str, Any]:
        """Return the coefficients of all terms."""
        return {"coefficients": [term.coefficients for term in self.terms]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for term, coefficients in zip(self.terms, state["coefficients"], strict=True):
            term.coefficients = coefficients.clone()
