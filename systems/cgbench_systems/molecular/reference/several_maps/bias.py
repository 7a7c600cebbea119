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
    """Well-tempered biases V_k(s_k) in kT, each on one set of torsions: their sum, then a mixture of them.

    With a bias factor g, each V_k converges to about -(1 - 1/g) times the free energy of its set. While it is built,
    the bias is the sum of all V_k, under which walkers cross every barrier. The frozen bias is
    ``U = -ln sum_k exp(f_k - V_k)``, with a first term V_0 = f_0 = 0. It samples a mixture of the unbiased ensemble
    and those under one V_k each, all with about the same share. A walker then crosses the barriers of one set at a
    time, and no weight ``exp(U)`` is above one; under the sum, weights spread more with each set. The weights are
    exact whatever the V_k are.

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

    bias_factor = 12.0  # barriers of 12 kT become 1 kT where one V_k acts
    width = 0.25
    height: Mapping[int, float] = {1: 5.0, 2: 50.0}

    def __init__(self, cvs: CollectiveVariables, maps: Sequence[tuple[int, ...]], more: int) -> None:
        self.sets = disjoint_sets(maps, len(cvs) + more)
        self.terms = [FourierBias(cvs.subset(one) if max(one) < len(cvs) else torsion_domain()) for one in self.sets]
        self.offsets: torch.Tensor | None = None  # f_k of the mixture

    def freeze(self) -> None:
        """Replace the sum by the mixture; the f_k are those of free energies that the biases imply."""
        scale = self.bias_factor / (self.bias_factor - 1.0)
        energies = [torch.from_numpy(term.on_grid()).flatten() for term in self.terms]
        self.offsets = torch.stack(
            [torch.logsumexp(scale * v, 0) - torch.logsumexp((scale - 1.0) * v, 0) for v in energies]
        )

    def energy(self, s: torch.Tensor) -> torch.Tensor:
        """Bias ``[batch]`` at torsions ``s [batch, torsions]``."""
        terms = torch.stack([term.energy(s[:, list(one)]) for one, term in zip(self.sets, self.terms, strict=True)])
        return terms.sum(0) if self.offsets is None else -self._exponents(terms).logsumexp(0)

    def energy_and_gradient(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bias ``[batch]`` and its gradient ``[batch, torsions]``."""
        found = [term.energy_and_gradient(s[:, list(one)]) for one, term in zip(self.sets, self.terms, strict=True)]
        terms = torch.stack([energy for energy, _ in found])
        if self.offsets is None:
            total, shares = terms.sum(0), torch.ones_like(terms)
        else:
            exponents = self._exponents(terms)
            total, shares = -exponents.logsumexp(0), exponents.softmax(0)[1:]
        gradient = torch.zeros_like(s)
        for one, (_, slope), share in zip(self.sets, found, shares, strict=True):
            gradient[:, list(one)] = share[:, None] * slope
        return total, gradient

    def _exponents(self, terms: torch.Tensor) -> torch.Tensor:
        """Return ``f_k - V_k`` of the terms of the mixture, ``[1 + sets, batch]``."""
        assert self.offsets is not None
        exponents = self.offsets.to(terms)[:, None] - terms
        return torch.cat([torch.zeros_like(exponents[:1]), exponents])

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
        """Return the coefficients of all terms, and the f_k."""
        return {"coefficients": [term.coefficients for term in self.terms], "offsets": self.offsets}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for term, coefficients in zip(self.terms, state["coefficients"], strict=True):
            term.coefficients = coefficients.clone()
        self.offsets = state["offsets"]
