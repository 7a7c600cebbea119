"""Routes under a frozen bias with another integrator than the reference's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from cgbench.contracts.system import System
from cgbench_methods.lib.sampling.bias import biased
from cgbench_methods.lib.sampling.hybrid import HybridMonteCarlo
from cgbench_systems.molecular.reference.configurations import HEATING_FRICTION
from cgbench_systems.molecular.reference.route import FRICTION, TIME_STEP, Array, Route
from cgbench_systems.molecular.reference.side_chains.bias import SummedBias, TorsionBias
from cgbench_systems.molecular.reference.side_chains.torsions import SideTorsions
from cgbench_systems.molecular.reference.verify import flattening_bias, predicted_starts, side_torsion_rows

__all__ = ["DoubleStepRoute", "FrozenRoute", "HalfStepRoute", "MetropolisRoute"]


class FrozenRoute(Route):
    """Langevin dynamics under a frozen bias that a certified reference implies, with a time step of its own.

    The bias is the certified PMF times ``1/g - 1`` up to some kT, so that no metadynamics is needed. Samples have the
    weight exp(bias), which is exact whatever the bias is. The walkers start from the distribution that the reference
    predicts under the bias. They must forget it within the equilibration: under the bias, no barrier is high.

    A block holds one weighted histogram for each of several independent groups of walkers.

    Attributes
    ----------
    bias_factor
        The g of the bias.
    groups
        Number of groups of walkers.
    heating
        Steps with strong friction after the start.
    """

    walkers = 1024
    bias_factor = 5.0
    groups = 32
    heating: ClassVar[int] = 2000
    equilibration = 15

    def __init__(self, system: System, folder: Path, seed: int) -> None:
        super().__init__(system, folder, seed)
        self.torsions = SideTorsions(system)
        self._set_bias(None)
        self._set_dynamics(system.initial_configuration()[None].repeat(self.walkers, 1, 1))

    def _set_bias(self, state: dict[str, Any] | None) -> None:
        """Make the bias from the reference, or from a checkpoint."""
        scale = 1.0 - 1.0 / self.bias_factor
        if state is None:
            reference = self.system.reference()
            self.bias = flattening_bias(self.system.cvs, reference.pmf.probability, scale=scale)
            self.torsion_bias = TorsionBias.flattening(side_torsion_rows(self.system, reference, self.torsions))
            self._probability = reference.pmf.probability
        else:
            self.bias.load_state_dict(state["bias"])
            self.torsion_bias.load_state_dict(state["torsion_bias"])
        self.total_bias = SummedBias(self.bias, self.torsion_bias)
        self.evaluate = biased(self.total_bias, self.system.reduced_energy_and_gradient, self.torsions.with_cvs)

    def _set_dynamics(self, positions: torch.Tensor) -> None:
        self.dynamics = self.langevin(self.evaluate, positions)

    def _start(self) -> None:
        """Draw starts from the prediction under the bias, and heat them."""
        expected = self._probability * np.exp(-self.bias.on_grid())
        start = predicted_starts(self.system, self.torsions, expected / expected.sum(), self.walkers, self.seed)
        heated = self.langevin(self.evaluate, start, TIME_STEP)
        heated.set_friction(HEATING_FRICTION)
        heated.step(self.heating)
        self._set_dynamics(heated.positions)

    def _sample(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Advance by one stride; return CVs ``[walkers, cvs]`` and log-weights ``[walkers]``."""
        self.dynamics.step(self.stride)
        return self.evaluate.last

    def advance(self) -> None:
        """Sample a block; the first one starts the walkers."""
        if not self.blocks:
            self._start()
        cvs = self.system.cvs
        histogram = np.zeros((self.groups, *cvs.bins))
        for _ in range(self.block_steps // self.stride):
            s, log_weights = self._sample()
            values = s[:, : len(cvs)].double().cpu().numpy()
            parts = zip(
                histogram,
                np.array_split(values, self.groups),
                np.array_split(np.exp(log_weights.double().cpu().numpy()), self.groups),
                strict=True,
            )
            for part, its_values, its_weights in parts:
                part += cvs.histogram(its_values, its_weights)
        self.check_state_space(self.dynamics.positions)
        self.blocks.append(histogram)

    def group_histograms(self) -> Array:
        """Return the weighted histograms of the independent groups of walkers ``[groups, bins, bins]``."""
        return np.asarray(self.kept().sum(axis=0))

    def halves(self) -> tuple[Array, Array]:
        """Return `group_histograms` of the first and of the second half of the time."""
        kept = self.kept()
        middle = max(1, len(kept) // 2)
        return kept[:middle].sum(axis=0), kept[middle:].sum(axis=0)

    @property
    def bias_per_difference(self) -> float:
        """Bias of the reference that a difference of one from it means, for an error of second order in the step."""
        return 1.0 / ((self.time_step / TIME_STEP) ** 2 - 1.0)

    def facts(self) -> dict[str, Any]:
        """Return what the certificate says about the route."""
        return {
            "time_step_fs": 1000 * self.time_step,
            "walkers": self.walkers,
            "ps_per_walker": len(self.kept()) * self.block_steps * self.time_step,
            "equilibration_ps_per_walker": self.equilibration * self.block_steps * self.time_step,
        }

    def state(self) -> dict[str, Any]:
        """Return walkers and bias."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "bias": self.bias.state_dict(),
            "torsion_bias": self.torsion_bias.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self._set_bias(state)
        self._set_dynamics(state["dynamics"]["positions"])
        self.dynamics.load_state_dict(state["dynamics"])


class HalfStepRoute(FrozenRoute):
    """Half the time step of the reference. An error of second order is a quarter of the reference's."""

    name = "half_step"
    title = "Langevin dynamics with half the time step under a frozen bias, reweighted"
    time_step = 0.5 * TIME_STEP
    block_steps, stride = 2000, 20

    def __init__(self, system: System, folder: Path, seed: int = 11) -> None:
        super().__init__(system, folder, seed)


class DoubleStepRoute(FrozenRoute):
    """Twice the time step of the reference. An error of second order is four times the reference's.

    The difference from the reference is three times the reference's error, for half the evaluations per time: no other
    step shows the error as sharply.
    """

    name = "double_step"
    title = "Langevin dynamics with twice the time step under a frozen bias, reweighted"
    time_step = 2.0 * TIME_STEP
    block_steps, stride = 500, 5

    def __init__(self, system: System, folder: Path, seed: int = 12) -> None:
        super().__init__(system, folder, seed)


class MetropolisRoute(FrozenRoute):
    """Generalised hybrid Monte Carlo, which has no error of the time step.

    It samples the energy in float32. The weights contain the difference from the energy in float64, so that rounding
    has no effect either.

    Attributes
    ----------
    length
        Steps of a trajectory, after which it is accepted or rejected.
    """

    name = "metropolis"
    title = "generalised hybrid Monte Carlo under a frozen bias, reweighted to the energy in float64"
    length = 50
    block_steps, stride = 1000, 50

    def __init__(self, system: System, folder: Path, seed: int = 13) -> None:
        super().__init__(system, folder, seed)

    def _set_dynamics(self, positions: torch.Tensor) -> None:
        assert self.system.masses is not None
        self.moves = HybridMonteCarlo(
            self.evaluate,
            self.system.masses.to(self.system.device),
            self.system.temperature,
            time_step=self.time_step,
            friction=FRICTION,
            length=self.length,
            positions=positions.to(self.system.device).float(),
            generator=self.generator,
        )
        self.dynamics = self.moves  # type: ignore[assignment]

    @property
    def bias_per_difference(self) -> float:
        """The route has no bias: that of the reference is the difference, with the other sign."""
        return -1.0

    def _sample(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the moves of one stride; the log-weights are those of the energy in float64."""
        self.moves.step(self.stride // self.length)
        x = self.moves.positions.double()
        energy, _ = self.system.reduced_energy_and_gradient(x)
        return self.torsions.with_cvs(x), self.moves.energies.double() - energy

    def summary(self) -> str:
        """Describe the progress: the block and the share of accepted moves."""
        return f"{super().summary()}, {self.moves.accepted:.1%} of the moves accepted"
