"""Automatic internal coordinates of a molecule and its state space."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cgbench.errors import UserError
from cgbench_systems.molecular.geometry import dihedral, obtuse, triple_product
from cgbench_systems.molecular.internal_coordinates import Scales, ZMatrixCoordinates
from cgbench_systems.molecule.structure import Structure
from cgbench_systems.molecule.zmatrix import build_zmatrix

__all__ = ["MoleculeCoordinates", "automatic_coordinates"]

SCALES = Scales(0.005, 0.05, 0.1)  # nm, rad, rad: about one thermal width at 300 K
FLATTEST = 1e-4  # nm^3: a smaller triple product says nothing about chirality


class MoleculeCoordinates(ZMatrixCoordinates):
    """A Z-matrix whose state space keeps stereocentres and amide bonds as they are in the reference configuration.

    Attributes
    ----------
    stereocentres
        Atom, three of its neighbours, and the sign of their triple product.
    amides
        Torsion of each amide bond, and whether it is trans.
    """

    stereocentres: tuple[tuple[int, tuple[int, int, int], float], ...] = ()
    amides: tuple[tuple[tuple[int, int, int, int], bool], ...] = ()

    def in_state_space(self, x: torch.Tensor) -> torch.Tensor:
        """Whether all stereocentres and amide bonds are those of the reference configuration, boolean ``[batch]``.

        Dynamics at 300 K neither inverts a stereocentre nor isomerises an amide bond within any affordable time, so
        the density is confined to this part.
        """
        inside = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for atom, neighbours, sign in self.stereocentres:
            inside &= triple_product(x, atom, neighbours) * sign > 0
        if self.amides:
            quadruples, trans = zip(*self.amides, strict=True)
            found = obtuse(x, torch.tensor(quadruples, device=x.device))
            inside &= (found == torch.tensor(trans, device=x.device)).all(dim=1)
        return inside


def automatic_coordinates(
    structure: Structure, torsions: Sequence[tuple[int, int, int, int]], names: Sequence[str], reference: torch.Tensor
) -> MoleculeCoordinates:
    """Build coordinates around the chosen torsions.

    Parameters
    ----------
    structure
        The molecule.
    torsions, names
        Atoms of the collective variables, and their names.
    reference
        A minimum of the energy ``[atoms, 3]`` in nm, which also defines chirality and trans or cis.

    Raises
    ------
    UserError
        If there is no Z-matrix with these torsions, or a stereocentre is flat in the reference configuration.
    """
    graph = structure.graph
    zmatrix = build_zmatrix(graph, torsions, names, reference.numpy())
    coordinates = MoleculeCoordinates(
        reference_atoms=zmatrix.reference_atoms,
        rows=zmatrix.rows,
        cv_atoms=zmatrix.cv_atoms,
        periodic_atoms=zmatrix.free_atoms,
        reference=reference,
        scales=SCALES,
        rotors=zmatrix.rotors,
    )
    chosen = {frozenset(torsion[1:3]) for torsion in torsions}
    centres = []
    for centre in graph.stereocentres:
        volume = float(triple_product(reference[None], centre.atom, centre.neighbours))
        if abs(volume) < FLATTEST:
            raise UserError(
                f"{structure.source}: the stereocentre {structure.labels[centre.atom]} is flat; "
                "start from a better structure"
            )
        centres.append((centre.atom, centre.neighbours, 1.0 if volume > 0 else -1.0))
    amides = []
    for amide in graph.amide_bonds:
        if frozenset((amide.carbon, amide.nitrogen)) in chosen:
            continue  # a torsion that is a collective variable is free
        angle = float(dihedral(*(reference[None, atom] for atom in amide.torsion)))
        amides.append((amide.torsion, abs(angle) > torch.pi / 2))
    coordinates.stereocentres, coordinates.amides = tuple(centres), tuple(amides)
    return coordinates
