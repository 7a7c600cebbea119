"""Settings of umbrella sampling."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cgbench.contracts.method import MethodConfig

__all__ = ["UmbrellaConfig"]


class UmbrellaConfig(MethodConfig):
    """Settings of umbrella sampling."""

    windows: int = Field(16, ge=2, description="cells along each CV; windows stand at their centres")
    width: float = Field(0.75, gt=0, description="thermal width of a restraint on flat ground, in spacings of windows")
    cutoff: float = Field(10.0, gt=0, description="kT; windows are opened next to those whose cell is below it")
    margin: float = Field(1.0, ge=0, description="kT; opened windows are kept if they are not further above the cutoff")
    replicates: int = Field(2, ge=1, description="independent simulations of all windows")
    pull_steps: int = Field(300, ge=1, description="in which a new window is reached from the one beside it")
    round_steps: int = Field(400, ge=1, description="sampled after each opening of windows")
    grow_frames: int = Field(60, ge=2, description="per window that MBAR is solved with between openings, at most")
    max_rounds: int = Field(100, ge=1, description="of opening windows")
    walkers: int = Field(512, ge=1, description="of production; every window gets at least one of each replicate")
    settle_steps: int = Field(2_000, ge=0, description="of production, before anything is kept; a fifth of it at most")
    evaluations: int = Field(
        20_000_000, ge=1, description="size of the whole run; at most half goes into opening windows"
    )
    stride: int = Field(20, ge=1, description="steps between frames; after each, neighbours exchange configurations")
    estimates: int = Field(12, ge=1, description="of production")
    time_step: float = Field(0.001, gt=0, description="ps; molecules only")
    friction: float = Field(1.0, gt=0, description="1/ps; molecules only")
    step_size: float = Field(0.1, gt=0, description="of Metropolis proposals; systems without masses only")
    mbar_frames: int = Field(60_000, ge=100, description="that MBAR is solved with, at most")
    min_overlap: float = Field(0.03, gt=0, lt=1, description="of the overlap matrix, for two windows to be connected")
    pair_overlap: float = Field(0.1, ge=0, lt=1, description="of neighbours; with less, a window opens between them")
    error_stretches: int = Field(4, ge=0, description="parts of each replicate that give standard errors")
    compile: bool = Field(False, description="compile the energy where it is done in torch; minutes repay it")

    @model_validator(mode="after")
    def _a_round_has_frames(self) -> Self:
        if self.round_steps < 2 * self.stride:
            raise ValueError("round_steps must be at least two strides: every round needs frames")
        return self
