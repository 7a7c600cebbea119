"""What a molecule offers, in words and in a picture: torsions, stereocentres, amide bonds, equal hydrogens, rings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgbench.contracts.system import maps_of
from cgbench.errors import UserError
from cgbench_systems.molecular.geometry import dihedral
from cgbench_systems.molecular.parameters import read_parameters
from cgbench_systems.molecule.graph import FreeTorsion
from cgbench_systems.molecule.structure import Structure
from cgbench_systems.molecule.system import Molecule
from cgbench_systems.molecule.torsions import named_torsions

__all__ = ["definition_text", "describe_structure", "describe_system", "draw_system"]

Torsion = tuple[int, int, int, int]


def describe_structure(structure: Structure) -> list[str]:
    """Return one line for each thing that was found in a structure."""
    graph, labels = structure.graph, structure.labels
    lines = [f"{structure.source}: {len(labels)} atoms in {len(structure.residue_numbers())} residues"]
    lines += _torsion_lines(structure)
    lines += [f"stereocentre   {labels[centre.atom]}" for centre in graph.stereocentres]
    for amide in graph.amide_bonds:
        angle = _angle(structure.positions, amide.torsion)
        kind = "trans" if abs(angle) > 90 else "cis"
        lines.append(f"amide bond     {labels[amide.carbon]} - {labels[amide.nitrogen]}: {kind} ({angle:.0f} degrees)")
    lines += [f"equal H        three on {labels[atom]}" for atom, _ in graph.rotors]
    for bond in graph.double_bonds:
        angle = _angle(structure.positions, bond.torsion)
        kind = "trans" if abs(angle) > 90 else "cis"
        lines.append(f"double bond    {labels[bond.bond[0]]} - {labels[bond.bond[1]]}: {kind} ({angle:.0f} degrees)")
    ring_atoms = sorted({atom for bond in graph.ring_bonds for atom in bond})
    if ring_atoms:
        lines.append(f"ring atoms     {', '.join(labels[atom] for atom in ring_atoms)}")
    return lines


def _torsion_lines(structure: Structure) -> list[str]:
    graph, labels = structure.graph, structure.labels
    named = named_torsions(structure)
    wells = {frozenset(free.bond): free.wells for free in graph.free_torsions}
    lines = []
    for name, atoms in named.items():
        rotates = f"{wells[frozenset(atoms[1:3])]} wells at most" if frozenset(atoms[1:3]) in wells else "stiff"
        path = " - ".join(labels[atom] for atom in atoms)
        lines.append(f"torsion        {name:<8} {path}: {_angle(structure.positions, atoms):.0f} degrees, {rotates}")
    known = {frozenset(atoms[1:3]) for atoms in named.values()}
    for free in graph.free_torsions:
        if frozenset(free.bond) not in known:
            path = " - ".join(labels[atom] for atom in _along(structure, free))
            lines.append(f"torsion        {'(no name)':<8} {path}: {free.wells} wells at most")
    return lines


def _along(structure: Structure, free: FreeTorsion) -> Torsion:
    """Return four atoms of a torsion about a bond that rotates, heavy ones at its ends where there are any."""
    graph = structure.graph
    i, j = free.bond
    a, d = (
        min((k for k in graph.neighbours[atom] if k != other), key=lambda k: (graph.is_hydrogen(k), k))
        for atom, other in ((i, j), (j, i))
    )
    return a, i, j, d


def _unnamed(structure: Structure) -> list[str]:
    """Return entries of `cvs` for torsions that rotate, those between heavy atoms first."""
    graph, labels = structure.graph, structure.labels
    paths = sorted(
        (_along(structure, free) for free in graph.free_torsions),
        key=lambda path: sum(graph.is_hydrogen(atom) for atom in path),
    )
    names = ["-".join(labels[atom].partition(":")[2] for atom in path) for path in paths]
    if len(set(names)) < len(names):  # of several residues with equal names of atoms
        names = ["-".join(labels[atom].replace(":", "") for atom in path) for path in paths]
    quoted = [", ".join(f'"{labels[atom]}"' for atom in path) for path in paths]
    return [f'{{name: "{name}", dihedral: [{atoms}]}}' for name, atoms in zip(names, quoted, strict=True)]


def _angle(positions: np.ndarray, atoms: Torsion) -> float:
    x = torch.from_numpy(positions)
    return float(np.degrees(float(dihedral(*(x[atom] for atom in atoms)))))


def definition_text(structure: Structure, origin: str, forces: str, temperature: float) -> str:
    """Return the file that defines a structure as a system, with all torsions for the user to choose from.

    Torsions about bonds of rings are left out: they cannot be collective variables.

    Parameters
    ----------
    origin
        The line that says where the structure comes from: ``pdb: ...`` or ``sequence: ...``.
    forces
        The line that says where its energy comes from: ``force_field: ...`` or ``openmm_system: ...``.

    Raises
    ------
    UserError
        If the molecule has no torsion that can be a collective variable.
    """
    rings = structure.graph.ring_bonds
    named = [name for name, atoms in named_torsions(structure).items() if frozenset(atoms[1:3]) not in rings]
    unnamed = [] if named else _unnamed(structure)
    if not named and not unnamed:
        raise UserError(
            f"{structure.source} has no bond that rotates, other than those of methyl groups: no torsion is left to "
            "be a collective variable (rings cannot be)"
        )
    backbone = [name for name in named if name.startswith(("phi", "psi"))]
    ordered = sorted(backbone, key=lambda name: (int(name.split()[1]) if name.split()[1].isdigit() else 0, name))
    pairs = [[f"{kind} {name.removeprefix('phi ')}" for kind in ("phi", "psi")] for name in ordered if "phi" in name]
    paired = [name for pair in pairs if set(pair) <= set(named) for name in pair]
    chosen = paired or (ordered or list(named))[:2]
    lines = [
        origin,
        forces,
        f"temperature: {temperature:g}  # K",
        f"# some of: {', '.join(named)}"
        if named
        else "# torsions without IUPAC names; remove # where one is to be a CV",
    ]
    if named:
        lines.append(f"cvs: [{', '.join(chosen)}]")
    else:
        lines += ["cvs:", *(f"  {'' if number < 2 else '# '}- {entry}" for number, entry in enumerate(unnamed))]
    if len(chosen) > 2:
        lines += [
            "# what is scored, at most three CVs each; methods that need one grid over all CVs take at most two CVs",
            f"maps: [{', '.join('[' + ', '.join(pair) + ']' for pair in pairs if set(pair) <= set(named))}]",
        ]
    lines += [
        "# basins, for the free-energy differences of a score; ranges in degrees, upwards, across 180 if need be:",
        f"# basins: {{left: {{{chosen[0] if chosen else 'name of a CV'}: [0, 120]}}}}",
        "",
    ]
    return "\n".join(lines)


def describe_system(system: Molecule) -> list[str]:
    """Return lines on collective variables, fine-grained coordinates and the state space of a system."""
    labels, coordinates = system.structure.labels, system.coordinates
    lines = describe_structure(system.structure)
    lines.append(f"system {system.name}, version {system.version}, {system.temperature:g} K")
    lines.append(f"  energy: {system.force_field}, {_engines(system)}")
    start = system.collective_variables(system.initial_configuration()[None])[0]
    for name, atoms, value in zip(system.cvs.names, system.torsions, np.degrees(start.cpu().numpy()), strict=True):
        lines.append(f"  CV {name}: {' - '.join(labels[atom] for atom in atoms)}, {value:.1f} degrees at the start")
    lines += [f"  map {one.name}: {' x '.join(str(n) for n in one.cvs.bins)} bins" for one in maps_of(system)]
    for name, periodic in zip(coordinates.names, coordinates.periodic.tolist(), strict=True):
        if periodic:
            lines.append(f"  free: {_readable(name, labels)}")
    kept = ", ".join(labels[atom] for atom, _, _ in coordinates.stereocentres)
    lines.append(f"  state space: {f'chirality of {kept}' if kept else 'no stereocentres'}")
    for quadruple, trans in coordinates.amides:
        lines.append(f"  state space: {labels[quadruple[1]]} - {labels[quadruple[2]]} {'trans' if trans else 'cis'}")
    return lines


def _engines(system: Molecule) -> str:
    """Say in what the molecule is, as far as the batched force field knows it, and which engines can evaluate it."""
    try:
        parameters = read_parameters(system.openmm_system())
    except UserError as error:
        return f"only by --engine openmm: {str(error).partition(';')[0]}"
    return f"{'in vacuum' if parameters.born is None else 'with OBC implicit solvent'}, without cutoff"


def _readable(name: str, labels: Sequence[str]) -> str:
    """Replace atom numbers by labels in ``dihedral 14-12-8-6``; other names, such as ``chi1 2``, stay as they are."""
    if not re.fullmatch(r"\w+ \d+(-\d+)+", name):
        return name
    kind, _, atoms = name.partition(" ")
    return f"{kind} {' - '.join(labels[int(atom)] for atom in atoms.split('-'))}"


def draw_system(system: Molecule, path: Path) -> None:
    """Draw the molecule in the plane of its largest extent, with the bonds of its torsions in colour.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    from cgbench.drawing.style import COLOURS, new_figure, save_figure, theme

    with theme():
        figure = new_figure(4.8, 6.0)
        _draw_bonds(system, figure.add_subplot(), list(COLOURS.values()))
        save_figure(figure, path)


def _draw_bonds(system: Molecule, axes: Any, colours: Sequence[str]) -> None:
    """Draw bonds and labels; one colour for each collective variable, dots for the other free torsions."""
    structure = system.structure
    x = system.initial_configuration().cpu().numpy()
    centred = x - x.mean(axis=0)
    plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    for i, others in enumerate(structure.graph.neighbours):
        for j in others:
            if i < j:
                axes.plot(*plane[[i, j]].T, color="0.6", linewidth=1.5, zorder=1)
    free = {frozenset(torsion.bond) for torsion in structure.graph.free_torsions}
    for bond in free - {frozenset(atoms[1:3]) for atoms in system.torsions}:
        axes.plot(*plane[sorted(bond)].T, color="0.2", linewidth=3, linestyle=":", zorder=2)
    for name, atoms, colour in zip(system.cvs.names, system.torsions, colours, strict=False):
        axes.plot(*plane[list(atoms[1:3])].T, color=colour, linewidth=4, zorder=2, label=name)
    for atom, label in enumerate(structure.labels):
        hydrogen = structure.graph.is_hydrogen(atom)
        axes.annotate(
            label,
            plane[atom],
            ha="center",
            va="center",
            fontsize=5 if hydrogen else 7,
            color="0.5" if hydrogen else "0",
        )
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.legend()
