"""Certified reference PMFs: reading them, and the contract of what builds them."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np

from cgbench.errors import UserError
from cgbench.pmf import PMF, CollectiveVariables
from cgbench.system import Reference

__all__ = ["ReferenceBuilder", "load_reference"]


class ReferenceBuilder(ABC):
    """Makes a system's reference by several independent routes; every route is resumable.

    Attributes
    ----------
    routes
        Names and default sizes (in blocks of sampling) of the routes, in the order in which they build on
        each other.
    """

    routes: ClassVar[dict[str, int]]

    @abstractmethod
    def build(self, route: str, blocks: int) -> None:
        """Sample by one route until it has so many blocks; go on from what there is."""

    @abstractmethod
    def certify(self) -> None:
        """Write the certified files of the system."""

    @abstractmethod
    def samples(self) -> None:
        """Write the system's equilibrium configurations, from its certified files."""

    @abstractmethod
    def compare(self, route: str) -> None:
        """Compare a route with the certified files, and enter the result there."""


def load_reference(folder: Path, cvs: CollectiveVariables) -> Reference:
    """Load ``reference.npz`` and ``reference.json`` of a system and check that they belong together.

    Parameters
    ----------
    folder
        The system's reference folder.
    cvs
        The grid that the file must be on.

    Raises
    ------
    UserError
        If a file is missing or unreadable, or the hash in the JSON is not that of the arrays.
    """
    arrays_file, facts_file = folder / "reference.npz", folder / "reference.json"
    try:
        content = arrays_file.read_bytes()
        facts = json.loads(facts_file.read_text(encoding="utf-8"))
        sha256 = hashlib.sha256(content).hexdigest()
        if facts["sha256"] != sha256:
            raise UserError(
                f"reference {arrays_file} has sha256 {sha256[:12]}..., its JSON says {facts['sha256'][:12]}..."
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
