"""Internal coordinates of alanine dipeptide and its state space."""

from __future__ import annotations

import torch

from cgbench_systems.molecular.geometry import obtuse, triple_product
from cgbench_systems.molecular.internal_coordinates import Rotor, Scales, ZMatrixCoordinates, ZRow

__all__ = ["OMEGAS", "PHI", "PSI", "AlanineCoordinates", "default_coordinates", "literature_coordinates"]

PHI, PSI = (4, 6, 8, 14), (6, 8, 14, 16)
OMEGAS = ((1, 4, 6, 8), (8, 14, 16, 18))

BACKBONE: tuple[ZRow, ...] = (
    (4, 6, 8, 14),  # phi
    (16, 14, 8, 6),  # psi
    (9, 8, 6, 14),
    (10, 8, 6, 14),
    (1, 4, 6, 8),
    (7, 6, 8, 4),
    (15, 14, 8, 16),
    (18, 16, 14, 8),
    (5, 4, 6, 1),
    (17, 16, 14, 18),
)
RELATIVE_METHYLS: tuple[ZRow, ...] = (
    ((0, 1, 4, 6), (2, 1, 4, 0), (3, 1, 4, 0))
    + ((11, 10, 8, 6), (12, 10, 8, 11), (13, 10, 8, 11))
    + ((19, 18, 16, 14), (20, 18, 16, 19), (21, 18, 16, 19))
)
FREE_METHYLS: tuple[ZRow, ...] = (
    ((0, 1, 4, 6), (2, 1, 4, 6), (3, 1, 4, 6))
    + ((11, 10, 8, 6), (12, 10, 8, 6), (13, 10, 8, 6))
    + ((19, 18, 16, 14), (20, 18, 16, 14), (21, 18, 16, 14))
)
METHYL_HYDROGENS = (0, 2, 3, 11, 12, 13, 19, 20, 21)


class AlanineCoordinates(ZMatrixCoordinates):
    """Z-matrix of alanine dipeptide, with CA, N and C of alanine as reference atoms."""

    def in_state_space(self, x: torch.Tensor) -> torch.Tensor:
        """Return which configurations are L-alanine with both peptide bonds trans, boolean ``[batch]``.

        Molecular dynamics at 300 K neither inverts CA nor turns a peptide bond to cis in any affordable time.
        The densities of the methods and of the reference are therefore restricted to this state space.
        """
        trans = obtuse(x, torch.tensor(OMEGAS, device=x.device)).all(dim=1)
        return (triple_product(x, 8, (6, 14, 10)) > 0) & trans


def default_coordinates(reference: torch.Tensor) -> AlanineCoordinates:
    """Return 58 fine-grained coordinates: 55 nearly rigid ones and 3 methyl rotors folded to 120 degrees."""
    return AlanineCoordinates(
        reference_atoms=(8, 6, 14),
        rows=BACKBONE + RELATIVE_METHYLS,
        cv_atoms=(4, 16),
        periodic_atoms=(),
        reference=reference,
        scales=Scales(0.005, 0.05, 0.1),
        rotors=(Rotor(0, (2, 3)), Rotor(11, (12, 13)), Rotor(19, (20, 21))),
    )


def literature_coordinates(reference: torch.Tensor) -> AlanineCoordinates:
    """Return coordinates as used in the literature, with wide scales and 12 free dihedrals.

    The literature does not say which twelve dihedrals are free. Here they are phi and psi, those of the nine
    methyl hydrogens relative to heavy atoms, and the acetyl omega. With a uniform base density the latter also
    covers cis configurations, which are rejected as outside the state space.
    """
    return AlanineCoordinates(
        reference_atoms=(8, 6, 14),
        rows=BACKBONE + FREE_METHYLS,
        cv_atoms=(4, 16),
        periodic_atoms=(*METHYL_HYDROGENS, 1),
        reference=reference,
        scales=Scales(0.005, 0.15, 0.2),
    )
