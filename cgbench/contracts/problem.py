"""Problem: what a method can see of a system. Every energy evaluation is counted here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from cgbench.contracts.coordinates import Coordinates, free_torsions
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Map, States
from cgbench.contracts.system import System, maps_of, traits_of
from cgbench.counting.anomalies import Anomalies
from cgbench.counting.ledger import Ledger
from cgbench.counting.state_space import StateSpaceCounts
from cgbench.errors import UserError, choices

if TYPE_CHECKING:
    import openmm
    import torch
    from openmm import app

__all__ = ["Problem"]

REPORTS_BETWEEN_CHECKS = 200  # checking here stops a method that fails before its first estimate


class Problem:
    """What a method can see of a system: everything except the reference, with every energy evaluation charged.

    Parameters
    ----------
    system
        The system to compute the PMF of.
    ledger
        The ledger that every evaluation is charged to before it is made.
    anomalies
        Counts numerical failures.

    Attributes
    ----------
    state_space
        Counts of samples and proposals outside the state space.
    """

    def __init__(self, system: System, ledger: Ledger, anomalies: Anomalies | None = None) -> None:
        self._system = system
        self._ledger = ledger
        self._anomalies = Anomalies() if anomalies is None else anomalies
        self._reports = 0
        self.state_space = StateSpaceCounts()

    @property
    def cvs(self) -> CollectiveVariables:
        """Collective variables, their domain and the grid of the PMF."""
        return self._system.cvs

    @property
    def maps(self) -> tuple[Map, ...]:
        """Subsets of the CVs whose PMFs are scored; one over all CVs unless the system says otherwise."""
        return maps_of(self._system)

    @property
    def states(self) -> States | None:
        """Regions in the space of all CVs whose populations are scored, or None."""
        return self._system.states

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
        """Traits of the system, with "pmf_grid" if it has one map over at most two CVs."""
        return traits_of(self._system)

    @property
    def coordinates(self) -> Coordinates:
        """The bijection between configurations and ``(s, y)``; pure geometry, not charged."""
        return self._system.coordinates

    @property
    def coordinate_sets(self) -> Mapping[str, Coordinates]:
        """All coordinate sets of the system, by name."""
        return self._system.coordinate_sets

    def coordinate_set(self, name: str) -> Coordinates:
        """Return the set of that name.

        Raises
        ------
        UserError
            If there is none.
        """
        sets = self.coordinate_sets
        if name not in sets:
            raise UserError(f"{self._system.name} has no coordinate set {name!r}: choose from {choices(sets)}")
        return sets[name]

    @property
    def free_torsions(self) -> tuple[str, ...]:
        """Names of the torsions that turn by a full circle and are no CVs, such as side chains."""
        if "coordinates" not in self.traits:
            return ()
        return tuple(self.coordinates.names[position] for position in free_torsions(self.coordinates))

    def free_torsion_angles(self, x: torch.Tensor) -> torch.Tensor:
        """Return these torsions of configurations, ``[batch, torsions]`` in radians; not charged."""
        return self.coordinates.to_internal(x)[1][:, free_torsions(self.coordinates)]

    @property
    def masses(self) -> torch.Tensor | None:
        """Atomic masses in dalton ``[atoms]``, or None."""
        return self._system.masses

    @property
    def device(self) -> str:
        """Torch device to put configurations on."""
        return self._system.device

    def initial_configuration(self) -> torch.Tensor:
        """Return a minimum of the energy to start from."""
        return self._system.initial_configuration()

    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        """Return the collective variables ``[batch, cvs]`` of configurations; not charged."""
        return self._system.collective_variables(x)

    def compile(self) -> None:
        """Announce a long run: the system may compile its energy (torch.compile)."""
        self._system.compile()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Return a context in which evaluations are charged to the phase `name`."""
        return self._ledger.phase(name)

    @property
    def evaluations(self) -> int:
        """Evaluations charged so far."""
        return self._ledger.total

    @property
    def remaining(self) -> int | None:
        """Evaluations left in the budget, or None without a budget."""
        return self._ledger.remaining

    def report_anomaly(self, kind: str, count: int | torch.Tensor, occasions: int) -> None:
        """Count numerical failures. They appear in the record, and too many of them end the run.

        Parameters
        ----------
        kind
            One of `cgbench.counting.anomalies.KINDS`, or a name chosen by the method.
        count
            Number of failures. A tensor on a device causes no synchronisation.
        occasions
            Number of times that a failure was possible.

        Raises
        ------
        TooManyAnomalies
            If there are too many. Checked on every 200th call, because the check synchronises with the device.
        """
        self._anomalies.add(kind, count, occasions)
        self._reports += 1
        if self._reports % REPORTS_BETWEEN_CHECKS == 0:
            self._anomalies.check()

    def in_state_space(self, x: torch.Tensor) -> torch.Tensor:
        """Tell which configurations are in the state space, boolean ``[batch]``; all, for systems without coordinates.

        Nothing is counted; see `report_state_space`.
        """
        import torch

        if "coordinates" not in self.traits:
            return torch.ones(len(x), dtype=torch.bool, device=x.device)
        return self.coordinates.in_state_space(x)

    def report_state_space(self, x: torch.Tensor) -> torch.Tensor:
        """Count samples of a simulation, and tell which of them have left the state space.

        Call it with the configurations of all walkers, after every block of steps. Samples outside must have no weight
        in the estimates and in a bias. The counts appear in the record, and too many samples outside end the run.

        A sample outside the domain of the CVs is in no bin of the PMF, so it is not counted as outside the state space.
        Systems without coordinates have no state space: nothing is counted, and no sample is outside.

        Parameters
        ----------
        x
            Configurations ``[batch, ...]``; a batch on a device causes no synchronisation if all CVs are periodic.

        Returns
        -------
        outside
            Boolean ``[batch]``.

        Raises
        ------
        TooManyAnomalies
            If too many samples so far were outside; checked as in `report_anomaly`.
        """
        outside = ~self.in_state_space(x)
        if "coordinates" not in self.traits:
            return outside
        if not all(self.cvs.periodic) and bool(outside.any()):
            outside = outside & (self.cvs.bin_index(self.collective_variables(x)) >= 0)
        count = outside.sum()
        self.state_space.add_samples(len(x), count)
        self.report_anomaly("outside_state_space", count, len(x))
        return outside

    def report_proposals(self, rejected: int | torch.Tensor, proposed: int) -> None:
        """Count configurations that a method built from coordinates, and those rejected as outside the state space.

        Rejected configurations must have no weight. Their number appears in the record; it never ends a run.
        """
        self.state_space.add_proposals(proposed, rejected)

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return reduced energies ``[batch]`` and gradients; one evaluation per configuration.

        A non-finite energy becomes +inf with zero gradient, which gives the configuration no weight. A non-finite
        gradient becomes zero. Both are counted as anomalies.

        Raises
        ------
        BudgetExhausted
            If the evaluations would exceed the budget; nothing is evaluated then.
        TooManyAnomalies
            If most energies so far were non-finite.
        """
        return self._evaluate(x, gradient=True)

    def _evaluate(self, x: torch.Tensor, gradient: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Charge and evaluate energies and gradients; `gradient` says whether the caller asked for gradients."""
        self._ledger.charge(len(x), gradient)
        energy, slope = self._system.reduced_energy_and_gradient(x)
        # fast path on the CPU: one test of the sums covers the normal case, in which everything is finite
        if energy.device.type == "cpu" and math.isfinite(float(energy.sum()) + float(slope.sum())):
            self.report_anomaly("nonfinite_energy", 0, len(x))
            self.report_anomaly("nonfinite_gradient", 0, len(x))
            return energy, slope
        return self._without_nonfinite(energy, slope)

    def _without_nonfinite(self, energy: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        no_energy = ~energy.isfinite()
        no_gradient = ~(no_energy | gradient.flatten(1).isfinite().all(dim=1))
        unusable = (no_energy | no_gradient).reshape(-1, *(1,) * (gradient.dim() - 1))
        self.report_anomaly("nonfinite_energy", no_energy.sum(), len(energy))
        self.report_anomaly("nonfinite_gradient", no_gradient.sum(), len(energy))
        return energy.masked_fill(no_energy, float("inf")), gradient.masked_fill(unusable, 0.0)

    def reduced_energy(self, x: torch.Tensor) -> torch.Tensor:
        """Return differentiable reduced energies ``[batch]``; one evaluation per configuration, none for backward.

        They count as evaluations with a gradient if `x` requires one.
        """
        import torch

        from cgbench.counting.energy_gate import EnergyWithGradient

        gradient = x.requires_grad and torch.is_grad_enabled()
        evaluate = lambda at: self._evaluate(at, gradient)  # noqa: E731
        energy: torch.Tensor = EnergyWithGradient.apply(x, evaluate)  # type: ignore[no-untyped-call]
        return energy

    def openmm_simulation(
        self,
        integrator: openmm.Integrator,
        add_forces: Callable[[openmm.System, Sequence[openmm.Force]], None] = lambda system, cvs: None,
    ) -> app.Simulation:
        """Return an OpenMM simulation of the molecule that charges every step before it is made.

        Only for systems with the trait "openmm".

        Parameters
        ----------
        integrator
            An OpenMM integrator whose evaluations per step are known; see `cgbench.counting.openmm_integrators`.
        add_forces
            Called with the ``openmm.System`` and one ``openmm.Force`` per CV before the context is created. Adds
            biases, which must be in force groups that the molecule does not use.
        """
        from cgbench.counting.openmm_simulation import CountedSimulation

        model = self._system.openmm_model()
        own = model.system.getNumForces()
        add_forces(model.system, model.collective_variables)  # may put the molecule's forces into other groups
        groups = {force.getForceGroup() for force in model.system.getForces()[:own]}
        return CountedSimulation(
            model.topology,
            model.system,
            integrator,
            model.platform,
            model.properties,
            own_groups=groups,
            charge=self._ledger.charge,
        )
