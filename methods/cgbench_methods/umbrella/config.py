"""Settings of umbrella sampling."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cgbench.contracts.method import MethodConfig
from cgbench_methods.lib.sampling.settings import CompileEnergy, Friction, StepSize, TimeStep

__all__ = ["UmbrellaConfig"]


class UmbrellaConfig(MethodConfig):
    """Settings of umbrella sampling."""

    windows: int = Field(16, ge=2, description="cells along each CV, with windows at their centres")
    width: float = Field(
        0.75, ge=1e-3, description="thermal width of a restraint on a flat PMF, in units of the windows' spacing"
    )
    cutoff: float = Field(
        10.0, gt=0, le=600, description="kT; windows are opened next to those whose cell is below this"
    )
    margin: float = Field(1.0, ge=0, description="kT; windows up to this far above the cutoff are kept in production")
    replicates: int = Field(2, ge=1, description="independent simulations of all windows")
    pull_steps: int = Field(300, ge=1, description="steps in which walkers are pulled to a new window")
    round_steps: int = Field(400, ge=1, description="steps sampled after each round of opening windows")
    grow_frames: int = Field(60, ge=2, description="largest number of frames per window for pymbar in these rounds")
    max_rounds: int = Field(100, ge=1, description="largest number of rounds of opening windows")
    walkers: int = Field(512, ge=1, description="walkers of production; every window gets at least one per replicate")
    settle_steps: int = Field(2_000, ge=0, description="equilibration steps before production; at most a fifth of it")
    evaluations: int = Field(
        20_000_000, ge=1, description="evaluations of the whole run; at most half are spent on opening windows"
    )
    stride: int = Field(
        20, ge=1, description="steps between frames, after each of which neighbours exchange configurations"
    )
    estimates: int = Field(12, ge=1, description="estimates during production")
    time_step: TimeStep = 0.001
    friction: Friction = 1.0
    step_size: StepSize = 0.1
    mbar_frames: int = Field(60_000, ge=100, description="largest number of frames for pymbar in production")
    min_overlap: float = Field(
        0.03, gt=0, lt=1, description="element of the overlap matrix above which two windows are connected"
    )
    pair_overlap: float = Field(0.1, ge=0, lt=1, description="neighbours with less overlap get a window between them")
    error_stretches: int = Field(
        4,
        ge=0,
        description="consecutive parts of each replicate, blocks of a jackknife for standard errors; 0 for none",
    )
    compile: CompileEnergy = False

    @model_validator(mode="after")
    def _rounds_have_frames(self) -> Self:
        if self.round_steps < 2 * self.stride:
            raise ValueError("round_steps must be at least 2 * stride: every round needs frames")
        return self
