"""A reference PMF with its errors, and the contract of what builds one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.pmf import PMF

__all__ = ["Reference", "ReferenceBuilder"]


@dataclass(frozen=True)
class Reference:
    """A ground-truth PMF and how well it is known.

    Attributes
    ----------
    pmf
        The reference PMF.
    standard_error
        Standard error of each bin's probability, or None for an exact reference.
    noise_floor
        Forward KLD that the reference's own noise causes; 0 for an exact one.
    source
        One line: how it was made.
    sha256
        Hash of the file or of the defining arrays.
    """

    pmf: PMF
    standard_error: NDArray[np.float64] | None
    noise_floor: float
    source: str
    sha256: str
    details: Mapping[str, Any] = field(default_factory=dict)


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
