"""Files of certified reference PMFs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import Reference
from cgbench.errors import UserError

__all__ = ["load_reference"]


def load_reference(folder: Path, cvs: CollectiveVariables) -> Reference:
    """Load ``reference.npz`` and ``reference.json`` of a system, and check that they match.

    Parameters
    ----------
    folder
        The folder with the two files.
    cvs
        The grid that the reference must be on.

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
        with np.load(arrays_file, allow_pickle=False) as arrays:
            pmf = PMF(cvs, arrays["probability"])
            standard_error = np.asarray(arrays["standard_error"], dtype=np.float64)
        return Reference(
            pmf=pmf,
            standard_error=standard_error,
            noise_floor=float(facts["noise_floor"]),
            source=str(facts["source"]),
            sha256=sha256,
            details=facts,
        )
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"reference in {folder} cannot be read: {error}") from error
