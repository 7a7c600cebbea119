"""Settings of parallel tempering."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cgbench.contracts.method import MethodConfig
from cgbench_methods.lib.estimators.orders import FitOrders
from cgbench_methods.lib.sampling.settings import CompileEnergy, Friction, StepSize, TimeStep
from cgbench_methods.lib.sampling.walkers import BLOCK

__all__ = ["ParallelTemperingConfig"]


class ParallelTemperingConfig(MethodConfig):
    """Settings of parallel tempering."""

    evaluations: int = Field(20_000_000, ge=1, description="evaluations of the whole run, burn-in included")
    ladders: int = Field(64, ge=2, description="number of independent ladders, all from the initial configuration")
    hottest: float = Field(2.0, gt=1, description="highest temperature relative to that of the PMF")
    exchange_rate: float = Field(
        0.3, gt=0, lt=1, description="least accepted share of exchanges that the number of temperatures is chosen for"
    )
    most_temperatures: int = Field(32, ge=2, description="largest number of temperatures of a ladder")
    burn_in: float = Field(
        0.2, gt=0, lt=1, description="share of the evaluations for adapting the temperatures and equilibration"
    )
    rounds: int = Field(
        5, ge=2, description="rounds of the burn-in, each twice as long as the one before; the last keeps the ladder"
    )
    stride: int = Field(10, ge=1, le=BLOCK, description="steps between exchanges")
    time_step: TimeStep = 0.001
    friction: Friction = 1.0
    step_size: StepSize = 0.15
    most_samples: int = Field(
        1_000_000, ge=100, description="largest number of samples in memory; exchanges without a sample if necessary"
    )
    mbar_samples: int = Field(20_000, ge=100, description="largest number of samples that MBAR is solved with")
    fit_orders: FitOrders = Field((2, 3, 4, 6, 8, 12, 16), description="candidate orders of the fit, increasing")
    groups: int = Field(8, ge=2, description="groups of ladders for the order of the fit and for errors")
    estimates: int = Field(
        10, ge=1, description="estimates during production, at geometrically spaced numbers of steps"
    )
    compile: CompileEnergy = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.groups > self.ladders:
            raise ValueError("groups must not exceed ladders: a group is a set of ladders")
        return self
