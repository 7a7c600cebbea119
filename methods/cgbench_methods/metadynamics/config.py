"""Settings of metadynamics."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.method import MethodConfig
from cgbench_methods.lib.estimators.orders import FitOrders
from cgbench_methods.lib.sampling.chosen import ChosenCVs
from cgbench_methods.lib.sampling.settings import CompileEnergy, Friction, StepSize, TimeStep

__all__ = ["MetadynamicsConfig"]


class MetadynamicsConfig(MethodConfig):
    """Settings of well-tempered metadynamics and of the production under its frozen bias."""

    walkers: int = Field(256, ge=1, description="number of walkers, all from the initial configuration")
    pace: int = Field(100, ge=1, description="steps between the hills of a walker")
    deposits: int = Field(200, ge=1, description="hills per walker before the bias is frozen")
    height: float = Field(25.0, gt=0, description="kT; total height of the hills that all walkers add at one time")
    width: float = Field(0.04, gt=0, description="standard deviation of a hill as a fraction of each CV's domain")
    bias_factor: float = Field(6.0, gt=1, description="gamma: the bias converges to -(1 - 1/gamma) times the PMF")
    bias_order: int = Field(
        12, ge=1, description="largest number of waves of the bias across each CV's domain; batched engine only"
    )
    equilibration_steps: int = Field(
        2_000, ge=0, description="steps per walker under the frozen bias before production"
    )
    steps: int = Field(50_000, ge=1, description="production steps per walker")
    stride: int = Field(10, ge=1, description="steps between samples")
    time_step: TimeStep = 0.001
    friction: Friction = 1.0
    step_size: StepSize = 0.15
    fit_orders: FitOrders = Field(
        (2, 3, 4, 5, 6, 7, 8, 10, 12, 14), description="candidate orders of the fit, increasing"
    )
    groups: int = Field(
        8, ge=2, description="groups of walkers, or of stretches of time, for the order of the fit and for errors"
    )
    production_estimates: int = Field(
        10, ge=1, le=100, description="number of estimates; the steps before each grow by a half"
    )
    compile: CompileEnergy = False
    cvs: ChosenCVs = None

    @model_validator(mode="after")
    def _consistent(self) -> MetadynamicsConfig:
        if self.stride > self.steps:
            raise ValueError("stride must not exceed steps")
        return self

    @model_serializer(mode="wrap")
    def _without_new_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a key that published configurations do not have, if it is not used: it would change their hash."""
        found: dict[str, Any] = handler(self)
        if found.get("cvs") is None:
            found.pop("cvs", None)
        return found

    def widths(self, cvs: CollectiveVariables) -> list[float]:
        """Width of a hill along each CV, in the CV's unit."""
        return [self.width * (upper - lower) for lower, upper in zip(cvs.lower, cvs.upper, strict=True)]
