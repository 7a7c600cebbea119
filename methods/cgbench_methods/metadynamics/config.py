"""Settings of metadynamics."""

from __future__ import annotations

from pydantic import Field, model_validator

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.method import MethodConfig

__all__ = ["MetadynamicsConfig"]


class MetadynamicsConfig(MethodConfig):
    """Settings of well-tempered metadynamics and of the production under its frozen bias."""

    walkers: int = Field(256, ge=1, description="that share one bias, all from the initial configuration")
    pace: int = Field(100, ge=1, description="steps between the hills of a walker")
    deposits: int = Field(200, ge=1, description="hills of each walker, then the bias is frozen")
    height: float = Field(25.0, gt=0, description="kT, of the hills that all walkers leave at one time, together")
    width: float = Field(0.04, gt=0, description="standard deviation of a hill, as a part of each CV's domain")
    bias_factor: float = Field(6.0, gt=1, description="gamma: the bias tends to -(1 - 1/gamma) times the PMF")
    bias_order: int = Field(12, ge=1, description="most waves of the bias across the domain of a CV; batched engine")
    equilibration_steps: int = Field(2_000, ge=0, description="of each walker under the frozen bias, not counted in")
    steps: int = Field(50_000, ge=1, description="production steps of each walker")
    stride: int = Field(10, ge=1, description="steps between counted configurations")
    time_step: float = Field(0.001, gt=0, description="ps; molecules only")
    friction: float = Field(1.0, gt=0, description="1/ps; molecules only")
    step_size: float = Field(0.15, gt=0, description="of Metropolis proposals; systems without masses only")
    fit_orders: tuple[int, ...] = Field(
        (2, 3, 4, 5, 6, 7, 8, 10, 12, 14), min_length=1, description="candidates for the order of the fit, rising"
    )
    groups: int = Field(
        8, ge=2, description="of walkers, or of stretches of time: halves for the order, blocks for errors"
    )
    production_estimates: int = Field(10, ge=1, description="in all, the time between them growing by half")
    compile: bool = Field(False, description="compile the energy where it is done in torch; minutes repay it")

    @model_validator(mode="after")
    def _consistent(self) -> MetadynamicsConfig:
        if list(self.fit_orders) != sorted(set(self.fit_orders)):
            raise ValueError("fit_orders must rise")
        if self.stride > self.steps:
            raise ValueError("stride must not exceed steps")
        return self

    def widths(self, cvs: CollectiveVariables) -> list[float]:
        """Width of a hill along each CV, in its own unit."""
        return [self.width * (upper - lower) for lower, upper in zip(cvs.lower, cvs.upper, strict=True)]
