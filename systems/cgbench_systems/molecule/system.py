"""A molecule from a file as a system."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import openmm
import torch
from numpy.typing import NDArray
from openmm import app, unit

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.maps import PMF_GRID, States
from cgbench.contracts.pmf import basin_mask
from cgbench.contracts.reference import Reference, ReferenceBuilder
from cgbench.contracts.system import Basin, maps_of, traits_of
from cgbench.errors import NoReference, UserError
from cgbench_systems.molecular.parameters import read_parameters
from cgbench_systems.molecular.system import Columns, MolecularSystem, Torsion, angle_range, torsion_cvs
from cgbench_systems.molecule.coordinates import MoleculeCoordinates, molecule_coordinates
from cgbench_systems.molecule.definition import BINS, COARSE_BINS, Definition, Range, read_definition
from cgbench_systems.molecule.density import check_invariance, check_system, reference_context, unequal_hydrogens
from cgbench_systems.molecule.sequence import build_peptide
from cgbench_systems.molecule.structure import Structure, check_molecule, create_system, read_pdb, read_system
from cgbench_systems.molecule.torsions import torsion

__all__ = ["Molecule", "load_molecule"]

TOLERANCE = 1e-3  # kJ/(mol nm), root mean square force of the minimised configuration


class Molecule(MolecularSystem):
    """A molecule that a file defines; `load_molecule` makes one class for each file.

    Attributes
    ----------
    definition
        Content of the file.
    folder
        Folder of the file, where paths start.
    file
        The file.
    """

    coordinates: MoleculeCoordinates
    definition: ClassVar[Definition]
    file: ClassVar[Path]

    def __init__(self, *, engine: str | None = None, device: str = "cpu") -> None:
        super().__init__(engine=engine, device=device)
        self.temperature = self.definition.temperature
        self.force_field = ", ".join(self.definition.force_field) or str(self.definition.openmm_system)
        self.reference_folder = self.file.with_suffix(".reference")
        names = [cv.name for cv in self.definition.cvs]
        self.torsions = tuple(self._torsion(cv.name, cv.dihedral) for cv in self.definition.cvs)
        maps = self.definition.named_maps()
        coarse = max(len(one) for one in maps) > 2
        self.cvs = torsion_cvs(names, self.definition.bins or (COARSE_BINS if coarse else BINS))
        self.maps = tuple(tuple(names.index(cv) for cv in one) for one in maps)
        self.states = _states(self.definition.states, names)
        basins = self.definition.basins or ({} if self.states else _halves(maps))
        self.basins = tuple(_basin(name, ranges, maps) for name, ranges in basins.items())
        self._check_basins()
        if self.engine == "torch":
            read_parameters(self.openmm_system())  # refuses what the engine does not support, before anything runs
        start = torch.from_numpy(self._start.copy())
        self.structure = replace(self.structure, unequal=self._unequal_hydrogens())
        self._sets = molecule_coordinates(self.structure, self.definition, self.torsions, start)
        self.coordinates = self._sets["default"]

    @property
    def coordinate_sets(self) -> Mapping[str, Coordinates]:
        """Sets of coordinates by name: ``default``, and others that the file gives."""
        return self._sets

    def _check_basins(self) -> None:
        """Refuse a basin so small that no bin lies in it: no reference could find its population."""
        for basin in self.basins:
            cvs = maps_of(self)[basin.map].cvs
            if not basin_mask(cvs, basin.contains).any():
                raise UserError(
                    f"system {self.file}: no bin of {360 / cvs.bins[0]:g} degrees has its centre in basin "
                    f"{basin.name!r}: make it larger"
                )

    def _unequal_hydrogens(self) -> frozenset[int]:
        """Check the density at the start; return atoms with three hydrogens that the energy tells apart."""
        state = self._serialized, self._start.tobytes(), self.temperature
        check_invariance(*state, self.structure.source)
        return unequal_hydrogens(*state, self.structure.graph.rotors)

    def _torsion(self, name: str, atoms: list[str] | None) -> Torsion:
        if atoms is None:
            return torsion(self.structure, name)
        a, b, c, d = (self.structure.index(label) for label in atoms)
        return a, b, c, d

    @cached_property
    def structure(self) -> Structure:
        """The molecule as read or built."""
        if self.definition.sequence is not None:
            topology, positions = build_peptide(self.definition.sequence)
            structure = Structure(topology, positions, f"sequence {self.definition.sequence}")
            check_molecule(structure)
            return structure
        return read_pdb(self.file.parent / str(self.definition.pdb))

    def topology(self) -> app.Topology:
        """Return OpenMM's topology."""
        return self.structure.topology

    @cached_property
    def _serialized(self) -> str:
        if self.definition.openmm_system is None:
            system = create_system(self.structure, self.definition.force_field, self.file.parent)
            check_system(system, ", ".join(self.definition.force_field))
            return str(openmm.XmlSerializer.serialize(system))
        path = self.file.parent / self.definition.openmm_system
        serialized = read_system(path, self.structure)
        check_system(openmm.XmlSerializer.deserialize(serialized), f"openmm_system {path}")
        return serialized

    def openmm_system(self) -> openmm.System:
        """Return a new ``openmm.System`` of the molecule."""
        return openmm.XmlSerializer.deserialize(self._serialized)

    @cached_property
    def _start(self) -> NDArray[np.float64]:
        """The positions that the file gives, or its structure, minimised, ``[atoms, 3]`` in nm."""
        if self.definition.positions is not None:
            return _read_positions(self.file.parent / self.definition.positions, len(self.structure.labels))
        return _minimised(self._serialized, self.structure.positions.tobytes(), self.structure.source)

    def initial_configuration(self) -> torch.Tensor:
        """Return the given positions, or the minimum next to the structure of the file, ``[atoms, 3]`` in nm."""
        return torch.from_numpy(self._start.copy()).to(self.device)

    def reference(self) -> Reference:
        """Return the reference PMF beside the file, in ``<file without suffix>.reference``.

        Raises
        ------
        NoReference
            If none has been built.
        UserError
            If it is of another version of the system.
        """
        if not self.reference_folder.exists():
            build = f"`cgbench reference build {self.file} --out work --certify`"
            raise NoReference(f"{self.name} has no reference yet: {self._unreferenced or build}")
        reference = super().reference()
        version = reference.details.get("system_version")
        if version != self.version:
            raise UserError(
                f"the reference in {self.reference_folder} is of version {version}, {self.name} is of {self.version}"
            )
        return reference

    @property
    def _unreferenced(self) -> str:
        """Why no reference can be built; empty if one can."""
        if PMF_GRID in traits_of(self) and len(self.cvs) == 1:
            return "a reference can be built for two CVs or several maps, not for one CV"
        return ""

    def reference_builder(self, folder: Path) -> ReferenceBuilder:
        """Return the builder that takes minutes to an hour, or that of several maps.

        Raises
        ------
        UserError
            For a molecule with one CV, which no builder serves.
        """
        if self._unreferenced:
            raise UserError(f"{self.name}: {self._unreferenced}")
        from cgbench_systems.molecular.reference.build import ShorterReferenceBuilder

        if PMF_GRID not in traits_of(self):
            return super().reference_builder(folder)
        facts = {"force_field": self.force_field}
        return ShorterReferenceBuilder(self, self.openmm_system(), folder, self.reference_folder, facts)


def _read_positions(path: Path, atoms: int) -> NDArray[np.float64]:
    """Read a configuration ``[atoms, 3]`` in nm from a text file."""
    try:
        positions = np.loadtxt(path, ndmin=2)
    except OSError as error:
        raise UserError(f"positions {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"positions {path} must have three numbers in each line: {error}") from error
    if positions.shape != (atoms, 3) or not np.isfinite(positions).all():
        raise UserError(f"positions {path} must be {atoms} lines of three finite numbers, the atoms in nm")
    return positions


@cache
def _minimised(serialized: str, positions: bytes, source: str) -> NDArray[np.float64]:
    """Minimise a structure, once in a process: a run builds its system several times."""
    context = reference_context(serialized, source)
    context.setPositions(np.frombuffer(positions).reshape(-1, 3))
    energy = context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    if not np.isfinite(energy):
        raise UserError(f"{source}: the energy of the structure is not finite: do atoms overlap?")
    openmm.LocalEnergyMinimizer.minimize(context, TOLERANCE, 0)
    minimum = context.getState(getPositions=True).getPositions(asNumpy=True)
    return np.array(minimum.value_in_unit(unit.nanometer), dtype=np.float64)


def _region(ranges: Mapping[str, Range], names: Sequence[str]) -> Callable[[Columns], NDArray[np.bool_]]:
    """Return the function that tells whether CVs with these names are within ranges in degrees."""
    return angle_range([(r[0], r[1]) if (r := ranges.get(name)) else None for name in names])


def _basin(name: str, ranges: Mapping[str, Range], maps: Sequence[Sequence[str]]) -> Basin:
    """Return a basin of the first map that holds all its CVs."""
    number = next(k for k, one in enumerate(maps) if set(ranges) <= set(one))
    return Basin(name, _region(ranges, maps[number]), number)


def _halves(maps: Sequence[Sequence[str]]) -> dict[str, dict[str, Range]]:
    """Return the two halves of each CV, for molecules whose file names no basins or states."""
    cvs = dict.fromkeys(cv for one in maps for cv in one)
    return {f"{cv}{sign}0": {cv: limits} for cv in cvs for sign, limits in (("<", [-180.0, 0.0]), (">", [0.0, 180.0]))}


def _states(definitions: Mapping[str, Mapping[str, Range]], names: Sequence[str]) -> States | None:
    if not definitions:
        return None
    regions = [_region(ranges, names) for ranges in definitions.values()]

    def assign(s: NDArray[np.float64]) -> NDArray[np.int64]:
        index = np.full(len(s), -1, dtype=np.int64)
        for number, contains in enumerate(regions):
            index[contains(list(s.T))] = number
        return index

    return States(tuple(definitions), assign)


def load_molecule(path: Path) -> type[Molecule]:
    """Return the system that a file defines, as a class.

    Raises
    ------
    UserError
        If the file cannot be read or a setting is wrong; mistakes in the structure show when the class is called.
    """
    definition, name, version = read_definition(path)
    members = {"definition": definition, "file": path.resolve(), "name": name, "version": version}
    return type(f"Molecule_{name}", (Molecule,), members)
