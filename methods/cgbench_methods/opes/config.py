"""Settings of OPES."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.method import MethodConfig
from cgbench_methods.lib.estimators.orders import FitOrders
from cgbench_methods.lib.sampling.chosen import ChosenCVs
from cgbench_methods.lib.sampling.settings import CompileEnergy, Friction, StepSize, TimeStep
from cgbench_methods.opes.kernels import Shape

__all__ = ["OPESConfig"]

SMALLEST = {1: 0.02, 2: 0.02, 3: 0.03}  # default of `sigma_min` by the number of CVs
Positive = Annotated[float, Field(gt=0)]


class OPESConfig(MethodConfig):
    """Settings of OPES."""

    variant: Literal["metad", "explore"] = Field("metad", description="OPES_METAD or OPES_METAD_EXPLORE")
    cvs: ChosenCVs = None
    evaluations: int = Field(20_000_000, ge=1, description="evaluations of the whole run")
    walkers: int = Field(256, ge=1, description="number of walkers, all from the initial configuration")
    pace: int = Field(500, ge=1, description="steps between the kernels of a walker")
    barrier: float = Field(20.0, gt=0, le=600, description="kT; the highest barrier that the bias compensates")
    bias_factor: float | None = Field(
        None, gt=1, description="gamma: the target is the PMF divided by gamma; null for the barrier in kT"
    )
    sigma: tuple[Positive, ...] | None = Field(
        None,
        description="widths of the first kernel in the unit of each CV; null for the spread of the walkers in the "
        "first `sigma_paces` paces, which are not biased",
    )
    sigma_paces: int = Field(10, ge=1, description="paces in which the width of the first kernel is measured")
    sigma_min: float | None = Field(
        None,
        ge=0.005,
        le=0.2,
        description="smallest width of a new kernel as a fraction of each CV's domain; null for 0.02, or 0.03 with "
        "three CVs",
    )
    discard: float = Field(
        0.2, ge=0, lt=1, description="share of the steps so far whose samples are not used, at each estimate"
    )
    freeze: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the steps after which the bias is kept; only later samples are used from then on; null "
        "for a bias that changes to the end",
    )
    stride: int = Field(10, ge=1, description="steps between samples")
    most_samples: int = Field(
        1_000_000, ge=100, description="largest number of samples in memory; fewer per step if necessary"
    )
    time_step: TimeStep = 0.001
    friction: Friction = 1.0
    step_size: StepSize = 0.15
    fit_orders: FitOrders = Field((2, 3, 4, 6, 8, 12, 16), description="candidate orders of the fit, increasing")
    groups: int = Field(
        8, ge=2, description="groups of walkers, or of stretches of time, for the order of the fit and for errors"
    )
    estimates: int = Field(12, ge=1, description="number of estimates, at geometrically spaced numbers of steps")
    compile: CompileEnergy = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.pace % self.stride:
            raise ValueError("pace must be a multiple of stride")
        if self.shape.bias_factor <= 1:
            raise ValueError("barrier must be above 1 kT where bias_factor is not given")
        return self

    @property
    def shape(self) -> Shape:
        """The functional form of the bias."""
        factor = self.barrier if self.bias_factor is None else self.bias_factor
        return Shape(self.barrier, factor, self.variant == "explore")

    def smallest(self, cvs: CollectiveVariables) -> float:
        """Smallest width of a new kernel as a fraction of the domain of each of `cvs`."""
        return SMALLEST[len(cvs)] if self.sigma_min is None else self.sigma_min

    def least_widths(self, cvs: CollectiveVariables) -> list[float]:
        """Smallest width of a new kernel along each of `cvs`, in its unit."""
        return [self.smallest(cvs) * (upper - lower) for lower, upper in zip(cvs.lower, cvs.upper, strict=True)]
