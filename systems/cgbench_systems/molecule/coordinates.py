"""Internal coordinates of a molecule, automatic or given, and its state space."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cgbench.contracts.coordinates import free_torsions
from cgbench.errors import UserError
from cgbench_systems.molecular.geometry import dihedral, obtuse, triple_product
from cgbench_systems.molecular.internal_coordinates import Rotor, Scales, ZMatrixCoordinates
from cgbench_systems.molecular.system import Torsion
from cgbench_systems.molecule.definition import Definition, ZMatrixDefinition
from cgbench_systems.molecule.structure import Structure
from cgbench_systems.molecule.torsions import named_torsions
from cgbench_systems.molecule.zmatrix import ZMatrix, build_zmatrix

__all__ = ["MoleculeCoordinates", "molecule_coordinates"]

Centre = tuple[int, tuple[int, int, int], float]
SCALES = Scales(0.005, 0.05, 0.1)  # nm, rad, rad: about one thermal width at 300 K
FLATTEST = 1e-4  # nm^3: a smaller triple product says nothing about chirality


class MoleculeCoordinates(ZMatrixCoordinates):
    """A Z-matrix whose state space keeps stereocentres, amide and double bonds as in the reference configuration.

    Attributes
    ----------
    stereocentres
        Atom, three of its neighbours, and the sign of their triple product; also those that only the names of equal
        atoms make (`_stereocentres`).
    amides
        Torsion of each amide bond, and of each double bond with two configurations, and whether it is trans.
    """

    stereocentres: tuple[Centre, ...] = ()
    amides: tuple[tuple[Torsion, bool], ...] = ()

    def in_state_space(self, x: torch.Tensor) -> torch.Tensor:
        """Whether all stereocentres, amide and double bonds are as in the reference, and x finite, boolean ``[batch]``.

        Dynamics at 300 K neither inverts a stereocentre nor isomerises an amide bond within any affordable time, so
        the density is confined to this part.
        """
        inside = x.flatten(1).isfinite().all(dim=1)
        for atom, neighbours, sign in self.stereocentres:
            inside &= triple_product(x, atom, neighbours) * sign > 0
        if self.amides:
            quadruples, trans = zip(*self.amides, strict=True)
            found = obtuse(x, torch.tensor(quadruples, device=x.device))
            inside &= (found == torch.tensor(trans, device=x.device)).all(dim=1)
        return inside


def molecule_coordinates(
    structure: Structure,
    definition: Definition,
    torsions: Sequence[Torsion],
    reference: torch.Tensor,
) -> dict[str, MoleculeCoordinates]:
    """Build the coordinates that a definition gives, or automatic ones around the chosen torsions.

    Parameters
    ----------
    structure
        The molecule.
    definition
        The content of the molecule's file.
    torsions
        Atoms of the collective variables.
    reference
        A minimum of the energy ``[atoms, 3]`` in nm, which also defines chirality and trans or cis.

    Returns
    -------
    dict
        By name of the set; one is ``default``.

    Raises
    ------
    UserError
        If there is no Z-matrix with these torsions, a given one is wrong, or a stereocentre is flat in the reference
        configuration.
    """
    names = [cv.name for cv in definition.cvs]
    if definition.coordinates:
        zmatrices = {
            name: (_given(structure, one, name, torsions, names), Scales(*one.scales))
            for name, one in definition.coordinates.items()
        }
    else:
        zmatrices = {"default": (_automatic(structure, torsions, names, reference), SCALES)}
    stereocentres = _stereocentres(structure, definition, torsions, reference)
    amides = _amides(structure, torsions, reference)
    if definition.positions is None and not definition.stereocentres:
        _check_unchanged(structure, stereocentres, amides)
    sets = {}
    for name, (zmatrix, scales) in zmatrices.items():
        try:
            coordinates = MoleculeCoordinates(
                reference_atoms=zmatrix.reference_atoms,
                rows=zmatrix.rows,
                cv_atoms=zmatrix.cv_atoms,
                periodic_atoms=zmatrix.free_atoms,
                reference=reference,
                scales=scales,
                rotors=zmatrix.rotors,
            )
        except ValueError as error:
            numbered = ", ".join(f"{number} {label}" for number, label in enumerate(structure.labels))
            raise UserError(f"coordinates {name}: {error} (atoms: {numbered})") from error
        coordinates.stereocentres, coordinates.amides = stereocentres, amides
        coordinates.names = _named(coordinates, structure)
        sets[name] = coordinates
    return sets


def _named(coordinates: ZMatrixCoordinates, structure: Structure) -> tuple[str, ...]:
    """Return the names of the coordinates, with IUPAC names or labels of atoms where a torsion turns freely."""
    names = list(coordinates.names)
    known = {frozenset(atoms[1:3]): name for name, atoms in named_torsions(structure).items()}
    for position in free_torsions(coordinates).tolist():
        atoms = [int(number) for number in names[position].split()[1].split("-")]
        labels = "-".join(structure.labels[atom] for atom in atoms)
        names[position] = known.get(frozenset(atoms[1:3]), f"dihedral {labels}")
    return tuple(names)


def _automatic(
    structure: Structure, torsions: Sequence[Torsion], names: Sequence[str], reference: torch.Tensor
) -> ZMatrix:
    return build_zmatrix(structure.graph, torsions, names, reference.numpy(), labels=structure.labels)


def _given(
    structure: Structure, given: ZMatrixDefinition, where: str, torsions: Sequence[Torsion], names: Sequence[str]
) -> ZMatrix:
    """Return a Z-matrix from its definition by labels of atoms."""

    def atoms(labels: Sequence[str]) -> tuple[int, ...]:
        return tuple(structure.index(label) for label in labels)

    graph = structure.graph
    (a, b, c), rows = atoms(given.start), [atoms(row) for row in given.rows]
    cv_atoms = []
    for torsion, name in zip(torsions, names, strict=True):
        found = [row[0] for row in rows if row in (torsion, torsion[::-1])]
        if len(found) != 1:
            labels = ", ".join(structure.labels[atom] for atom in torsion)
            raise UserError(f"coordinates {where}: {name} must be the dihedral of one row, [{labels}] or its reverse")
        cv_atoms.append(found[0])
    rotors = [Rotor(first, (second, third)) for first, second, third in map(atoms, given.rotors)]
    for rotor in rotors:
        if set(graph.neighbours[rotor.first]) & structure.unequal:
            raise UserError(
                f"coordinates {where}: the energy tells the three hydrogens of rotor {structure.labels[rotor.first]} "
                "apart: leave it out of rotors, and make the first one's dihedral free"
            )
    return ZMatrix(
        (a, b, c), tuple((p, i, j, k) for p, i, j, k in rows), tuple(cv_atoms), atoms(given.free), tuple(rotors)
    )


def _stereocentres(
    structure: Structure, definition: Definition, torsions: Sequence[Torsion], reference: torch.Tensor
) -> tuple[Centre, ...]:
    """Return atom, three neighbours and sign of each stereocentre.

    A CV that ends in one of two equal atoms, such as chi1 of valine in CG1, tells them apart, and so makes their atom a
    stereocentre: if the two exchanged their names, the CV would have another value in the same configuration.
    """
    graph, labels = structure.graph, structure.labels
    neighbours = {centre.atom: centre.neighbours for centre in graph.stereocentres}
    for end, centre in ((one[0], one[1]) for torsion in torsions for one in (torsion, torsion[::-1])):
        around = graph.neighbours[centre]
        if len(around) == 4 and [graph.classes[one] for one in around].count(graph.classes[end]) == 2:
            neighbours.setdefault(centre, (around[0], around[1], around[2]))
    for label, others in definition.stereocentres.items():
        atom, chosen = structure.index(label), tuple(structure.index(other) for other in others)
        if atom not in neighbours or not set(chosen) <= set(graph.neighbours[atom]) or len(set(chosen)) < 3:
            bonded = ", ".join(labels[other] for other in graph.neighbours[atom])
            raise UserError(f"stereocentres: {label} must be one, with three neighbours of it out of {bonded}")
        neighbours[atom] = (chosen[0], chosen[1], chosen[2])
    centres = []
    for atom, three in neighbours.items():
        volume = float(triple_product(reference[None], atom, three))
        if abs(volume) < FLATTEST:
            raise UserError(
                f"{structure.source}: the stereocentre {labels[atom]} is flat; start from a better structure"
            )
        centres.append((atom, three, 1.0 if volume > 0 else -1.0))
    return tuple(centres)


def _amides(
    structure: Structure, torsions: Sequence[Torsion], reference: torch.Tensor
) -> tuple[tuple[Torsion, bool], ...]:
    """Return the torsion of each amide or double bond that no collective variable turns, and whether it is trans."""
    chosen = {frozenset(torsion[1:3]) for torsion in torsions}
    amides = []
    graph = structure.graph
    for torsion in (*(a.torsion for a in graph.amide_bonds), *(d.torsion for d in graph.double_bonds)):
        if frozenset(torsion[1:3]) not in chosen:
            angle = float(dihedral(*(reference[None, atom] for atom in torsion)))
            amides.append((torsion, abs(angle) > torch.pi / 2))
    return tuple(amides)


def _check_unchanged(structure: Structure, centres: Sequence[Centre], amides: Sequence[tuple[Torsion, bool]]) -> None:
    """Refuse a structure whose state space the minimisation has chosen: flat, or not the one that came out."""
    x, labels = torch.from_numpy(structure.positions)[None], structure.labels
    for atom, three, sign in centres:
        if float(triple_product(x, atom, three)) * sign < FLATTEST:
            raise UserError(
                f"{structure.source}: the stereocentre {labels[atom]} is flat, or is inverted by minimisation: start "
                "from a structure with its three-dimensional shape"
            )
    for torsion, trans in amides:
        angle = float(dihedral(*(x[:, atom] for atom in torsion)))
        if (abs(angle) > torch.pi / 2) != trans:
            raise UserError(
                f"{structure.source}: minimisation turns the bond {labels[torsion[1]]} - {labels[torsion[2]]} from "
                f"{'cis to trans' if trans else 'trans to cis'}: start from a structure where it is well within one"
            )
