"""A bias on the collective variables plus a bias along each side-chain torsion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.sampling.bias import FourierBias

__all__ = ["BINS", "SummedBias", "TorsionBias"]

BINS = 72  # along a torsion


def torsion_domain() -> CollectiveVariables:
    """Return the domain of one torsion."""
    return CollectiveVariables(("torsion",), (-np.pi,), (np.pi,), (True,), (BINS,))


class TorsionBias:
    """A sum of biases, each along one torsion: ``sum_j U_j(chi_j)``, in kT.

    While it is built, it is well-tempered metadynamics. The final bias, ``U = -max(F - level, 0)`` with F the free
    energy along the torsion, lowers all barriers to one level and leaves the distribution within low wells as it is, so
    that most samples have the same weight.

    Parameters
    ----------
    count
        Number of torsions.
    """

    bias_factor = 10.0
    rate = 0.05  # kT per step, over all walkers
    width = 0.25  # rad
    level = 1.0  # kT

    def __init__(self, count: int) -> None:
        self.terms = [FourierBias(torsion_domain()) for _ in range(count)]

    @classmethod
    def flattening(cls, free_energies: Sequence[Sequence[float]] | NDArray[np.float64]) -> TorsionBias:
        """Return the final bias for given free energies along each torsion ``[torsions, BINS]`` in kT."""
        bias = cls(0)
        lowered = [-np.maximum(np.array(row) - cls.level, 0.0) for row in free_energies]
        bias.terms = [FourierBias.from_grid(torsion_domain(), row) for row in lowered]
        return bias

    def free_energies(self) -> NDArray[np.float64]:
        """Return the free energies that the bias implies while it is built, ``[torsions, BINS]`` in kT."""
        scale = 1.0 / (1.0 - 1.0 / self.bias_factor)
        found = np.array([-scale * term.on_grid() for term in self.terms]).reshape(len(self.terms), BINS)
        return np.asarray(found - found.min(axis=1, keepdims=True))

    def freeze(self) -> NDArray[np.float64]:
        """Replace the bias by the final one, and return the free energies ``[torsions, BINS]`` in kT."""
        found = self.free_energies()
        self.terms = self.flattening(found).terms
        return found

    def energy(self, angles: torch.Tensor) -> torch.Tensor:
        """Bias ``[batch]`` at ``angles [batch, torsions]``."""
        terms = [term.energy(angles[:, j : j + 1]) for j, term in enumerate(self.terms)]
        return torch.stack(terms).sum(0) if terms else angles.new_zeros(len(angles))

    def energy_and_gradient(self, angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bias ``[batch]`` and its gradient ``[batch, torsions]`` at ``angles [batch, torsions]``."""
        found = [term.energy_and_gradient(angles[:, j : j + 1]) for j, term in enumerate(self.terms)]
        return torch.stack([energy for energy, _ in found]).sum(0), torch.cat([slope for _, slope in found], dim=1)

    def deposit(self, angles: torch.Tensor, steps: int) -> None:
        """Add well-tempered hills at ``angles [walkers, torsions]``, `steps` steps after the last ones."""
        for j, term in enumerate(self.terms):
            angle = angles[:, j : j + 1]
            heights = self.rate * steps / len(angles) * torch.exp(-term.energy(angle) / (self.bias_factor - 1.0))
            term.deposit(angle, heights, (self.width,))

    def state_dict(self) -> dict[str, Any]:
        """Return the coefficients of all terms."""
        return {"coefficients": [term.coefficients for term in self.terms]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for term, coefficients in zip(self.terms, state["coefficients"], strict=True):
            term.coefficients = coefficients.clone()


class SummedBias:
    """A bias on the collective variables (CVs) plus one on side-chain torsions, as a function of both.

    Without torsions it is the bias on the CVs, to the bit.

    Attributes
    ----------
    main, torsions
        The two biases.
    parts
        Both at the last call of `energy_and_gradient`, each ``[batch]``; the second is None without torsions.

    Parameters
    ----------
    main
        Bias on the CVs.
    torsions
        Bias on the torsions, which follow the CVs in ``s``.
    """

    def __init__(self, main: FourierBias, torsions: TorsionBias) -> None:
        self.main, self.torsions = main, torsions
        self.cvs = len(main.series.cvs)
        self.parts: tuple[torch.Tensor, torch.Tensor | None]

    def energy(self, s: torch.Tensor) -> torch.Tensor:
        """Bias ``[batch]`` at ``s [batch, cvs + torsions]``."""
        if not self.torsions.terms:
            return self.main.energy(s)
        return self.main.energy(s[:, : self.cvs]) + self.torsions.energy(s[:, self.cvs :])

    def energy_and_gradient(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bias ``[batch]`` and its gradient ``[batch, cvs + torsions]``."""
        if not self.torsions.terms:
            energy, gradient = self.main.energy_and_gradient(s)
            self.parts = (energy, None)
            return energy, gradient
        energy, gradient = self.main.energy_and_gradient(s[:, : self.cvs])
        more, slope = self.torsions.energy_and_gradient(s[:, self.cvs :])
        self.parts = (energy, more)
        return energy + more, torch.cat([gradient, slope], dim=1)
