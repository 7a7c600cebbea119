"""The Method contract: what a method must implement, and what it may offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from cgbench.contracts.declarations import Given
from cgbench.contracts.maps import Estimate
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem

if TYPE_CHECKING:
    import torch

    from cgbench.counting.streams import Streams

__all__ = ["FIRST_VERSION", "Activity", "AuxiliaryEstimate", "Method", "MethodConfig"]

FIRST_VERSION = "1"  # of a method, and of the methods in checkpoints and records that do not name a version


class MethodConfig(BaseModel):
    """Base class of method configurations: unknown keys are errors, values are validated, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


@dataclass(frozen=True)
class AuxiliaryEstimate:
    """A further PMF, obtained at no extra cost from the evaluations of a run or from a part of them.

    Attributes
    ----------
    name
        Short name of the estimator; estimates with the same name form one curve.
    replicate
        Index among the independent estimates with the same name and cost.
    share
        Fraction of the evaluations so far that the estimate uses, in (0, 1].
    pmf
        The estimate; an `Estimate` for systems with several maps.
    """

    name: str
    replicate: int
    share: float
    pmf: PMF | Estimate


@dataclass
class Activity:
    """What a method is doing, for the progress display. It must not depend on the reference.

    Attributes
    ----------
    status
        One line of text.
    progress
        Fraction of the work that is done, or None if unknown.
    """

    status: str = "starting"
    progress: float | None = None


class Method(ABC):
    """A method that computes the PMF of a system.

    Parameters
    ----------
    problem
        What the method can see of the system.
    config
        An instance of the class's `Config`.
    streams
        Named, seeded random generators.

    Attributes
    ----------
    name
        Registered name.
    version
        Change it with any change that gives other numbers; a run does not resume from a checkpoint of another version.
    requires
        Traits that a system must have.
    Config
        Pydantic model of the configuration.
    uncounted_in_publication
        Phases whose evaluations the method's publication does not count.
    given
        What the method knows in advance, for the documentation: one entry for each variant; empty if not declared.
    activity
        What the method is doing now; `status` and `progress` are shortcuts to its attributes.
    """

    name: ClassVar[str]
    version: ClassVar[str] = FIRST_VERSION
    requires: ClassVar[frozenset[str]] = frozenset()
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    given: ClassVar[tuple[Given, ...]] = ()
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
        """Fraction of the work that is done, or None if unknown."""
        return self.activity.progress

    @progress.setter
    def progress(self, value: float | None) -> None:
        self.activity.progress = value

    @classmethod
    def presets_folder(cls) -> Path:
        """Return the folder that holds ``<system>/<preset>.yaml`` or ``<method>/<system>/<preset>.yaml``."""
        import inspect

        return Path(inspect.getfile(cls)).parent / "presets"

    @classmethod
    def required_traits(cls, config: Any) -> frozenset[str]:
        """Return the traits that a system must have with this configuration; `requires`, unless it changes them."""
        return cls.requires

    @abstractmethod
    def estimates(self) -> Iterator[PMF | Estimate]:
        """Yield the current PMF at every point where the method could stop.

        For a system with several maps or with states (`Problem.maps`, `Problem.states`), yield an `Estimate`; a method
        that requires the trait "pmf_grid" never meets one. The iterator must end by a criterion that does not use the
        reference PMF.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to resume after a yield with bit-identical results.

        May contain only tensors, numbers, strings, None, and lists, tuples and dicts of these, because loading a
        checkpoint must not run code.
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned; `estimates` then continues from it."""

    def auxiliary_estimates(self) -> Sequence[AuxiliaryEstimate]:
        """Return further estimates to score along with the one just yielded. They are never ranked."""
        return ()

    def log_density(self, x: torch.Tensor) -> torch.Tensor | None:
        """Return the log-density of a generative method at configurations `x`, ``[batch]``; None without a density.

        The density is with respect to the Cartesian volume up to rigid motion (as in `Coordinates.to_internal`), with
        all atoms distinguishable. The harness calls this once, after the run, on its own configurations.
        """
        return None

    def weighted_samples(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Draw independent samples with importance weights from a trained generator; None for other methods.

        The mean of the weights of the samples in any region of the CVs is proportional to its population. Every sample
        is an evaluation. The state of the method does not change.

        Parameters
        ----------
        count
            Number of samples.
        generator
            Source of all random numbers.

        Returns
        -------
        s, log_weights
            CVs ``[count, cvs]`` and logarithms of the weights ``[count]``, minus infinity outside the state space.
        """
        return None

    def diagnostics(self) -> dict[str, Any]:
        """Return values for the record that JSON can represent, such as effective sample sizes and warnings."""
        return {}

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """Return further named arrays to store in ``pmf.npz``, for figures."""
        return {}
