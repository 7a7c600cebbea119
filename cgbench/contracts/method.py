"""The Method contract, and Problem: all that a method may see of a system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem

if TYPE_CHECKING:
    import torch

    from cgbench.counting.streams import Streams

__all__ = ["Method", "MethodConfig", "AuxiliaryEstimate"]


class MethodConfig(BaseModel):
    """Base of every method's configuration: unknown keys are errors, values are checked, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


@dataclass(frozen=True)
class AuxiliaryEstimate:
    """Another PMF that the same evaluations, or a part of them, have already paid for.

    Attributes
    ----------
    name
        The estimator, in a word; estimates of one name make one curve.
    replicate
        Number of this one among independent estimates of the same name and cost.
    share
        The part of all evaluations so far that it rests on, in (0, 1].
    pmf
        The estimate.
    """

    name: str
    replicate: int
    share: float
    pmf: PMF


@dataclass
class Activity:
    """What a method is doing, for the progress display; it may not depend on the reference.

    Attributes
    ----------
    status
        One line.
    progress
        Fraction of the work that is done, or None if that is not known.
    """

    status: str = "starting"
    progress: float | None = None


class Method(ABC):
    """A way to compute the PMF.

    Parameters
    ----------
    problem
        The system as far as a method may see it.
    config
        An instance of the class's `Config`.
    streams
        Seeded generators by name.

    Attributes
    ----------
    name
        Registered name.
    requires
        Traits a system must have.
    Config
        Pydantic model of the settings.
    uncounted_in_publication
        Phases that the method's publication leaves out of its own count.
    activity
        What the method is doing now; `status` and `progress` are short for its attributes.
    """

    name: ClassVar[str]
    requires: ClassVar[frozenset[str]] = frozenset()
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    uncounted_in_publication: frozenset[str] = frozenset()

    def __init__(self, problem: Problem, config: Any, streams: Streams) -> None:
        self.problem = problem
        self.config = config
        self.streams = streams
        self.activity = Activity()

    @property
    def status(self) -> str:
        """What the method is doing, in one line."""
        return self.activity.status

    @status.setter
    def status(self, value: str) -> None:
        self.activity.status = value

    @property
    def progress(self) -> float | None:
        """Fraction of the work that is done, or None if that is not known."""
        return self.activity.progress

    @progress.setter
    def progress(self, value: float | None) -> None:
        self.activity.progress = value

    @classmethod
    def presets_folder(cls) -> Path:
        """Folder of the presets: ``<system>/<preset>.yaml`` in it, or ``<method>/<system>/<preset>.yaml``."""
        import inspect

        return Path(inspect.getfile(cls)).parent / "presets"

    @abstractmethod
    def estimates(self) -> Iterator[PMF]:
        """Yield the current PMF wherever the method could stop; end by a criterion without the truth."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on bit-identically after a yield.

        Only tensors, numbers, strings, None, and lists, tuples and dicts of these: checkpoints load no code.
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; `estimates` then goes on from there."""

    def auxiliary_estimates(self) -> Sequence[AuxiliaryEstimate]:
        """Return further estimates to be scored beside the one just yielded; they are never ranked."""
        return ()

    def log_density(self, x: torch.Tensor) -> torch.Tensor | None:
        """Log-density of a generative method at configurations ``x``, ``[batch]``, or None without one.

        With respect to the Cartesian volume up to rigid motion (that of `Coordinates.to_internal`), every atom
        told apart. The harness asks for it once, after the run, on configurations of its own.
        """
        return None

    def diagnostics(self) -> dict[str, Any]:
        """Return JSON-able numbers for the record: effective sample sizes, warnings and the like."""
        return {}

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """Return named arrays for ``pmf.npz`` that figures need."""
        return {}
