"""The file that defines a molecule as a system, checked."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cgbench.errors import UserError
from cgbench.storage.yaml_text import position, read_yaml

__all__ = ["CV", "Definition", "ZMatrixDefinition", "read_definition"]

HOTTEST = 5000.0  # K
LARGEST_MAP = 3  # CVs; a grid over more of them is too large
BINS, COARSE_BINS = 100, 36  # along each CV; coarse where a map has three CVs
FINEST_OF_THREE = 100  # bins along each of three CVs: a million


class CV(BaseModel):
    """A collective variable: a torsion by its IUPAC name, or by a name and four atoms."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(min_length=1)
    dihedral: Annotated[list[str], Field(min_length=4, max_length=4)] | None = None


def _cv(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Range = Annotated[list[float], Field(min_length=2, max_length=2)]
Three = Annotated[list[str], Field(min_length=3, max_length=3)]
Four = Annotated[list[str], Field(min_length=4, max_length=4)]


class ZMatrixDefinition(BaseModel):
    """A Z-matrix that the user gives instead of the automatic one; atoms are residue number and name, ``2:CA``.

    Attributes
    ----------
    start
        Three atoms ``a, b, c`` that are placed first, by the distances a-b and a-c and the angle b-a-c.
    rows
        Each other atom, and the atoms that its distance, angle and dihedral refer to, every atom after those.
    free
        Atoms whose dihedrals turn freely.
    rotors
        Groups of three equal hydrogens; the rows of the second and third are relative to the first.
    scales
        Units of distances (nm), angles and dihedrals (rad) that are not free.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    start: Three
    rows: list[Four]
    free: list[str] = []
    rotors: list[Three] = []
    scales: Annotated[list[float], Field(min_length=3, max_length=3)] = [0.005, 0.05, 0.1]


class Definition(BaseModel):
    """A molecule as a system.

    Attributes
    ----------
    name
        Name of the system in records; by default that of the file.
    version
        Version of the system in records; by default a hash of what defines it. Whoever gives one must change it with
        every change of the density or of the reference.
    pdb, sequence, openmm_system
        A PDB file; or a sequence that the molecule is built from; with a PDB file, a serialised ``openmm.System`` may
        stand in for the force field. Paths are relative to the file.
    positions
        A text file with one line ``x y z`` in nm for each atom: the configuration to start from, as it is. By default
        the structure of the PDB file, minimised.
    force_field
        OpenMM's names of force-field files, or paths.
    temperature
        In kelvin.
    cvs
        Torsions.
    maps
        Subsets of the CVs, by name, whose PMFs are estimated and scored. By default all CVs together if they are at
        most two, else phi and psi of each residue.
    bins
        Bins along each CV; by default 100, or 36 if a map has three CVs.
    states
        Ranges of CVs in degrees by name of the state, disjoint; their populations are estimated and scored.
    basins
        Ranges of CVs in degrees by name of the basin, all CVs of one map; a range may go across 180.
    coordinates
        Z-matrices by name of the coordinate set, one of them ``default``, instead of the automatic one.
    stereocentres
        Three neighbours of an atom, whose triple product says its chirality, instead of those found.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]*$")
    version: str | None = Field(None, pattern=r"^[0-9a-z.]+$")
    pdb: str | None = None
    sequence: str | None = None
    openmm_system: str | None = None
    positions: str | None = None
    force_field: list[str] = []
    temperature: float = Field(300.0, gt=0, le=HOTTEST)
    cvs: list[Annotated[CV, BeforeValidator(_cv)]] = Field(min_length=1)
    maps: list[Annotated[list[str], Field(min_length=1, max_length=LARGEST_MAP)]] = []
    bins: int | None = Field(None, ge=10, le=360)
    states: dict[str, dict[str, Range]] = {}
    basins: dict[str, dict[str, Range]] = {}
    coordinates: dict[str, ZMatrixDefinition] = {}
    stereocentres: dict[str, Three] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Definition:
        if (self.pdb is None) == (self.sequence is None):
            raise ValueError("give either pdb (a file) or sequence (residue names), one of the two")
        if (self.openmm_system is None) == (not self.force_field):
            raise ValueError("give either force_field (a list of files) or openmm_system (a serialised system)")
        if self.openmm_system is not None and self.pdb is None:
            raise ValueError("openmm_system needs the pdb that its atoms belong to")
        if self.coordinates and "default" not in self.coordinates:
            raise ValueError("coordinates need a set named default")
        names = [cv.name for cv in self.cvs]
        if len(set(names)) < len(names):
            raise ValueError("two collective variables have the same name")
        self._check_maps(names)
        for kind, regions in (("basin", self.basins), ("state", self.states)):
            for region, ranges in regions.items():
                unknown = sorted(set(ranges) - set(names))
                if unknown or not ranges:
                    what = f"{unknown[0]!r}" if unknown else "nothing"
                    raise ValueError(f"{kind} {region!r} restricts {what}: name some of the cvs, {', '.join(names)}")
        for basin, ranges in self.basins.items():
            if not any(set(ranges) <= set(one) for one in self.named_maps()):
                raise ValueError(
                    f"basin {basin!r} restricts {', '.join(ranges)}, which no map holds together: make it one of states"
                )
        if shared := sorted(set(self.basins) & set(self.states)):
            raise ValueError(f"a basin and a state have the name {shared[0]!r}: give them names of their own")
        for (one, first), (other, second) in itertools.combinations(self.states.items(), 2):
            if all(_overlap(first[cv], second[cv]) for cv in set(first) & set(second)):
                raise ValueError(f"states {one!r} and {other!r} overlap: states must be disjoint")
        return self

    def _check_maps(self, names: list[str]) -> None:
        for one in self.maps:
            unknown = [cv for cv in one if cv not in names]
            if unknown:
                raise ValueError(f"a map holds {unknown[0]!r}: name some of the cvs, {', '.join(names)}")
            if len(set(one)) < len(one):
                raise ValueError(f"the map {', '.join(one)} holds a collective variable twice")
        if len({tuple(one) for one in self.maps}) < len(self.maps):
            raise ValueError("two maps are the same")
        largest = max((len(one) for one in self.named_maps()), default=0)
        if largest == LARGEST_MAP and (self.bins or 0) > FINEST_OF_THREE:
            raise ValueError(f"bins must be at most {FINEST_OF_THREE} where a map has three CVs, not {self.bins}")
        missing = set(names).difference(*self.named_maps())
        if missing:
            listed = ", ".join(cv for cv in names if cv in missing)
            raise ValueError(
                f"no map holds {listed}: give maps, a list of lists of at most {LARGEST_MAP} of the cvs each"
            )

    def named_maps(self) -> list[list[str]]:
        """Return the maps as lists of names, with the default where none are given."""
        names = [cv.name for cv in self.cvs]
        if self.maps:
            return self.maps
        if len(names) <= 2:
            return [names]
        residues = [name.removeprefix("phi ") for name in names if name.startswith("phi ")]
        return [[f"phi {residue}", f"psi {residue}"] for residue in residues if f"psi {residue}" in names]


def _overlap(first: list[float], second: list[float]) -> bool:
    """Whether two ranges of an angle in degrees have more than end points in common."""
    (a, b), (c, d) = first, second
    return (c - a) % 360 < ((b - a) % 360 or 360) or (a - c) % 360 < ((d - c) % 360 or 360)


def read_definition(path: Path) -> tuple[Definition, str, str]:
    """Read a molecule's file.

    Returns
    -------
    definition, name, version
        The definition; the name of the system; its version, by default a hash of the definition and of the files that
        it names.

    Raises
    ------
    UserError
        If the file cannot be read or a setting is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = read_yaml(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"system {path} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"system {path} must be a mapping of keys to values, not {type(content).__name__}")
    try:
        definition = Definition.model_validate(content)
    except ValidationError as error:
        # a misspelt key first: the right one is missing for that reason
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        raise UserError(f"system {path} ({position(text, first['loc'])}): {_explain(first)}") from error
    name = definition.name or re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"system {path}: give it a name (lower-case letters, digits, _), since {path.stem!r} is none")
    return definition, name, definition.version or _version(definition, path.parent)


def _explain(first: Mapping[str, Any]) -> str:
    """Say in words what is wrong with a key."""
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown key: choose from {', '.join(Definition.model_fields)}"
    if first["type"] == "too_long" and first["loc"][0] == "maps":
        message = f"at most {LARGEST_MAP} collective variables can be scored on one grid, not {len(first['input'])}"
    return f"{where}: {message}" if where else message


def _version(definition: Definition, folder: Path) -> str:
    """Hash of what defines the density: the settings and the content of the files that they name."""
    # left out where not given: the versions of older files stay as they were
    newer = {"maps", "bins", "states", "positions", "coordinates", "stereocentres"}
    settings = definition.model_dump_json(exclude={"name", "version"} | (newer - definition.model_fields_set))
    digest = hashlib.sha256(settings.encode())
    for name in (definition.pdb, definition.openmm_system, definition.positions, *definition.force_field):
        if name is not None and (folder / name).is_file():
            for path in _with_included(folder / name):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _with_included(path: Path) -> list[Path]:
    """Return a file, and after it the files beside it that it includes as a force field, and those that these do."""
    found = [path]
    for one in found:  # grows in the loop
        names = re.findall(rb"""<Include\s+file\s*=\s*["']([^"']+)["']""", one.read_bytes())
        beside = (one.parent / name.decode(errors="replace") for name in names)
        found += [other for other in beside if other.is_file() and other not in found]
    return found
