"""Schedules of targets: which density the flow learns next, as weights of samples of the present flow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from cgbench_methods.annealed_generators.config import LadderConfig, TransportConfig
from cgbench_methods.annealed_generators.dual import Dual
from cgbench_methods.lib.estimators.importance import effective_sample_size

__all__ = ["Buffer", "ConstrainedTransport", "Next", "Schedule", "TemperatureLadder"]


@dataclass
class Buffer:
    """Samples of the flow with what their weights depend on.

    Attributes
    ----------
    z, log_q
        Samples ``[samples, dims]`` and the log-density of the flow ``[samples]``.
    energy, volume
        Reduced energy (infinite where there is no configuration) and ``ln|det dx/dz|``, each ``[samples]``, float64.
    """

    z: torch.Tensor
    log_q: torch.Tensor
    energy: torch.Tensor
    volume: torch.Tensor

    def log_density(self, inverse_temperature: float = 1.0) -> torch.Tensor:
        """``ln p_b [samples]`` at an inverse temperature relative to that of the PMF, up to a constant."""
        return self.volume - inverse_temperature * self.energy

    def log_weights(self, inverse_temperature: float = 1.0) -> torch.Tensor:
        """``ln(p_b / q) [samples]``, minus infinity where either is not finite."""
        log_w = self.log_density(inverse_temperature) - self.log_q.double()
        return log_w.masked_fill(~(log_w.isfinite() & self.z.isfinite().all(dim=1)), -torch.inf)


@dataclass(frozen=True)
class Next:
    """The next target.

    Attributes
    ----------
    log_weights
        ``ln w [samples]`` of the buffer, float64.
    name
        The target in a few words.
    facts
        Numbers for the record.
    """

    log_weights: torch.Tensor
    name: str
    facts: dict[str, Any] = field(default_factory=dict)


class Schedule(ABC):
    """The path of targets from the hot density to that of the PMF.

    Attributes
    ----------
    at_target
        Whether the last target was the density of the PMF.
    """

    at_target = False

    @abstractmethod
    def advance(self, buffer: Buffer) -> Next:
        """Return the next target; once the density of the PMF is reached, that again."""

    @property
    @abstractmethod
    def progress(self) -> float:
        """Share of the way that is done, from 0 to 1."""

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the path, in words."""
        return []

    @property
    def exhausted(self) -> bool:
        """Whether the stages end although the density of the PMF was not reached."""
        return False

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the position on the path."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class TemperatureLadder(Schedule):
    """Temperatures in a geometric series.

    Parameters
    ----------
    config
        Number of intervals.
    hottest
        Temperature of the first stage, relative to that of the PMF.
    """

    def __init__(self, config: LadderConfig, hottest: float) -> None:
        self.config, self.hottest = config, hottest
        self.step = 0

    def _relative(self, step: int) -> float:
        return float(self.hottest ** (1.0 - step / self.config.intervals))

    def advance(self, buffer: Buffer) -> Next:
        """Return the weights of the next lower temperature."""
        learned = buffer.log_weights(1.0 / self._relative(self.step))
        self.step = min(self.step + 1, self.config.intervals)
        self.at_target = self.step == self.config.intervals
        relative = 1.0 if self.at_target else self._relative(self.step)
        facts = {
            "temperature": relative,
            "effective_sample_size_of_last_target": float(effective_sample_size(learned)),
        }
        return Next(buffer.log_weights(1.0 / relative), f"temperature x {relative:.3g}", facts)

    @property
    def progress(self) -> float:
        """Share of the intervals that are done."""
        return self.step / self.config.intervals

    def state_dict(self) -> dict[str, Any]:
        """Return the number of intervals done."""
        return {"step": self.step, "at_target": self.at_target}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.step, self.at_target = int(state["step"]), bool(state["at_target"])


class ConstrainedTransport(Schedule):
    """Targets between flow and density of the PMF, under two constraints; see `dual`.

    Parameters
    ----------
    config
        Bounds, and the largest number of stages.
    coordinates
        Number of coordinates; the bound of the entropy is proportional to it.
    """

    def __init__(self, config: TransportConfig, coordinates: int) -> None:
        self.config = config
        self.entropy = config.entropy_per_coordinate * coordinates
        self.stages = 0
        self.multipliers = (float("inf"), float("inf"))

    def advance(self, buffer: Buffer) -> Next:
        """Solve the dual problem on the buffer. Return its weights."""
        self.stages += 1
        if self.at_target:
            return Next(buffer.log_weights(), "the target again", {"trust_region": 0.0, "entropy": 0.0})
        usable = buffer.log_weights().isfinite()
        log_p = buffer.log_density().masked_fill(~usable, -torch.inf).cpu().numpy()
        log_q = buffer.log_q.double().cpu().numpy()
        found = Dual(log_p, log_q, self.config.trust_region, self.entropy).solve()
        self.at_target = found.is_the_target
        self.multipliers = found.trust_region, found.entropy
        facts = {
            "trust_region": found.trust_region,
            "entropy": found.entropy,
            "divergence": found.divergence,
            "entropy_decrease": found.entropy_decrease,
        }
        power = 1.0 / (1.0 + found.trust_region + found.entropy)
        weights = torch.from_numpy(found.log_weights).to(buffer.log_q.device)
        return Next(weights, f"power {power:.2g} of the target", facts)

    @property
    def progress(self) -> float:
        """Power of the density of the PMF in the last target."""
        return 1.0 / (1.0 + sum(self.multipliers))

    @property
    def exhausted(self) -> bool:
        """Whether the largest number of stages is done without reaching the target."""
        return self.stages >= self.config.most_stages and not self.at_target

    @property
    def warnings(self) -> list[str]:
        """Tell if the target was not reached."""
        if not self.exhausted:
            return []
        numbers = " and ".join(f"{each:.3g}" for each in self.multipliers)
        return [f"after {self.stages} stages the target is not reached (multipliers {numbers})"]

    def state_dict(self) -> dict[str, Any]:
        """Return the number of stages and the last multipliers."""
        return {"stages": self.stages, "at_target": self.at_target, "multipliers": list(self.multipliers)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.stages, self.at_target = int(state["stages"]), bool(state["at_target"])
        trust, entropy = (float(each) for each in state["multipliers"])
        self.multipliers = trust, entropy
