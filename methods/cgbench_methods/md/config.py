"""Settings of unbiased molecular dynamics."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from cgbench.contracts.method import MethodConfig
from cgbench_methods.lib.sampling.settings import CompileEnergy, Friction, StepSize, TimeStep

__all__ = ["MDConfig"]


class MDConfig(MethodConfig):
    """Settings of unbiased molecular dynamics."""

    walkers: int = Field(256, ge=1, description="number of trajectories, all from the initial configuration")
    steps: int = Field(10_000, ge=1, description="production steps per walker")
    equilibration_steps: int = Field(1_000, ge=0, description="steps per walker before production")
    stride: int = Field(1, ge=1, description="steps between samples")
    time_step: TimeStep = 0.001
    friction: Friction = 1.0
    step_size: StepSize = 0.1
    pseudocount: float = Field(0.5, gt=0, description="added to each bin of the histogram")
    estimates_per_decade: int = Field(8, ge=1, description="estimates per tenfold number of steps")
    smoothing_pseudocount: float = Field(0.1, gt=0, description="added to each bin of the smoothed histogram")
    stretch: int = Field(
        2_000, ge=1, description="steps assigned alternately to the two halves that choose the smoothing"
    )
    compile: CompileEnergy = False
    dynamics: Literal["metropolis", "mala", "overdamped_langevin"] = Field(
        "metropolis", description="dynamics of systems without masses; molecules always have Langevin dynamics"
    )

    @model_validator(mode="after")
    def _has_samples(self) -> MDConfig:
        if self.stride > self.steps:
            raise ValueError("stride must not exceed steps")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the default of `dynamics`, which is newer than published runs: their hash stays the same."""
        found: dict[str, Any] = handler(self)
        return {name: value for name, value in found.items() if (name, value) != ("dynamics", "metropolis")}
