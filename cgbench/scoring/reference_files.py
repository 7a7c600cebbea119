"""Files of certified reference PMFs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import MapReference, Reference
from cgbench.errors import UserError

__all__ = ["load_reference"]


def load_reference(folder: Path, cvs: CollectiveVariables | Sequence[CollectiveVariables]) -> Reference:
    """Load ``reference.npz`` and ``reference.json`` of a system, and check that they match.

    The arrays of further maps have the names of the first with ``map_<k>_`` before them, as in
    `cgbench.contracts.maps.Estimate.arrays`; the populations of states are in the JSON, under ``states``.

    Parameters
    ----------
    folder
        The folder with the two files.
    cvs
        The grid that the reference must be on; with several maps, that of each.

    Raises
    ------
    UserError
        If a file is missing or unreadable, or the hash in the JSON does not match the arrays.
    """
    arrays_file, facts_file = folder / "reference.npz", folder / "reference.json"
    try:
        content = arrays_file.read_bytes()
        facts = json.loads(facts_file.read_text(encoding="utf-8"))
        sha256 = hashlib.sha256(content).hexdigest()
        if facts["sha256"] != sha256:
            raise UserError(
                f"reference {arrays_file} has sha256 {sha256[:12]}..., "
                f"but {facts_file.name} states {facts['sha256'][:12]}..."
            )
        grids = (cvs,) if isinstance(cvs, CollectiveVariables) else tuple(cvs)
        with np.load(arrays_file, allow_pickle=False) as arrays:
            maps = [_map(arrays, grid, f"map_{number}_" if number else "") for number, grid in enumerate(grids)]
        return Reference(
            pmf=maps[0].pmf,
            standard_error=maps[0].standard_error,
            noise_floor=float(facts["noise_floor"]),
            source=str(facts["source"]),
            sha256=sha256,
            details=facts,
            further=tuple(maps[1:]),
            populations=_populations(facts),
        )
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"reference in {folder} cannot be read: {error}") from error


def _map(arrays: Mapping[str, np.ndarray], cvs: CollectiveVariables, prefix: str) -> MapReference:
    for axis, name in enumerate(cvs.names):
        centers = np.asarray(arrays[f"{prefix}centers_{axis}"], dtype=np.float64)
        if centers.shape != cvs.centers(axis).shape or not np.allclose(centers, cvs.centers(axis), rtol=0, atol=1e-6):
            raise ValueError(f"its bins along {name} are not those of the system")
    error = np.asarray(arrays[f"{prefix}standard_error"], dtype=np.float64)
    return MapReference(PMF(cvs, arrays[f"{prefix}probability"]), error)


def _populations(facts: Mapping[str, Any]) -> dict[str, tuple[float, float]] | None:
    states = facts.get("states")
    if states is None:
        return None
    return {
        str(name): (float(one["population"]), float(one["population_standard_error"])) for name, one in states.items()
    }
