"""The Method contract, and Problem: all that a method may see of a system."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from cgbench.incidents import Incidents
from cgbench.ledger import Ledger
from cgbench.pmf import PMF, CollectiveVariables

if TYPE_CHECKING:
    import openmm
    import torch
    from openmm import app

    from cgbench.streams import Streams
    from cgbench.system import Coordinates, System

__all__ = ["Method", "MethodConfig", "Problem", "SideEstimate"]

REPORTS_BETWEEN_CHECKS = 200  # of incidents: a method that goes wrong before its first estimate is stopped, too


class MethodConfig(BaseModel):
    """Base of every method's configuration: unknown keys are errors, values are checked, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Problem:
    """What a method may see of a system: everything but the truth, and energies only at a price.

    Parameters
    ----------
    system
        The system to compute the PMF of.
    ledger
        Charged with every evaluation before it is made.
    incidents
        Counts numbers that go wrong.
    """

    def __init__(self, system: System, ledger: Ledger, incidents: Incidents | None = None) -> None:
        self._system = system
        self._ledger = ledger
        self._incidents = Incidents() if incidents is None else incidents
        self._reports = 0

    @property
    def cvs(self) -> CollectiveVariables:
        """Collective variables, their domain and the grid of the PMF."""
        return self._system.cvs

    @property
    def temperature(self) -> float:
        """Temperature in kelvin."""
        return self._system.temperature

    @property
    def engine(self) -> str:
        """Name of the engine that computes the energy."""
        return self._system.engine

    @property
    def traits(self) -> frozenset[str]:
        """Traits of the system."""
        return self._system.traits

    @property
    def coordinates(self) -> Coordinates:
        """The bijection between configurations and ``(s, y)``; pure geometry, free of charge."""
        return self._system.coordinates

    @property
    def coordinate_sets(self) -> Mapping[str, Coordinates]:
        """All coordinate systems of the system by name."""
        return self._system.coordinate_sets

    @property
    def masses(self) -> torch.Tensor | None:
        """Atomic masses in dalton ``[atoms]``, or None."""
        return self._system.masses

    @property
    def device(self) -> str:
        """Device that configurations should live on."""
        return self._system.device

    def initial_configuration(self) -> torch.Tensor:
        """A minimum of the energy to start from."""
        return self._system.initial_configuration()

    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        """Collective variables ``[batch, cvs]`` of configurations; free of charge."""
        return self._system.collective_variables(x)

    def compile(self) -> None:
        """Say that many evaluations are to come: compiling the energy pays."""
        self._system.compile()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Context in which evaluations are charged to the phase `name`."""
        return self._ledger.phase(name)

    @property
    def evaluations(self) -> int:
        """Evaluations charged so far."""
        return self._ledger.total

    @property
    def remaining(self) -> int | None:
        """Evaluations left in the budget, or None without one."""
        return self._ledger.remaining

    def incident(self, kind: str, count: int | torch.Tensor, occasions: int) -> None:
        """Count numbers that went wrong, and out of how many; the record says how often, and too many end the run.

        Parameters
        ----------
        kind
            One of `cgbench.incidents.KINDS`, which say what is to be done about it, or a word of the method's own.
        count
            Incidents; a tensor on a device is not waited for.
        occasions
            How often it could have happened.

        Raises
        ------
        TooManyIncidents
            If it has happened too often; looked at once in 200 calls, since counts are waited for then.
        """
        self._incidents.add(kind, count, occasions)
        self._reports += 1
        if self._reports % REPORTS_BETWEEN_CHECKS == 0:
            self._incidents.check()

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reduced energies ``[batch]`` and gradients, one evaluation per configuration.

        What comes out is finite, or an energy of +inf with a gradient of zero: a configuration without a finite
        energy has no weight. Gradients that are not finite become zero. Both are counted as incidents.

        Raises
        ------
        BudgetExhausted
            Before anything is evaluated, if the budget would be passed.
        TooManyIncidents
            If most energies so far were not finite.
        """
        self._ledger.charge(len(x))
        energy, gradient = self._system.reduced_energy_and_gradient(x)
        # where nothing has to be waited for, one look tells that all is well, as it nearly always is
        if energy.device.type == "cpu" and math.isfinite(float(energy.sum()) + float(gradient.sum())):
            self.incident("nonfinite_energy", 0, len(x))
            self.incident("nonfinite_gradient", 0, len(x))
            return energy, gradient
        return self._with_incidents(energy, gradient)

    def _with_incidents(self, energy: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        broken = ~energy.isfinite()
        steep = ~(broken | gradient.flatten(1).isfinite().all(dim=1))
        unusable = (broken | steep).reshape(-1, *(1,) * (gradient.dim() - 1))
        self.incident("nonfinite_energy", broken.sum(), len(energy))
        self.incident("nonfinite_gradient", steep.sum(), len(energy))
        return energy.masked_fill(broken, float("inf")), gradient.masked_fill(unusable, 0.0)

    def reduced_energy(self, x: torch.Tensor) -> torch.Tensor:
        """Differentiable reduced energies ``[batch]``; one evaluation per configuration, backward free."""
        from cgbench.gate import EnergyWithGradient

        energy: torch.Tensor = EnergyWithGradient.apply(x, self.reduced_energy_and_gradient)  # type: ignore[no-untyped-call]
        return energy

    def openmm_simulation(
        self,
        integrator: openmm.Integrator,
        add_forces: Callable[[openmm.System, Sequence[openmm.Force]], None] = lambda system, cvs: None,
    ) -> app.Simulation:
        """Return an OpenMM simulation of the molecule whose every step is charged before it is made.

        For systems with the trait "openmm".

        Parameters
        ----------
        integrator
            OpenMM's.
        add_forces
            Called with the ``openmm.System`` and one ``openmm.Force`` per CV before the context is made; adds biases,
            in force groups of their own.
        """
        from cgbench.openmm_gate import CountedSimulation

        model = self._system.openmm_model()
        groups = {force.getForceGroup() for force in model.system.getForces()}
        add_forces(model.system, model.collective_variables)
        return CountedSimulation(model, integrator, groups, self._ledger.charge)


@dataclass(frozen=True)
class SideEstimate:
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
    status
        One line for the progress bar; may not depend on the truth.
    """

    name: ClassVar[str]
    requires: ClassVar[frozenset[str]] = frozenset()
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    uncounted_in_publication: frozenset[str] = frozenset()

    def __init__(self, problem: Problem, config: Any, streams: Streams) -> None:
        self.problem = problem
        self.config = config
        self.streams = streams
        self.status: str = "starting"
        self.progress: float | None = None

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

    def side_estimates(self) -> Sequence[SideEstimate]:
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
