"""A reference PMF with its errors, and the contract of reference builders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.pmf import PMF

if TYPE_CHECKING:
    import torch

__all__ = ["MapReference", "Reference", "ReferenceBuilder", "WeightedSampler"]


@dataclass(frozen=True)
class MapReference:
    """The ground-truth PMF of one map.

    Attributes
    ----------
    pmf
        The reference PMF.
    standard_error
        Standard error of each bin's probability, or None for an exact reference.
    """

    pmf: PMF
    standard_error: NDArray[np.float64] | None


@dataclass(frozen=True)
class Reference:
    """A ground-truth PMF and its uncertainty.

    Attributes
    ----------
    pmf
        The reference PMF; of a system with several maps that of the first.
    standard_error
        Standard error of each bin's probability, or None for an exact reference.
    noise_floor
        Forward KLD caused by the statistical noise of the reference, the mean over maps; 0 for an exact reference.
    source
        How it was made, in one line.
    sha256
        Hash of the file or of the arrays that define it.
    details
        Further facts, as in ``reference.json``.
    further
        The references of the other maps, in their order.
    populations
        Population of each state and its standard error, by name; None for systems without states.
    """

    pmf: PMF
    standard_error: NDArray[np.float64] | None
    noise_floor: float
    source: str
    sha256: str
    details: Mapping[str, Any] = field(default_factory=dict)
    further: tuple[MapReference, ...] = ()
    populations: Mapping[str, tuple[float, float]] | None = None

    @property
    def maps(self) -> tuple[MapReference, ...]:
        """The references of all maps."""
        return (MapReference(self.pmf, self.standard_error), *self.further)

    def of_map(self, number: int) -> Reference:
        """Return the reference of one map alone, with its own noise floor if the details state it."""
        if not self.further:
            return self
        one = self.maps[number]
        stated = self.details.get("maps")
        floor = float(stated[number]["noise_floor"]) if stated else self.noise_floor
        return replace(
            self, pmf=one.pmf, standard_error=one.standard_error, noise_floor=floor, further=(), populations=None
        )


class WeightedSampler(Protocol):
    """A source of independent weighted samples: a trained method, for example (`Method.weighted_samples`)."""

    def weighted_samples(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return CVs ``[count, cvs]`` and log-weights ``[count]``; None if it has none."""


class ReferenceBuilder(ABC):
    """Builds a system's reference by several independent routes. Every route can be resumed.

    Attributes
    ----------
    routes
        Names of the routes and their default number of sampling blocks. A route may use the results of those
        before it.
    confirming
        Those of them that need a certified reference, and are sampled only when named.
    sampler
        The trained generator that route "importance" draws from, if there is one.
    """

    routes: dict[str, int]
    confirming: frozenset[str] = frozenset()
    sampler: WeightedSampler | None = None

    @abstractmethod
    def build(self, route: str, blocks: int) -> None:
        """Sample one route until it has `blocks` blocks; continue from existing blocks."""

    def check_certifiable(self, blocks: int) -> None:  # noqa: B027  what is not known in advance shows in `certify`
        """Refuse, before hours of sampling, a certificate that so many blocks of the first route cannot give."""

    @abstractmethod
    def certify(self) -> None:
        """Write the system's certified reference files."""

    @abstractmethod
    def samples(self) -> None:
        """Write equilibrium configurations of the system, drawn with its certified files."""

    @abstractmethod
    def compare(self, route: str) -> None:
        """Compare a route with the certified reference and add the result to its files."""
