"""Trajectories and arrays of positions: read by mdtraj, and compared with the topology of the system.

DCD stores angstrom, XTC nm rounded to 0.001, the others nm; mdtraj converts to nm. Energies of positions that are
rounded like those of XTC are useless, so they are not computed.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench.exchange.formats.archives import checked

__all__ = ["ROUNDED", "check_positions", "collective_variables", "configurations", "read_trajectory"]

Array = NDArray[np.float64]
ROUNDED = (".xtc",)  # suffixes of formats with too few digits for an energy
HDF5 = (".h5", ".hdf5")
CHUNK = 10_000  # configurations at a time
LOOKED_AT = 1000  # configurations whose bonds are measured
LONGEST = 0.25  # relative deviation of the mean length of a bond from that of the initial configuration


def read_trajectory(path: Path, system: System, topology: Path | None) -> Array:
    """Return the positions in a trajectory, ``[frames, atoms, 3]`` in nm, float64.

    Parameters
    ----------
    path
        DCD, XTC, TRR, HDF5 or NetCDF.
    system
        A system made by OpenMM, whose topology is used if there is no file of one.
    topology
        A file with a topology that mdtraj reads, such as PDB.

    Raises
    ------
    UserError
        If a file is damaged, or the atoms are not those of the system in its order.
    """
    import mdtraj

    own = _topology(system)
    if own is None:
        raise UserError(f"{path}: {system.name} is no molecule: give samples as .npy or .npz")
    ours = mdtraj.Topology.from_openmm(own)
    theirs = None
    if topology is not None:
        theirs = _guarded(topology, lambda: mdtraj.load_topology(str(topology)))
        _compare(topology, theirs, ours, system)
    if path.suffix.lower() in HDF5:
        _need_pytables(path)
        trajectory = _guarded(path, lambda: mdtraj.load(str(path)))
        _compare(path, trajectory.topology, ours, system)
    else:
        trajectory = _guarded(path, lambda: mdtraj.load(str(path), top=theirs or ours))
    stated = _stated_frames(path)
    if trajectory.n_frames == 0 or trajectory.n_frames < stated:
        raise UserError(f"{path} holds {trajectory.n_frames:,} of {max(stated, 1):,} frames: it is truncated")
    return np.asarray(trajectory.xyz, dtype=np.float64)


def _guarded(path: Path, read: Any) -> Any:
    """Return what mdtraj reads; any problem becomes one line."""
    if not path.is_file():
        raise UserError(f"no file {str(path)!r}")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    try:
        with _silenced(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on faster libraries
            return read()
    except Exception as error:  # mdtraj and its C libraries can raise anything on a damaged file
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path} cannot be read by mdtraj: {reason}") from error


@contextmanager
def _silenced() -> Iterator[None]:
    """Discard what the C libraries of mdtraj print: the message is ours."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = []
    try:
        with open(os.devnull, "wb") as nowhere:
            for descriptor in (1, 2):
                try:
                    kept.append((descriptor, os.dup(descriptor)))
                    os.dup2(nowhere.fileno(), descriptor)
                except OSError:  # closed by whoever started us
                    continue
        yield
    finally:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).fflush(None)  # what they print to a pipe waits in a buffer
        for descriptor, copy in kept:
            os.dup2(copy, descriptor)
            os.close(copy)


def _need_pytables(path: Path) -> None:
    try:
        import tables

        known = hasattr(tables, "open_file")  # a folder of that name may be in the way
    except ImportError:
        known = False
    if not known:
        raise UserError(f"{path}: HDF5 trajectories need PyTables: pip install 'cgbench[hdf5]', or convert it to DCD")


def _stated_frames(path: Path) -> int:
    """Return the number of frames in the header of a DCD file, which its readers ignore; 0 if it is not stated."""
    if path.suffix.lower() != ".dcd":
        return 0
    with open(path, "rb") as file:
        header = file.read(12)
    order: Literal["little", "big"] = "little" if header[:4] == b"\x54\0\0\0" else "big"
    return int.from_bytes(header[8:12], order) if header[4:8] == b"CORD" else 0


def _topology(system: System) -> Any:
    return system.openmm_model().topology if "openmm" in system.traits else None


def _compare(path: Path, theirs: Any, ours: Any, system: System) -> None:
    """Compare a topology with that of the system: number, elements and bonds."""
    if theirs.n_atoms != ours.n_atoms:
        raise UserError(
            f"{path} has {theirs.n_atoms:,} atoms, {system.name} has {ours.n_atoms}: keep only the molecule"
        )
    for found, known in zip(theirs.atoms, ours.atoms, strict=True):
        if found.element is not None and found.element.symbol != known.element.symbol:
            raise UserError(
                f"{path}: the order of the atoms differs: atom {known.index + 1} is {found.element.symbol} ({found}), "
                f"but {known.element.symbol} ({known}) in {system.name}"
            )
    bonds = {frozenset((a.index, b.index)) for a, b in theirs.bonds}
    expected = {frozenset((a.index, b.index)) for a, b in ours.bonds}
    if bonds and bonds != expected:
        i, j = sorted(next(iter(bonds ^ expected)))
        raise UserError(
            f"{path}: the order of the atoms differs: the bond of atoms {i + 1} and {j + 1} is in only one of the two "
            f"topologies ({ours.atom(i)} and {ours.atom(j)} in {system.name})"
        )


def configurations(path: Path, array: NDArray[Any], system: System) -> Array:
    """Return an array as configurations of a system, from shape ``[frames, ...]`` or flat ``[frames, n]``.

    Raises
    ------
    UserError
        If it does not fit.
    """
    shape = tuple(system.initial_configuration().shape)
    if array.ndim >= 2 and 0 < array.size == len(array) * math.prod(shape):
        array = array.reshape(len(array), *shape)
    return checked(path, "positions", array, ("frames", *shape))


def check_positions(path: Path, x: Array, system: System) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which configurations belong to the state space of the system, and notes.

    Raises
    ------
    UserError
        If positions are not finite, bonds are not where the topology has them (another order of the atoms, another
        unit, a molecule broken across a periodic boundary), or the molecule is the mirror image.
    """
    broken = int((~np.isfinite(x).reshape(len(x), -1).all(axis=1)).sum())
    if broken:
        raise UserError(f"{path}: {broken:,} of {len(x):,} configurations have positions that are not finite")
    topology = _topology(system)
    if topology is not None:
        _check_bonds(path, x, system, topology)
    inside = _in_chunks(x, system.coordinates.in_state_space).astype(bool)
    if inside.all():
        return inside, []
    outside = int((~inside).sum())
    if not inside.any():
        mirrored = _in_chunks(-x, system.coordinates.in_state_space).astype(bool)
        if mirrored.mean() > 0.5:
            raise UserError(f"{path}: the molecule is the mirror image of {system.name}")
        raise UserError(f"{path}: no configuration belongs to the state space of {system.name}")
    if outside > 0.5 * len(x):
        raise UserError(
            f"{path}: {outside:,} of {len(x):,} configurations are outside the state space of {system.name}"
        )
    return inside, [f"{outside:,} of {len(x):,} configurations are outside the state space of the system and dropped"]


def _check_bonds(path: Path, x: Array, system: System, topology: Any) -> None:
    pairs = np.array([(a.index, b.index) for a, b in topology.bonds()])
    names = [f"{atom.name} of {atom.residue.name}{atom.residue.index + 1}" for atom in topology.atoms()]
    initial = system.initial_configuration().double().cpu().numpy()
    expected = np.linalg.norm(initial[pairs[:, 0]] - initial[pairs[:, 1]], axis=-1)
    some = x[:: max(1, len(x) // LOOKED_AT)]
    found = np.linalg.norm(some[:, pairs[:, 0]] - some[:, pairs[:, 1]], axis=-1).mean(axis=0)
    ratio = found / expected
    worst = int(np.abs(np.log(np.maximum(ratio, 1e-9))).argmax())
    if np.abs(ratio - 1).max() < LONGEST:
        return
    typical = float(np.median(ratio))
    if np.abs(ratio / typical - 1).max() < LONGEST:
        hint = ": positions must be in nm, not in angstrom" if 8 < typical < 12.5 else ""
        raise UserError(f"{path}: all bonds are {typical:.3g} times as long as those of {system.name}{hint}")
    i, j = pairs[worst]
    raise UserError(
        f"{path}: atoms {i + 1} and {j + 1} ({names[i]}, {names[j]}) are {found[worst]:.3f} nm apart, their bond in "
        f"{system.name} is {expected[worst]:.3f} nm long: the atoms are in another order, or the molecule is broken "
        "across a periodic boundary"
    )


def _in_chunks(x: Array, function: Any) -> NDArray[Any]:
    parts: Sequence[torch.Tensor] = torch.split(torch.from_numpy(x), CHUNK)
    with torch.no_grad():
        return np.concatenate([function(part).cpu().numpy() for part in parts])


def collective_variables(x: Array, system: System) -> Array:
    """Return the CVs of configurations by the system's own definition, ``[frames, cvs]``."""
    return _in_chunks(x, system.collective_variables).astype(np.float64)
