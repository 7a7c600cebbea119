"""Problem: everything that a method may see of a system, with energies only through the counted gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.system import System
from cgbench.counting.anomalies import Anomalies
from cgbench.counting.ledger import Ledger

if TYPE_CHECKING:
    import openmm
    import torch
    from openmm import app

__all__ = ["Problem"]

REPORTS_BETWEEN_CHECKS = 200  # of anomalies: a method that goes wrong before its first estimate is stopped, too


class Problem:
    """What a method may see of a system: everything but the truth, and energies only at a price.

    Parameters
    ----------
    system
        The system to compute the PMF of.
    ledger
        Charged with every evaluation before it is made.
    anomalies
        Counts numbers that go wrong.
    """

    def __init__(self, system: System, ledger: Ledger, anomalies: Anomalies | None = None) -> None:
        self._system = system
        self._ledger = ledger
        self._anomalies = Anomalies() if anomalies is None else anomalies
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

    def report_anomaly(self, kind: str, count: int | torch.Tensor, occasions: int) -> None:
        """Count numbers that went wrong, and out of how many; the record says how often, and too many end the run.

        Parameters
        ----------
        kind
            One of `cgbench.counting.anomalies.KINDS`, or a name of the method's own.
        count
            Anomalies; a tensor on a device is not waited for.
        occasions
            How often it could have happened.

        Raises
        ------
        TooManyAnomalies
            If it has happened too often; looked at once in 200 calls, since counts are waited for then.
        """
        self._anomalies.add(kind, count, occasions)
        self._reports += 1
        if self._reports % REPORTS_BETWEEN_CHECKS == 0:
            self._anomalies.check()

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reduced energies ``[batch]`` and gradients, one evaluation per configuration.

        What comes out is finite, or an energy of +inf with a gradient of zero: a configuration without a finite
        energy has no weight. Gradients that are not finite become zero. Both are counted as anomalies.

        Raises
        ------
        BudgetExhausted
            Before anything is evaluated, if the budget would be passed.
        TooManyAnomalies
            If most energies so far were not finite.
        """
        self._ledger.charge(len(x))
        energy, gradient = self._system.reduced_energy_and_gradient(x)
        # where nothing has to be waited for, one look tells that all is well, as it nearly always is
        if energy.device.type == "cpu" and math.isfinite(float(energy.sum()) + float(gradient.sum())):
            self.report_anomaly("nonfinite_energy", 0, len(x))
            self.report_anomaly("nonfinite_gradient", 0, len(x))
            return energy, gradient
        return self._without_nonfinite(energy, gradient)

    def _without_nonfinite(self, energy: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        broken = ~energy.isfinite()
        steep = ~(broken | gradient.flatten(1).isfinite().all(dim=1))
        unusable = (broken | steep).reshape(-1, *(1,) * (gradient.dim() - 1))
        self.report_anomaly("nonfinite_energy", broken.sum(), len(energy))
        self.report_anomaly("nonfinite_gradient", steep.sum(), len(energy))
        return energy.masked_fill(broken, float("inf")), gradient.masked_fill(unusable, 0.0)

    def reduced_energy(self, x: torch.Tensor) -> torch.Tensor:
        """Differentiable reduced energies ``[batch]``; one evaluation per configuration, backward free."""
        from cgbench.counting.energy_gate import EnergyWithGradient

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
        from cgbench.counting.openmm_simulation import CountedSimulation

        model = self._system.openmm_model()
        groups = {force.getForceGroup() for force in model.system.getForces()}
        add_forces(model.system, model.collective_variables)
        return CountedSimulation(
            model.topology,
            model.system,
            integrator,
            model.platform,
            model.properties,
            own_groups=groups,
            charge=self._ledger.charge,
        )
