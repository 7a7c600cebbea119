"""Settings of the annealed generators."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cgbench.contracts.method import MethodConfig
from cgbench_methods.lib.estimators.orders import FitOrders
from cgbench_methods.lib.flows.settings import FlowConfig
from cgbench_methods.lib.sampling.settings import CompileEnergy

__all__ = [
    "AnnealedConfig",
    "AnnealingConfig",
    "CMTConfig",
    "EstimateConfig",
    "HotConfig",
    "LadderConfig",
    "RegularisationConfig",
    "TABGConfig",
    "TransportConfig",
]


class RegularisationConfig(MethodConfig):
    """Regularisation of high energies."""

    energy_linear_below: float = Field(1e8, gt=0, description="kT; energies above this grow logarithmically")
    energy_largest: float = Field(1e20, gt=0, description="kT; energies are clipped at this")


class HotConfig(MethodConfig):
    """Settings of the first stage: reverse KL at a high temperature."""

    temperature: float = Field(4.0, gt=1, description="relative to the temperature of the PMF")
    updates: int = Field(4000, ge=1)
    batch: int = Field(256, ge=2)
    dropped: int = Field(10, ge=0, description="samples of highest energy that are left out of each batch")
    learning_rate: float = Field(1e-3, gt=0)
    warmup: int = Field(100, ge=0, description="updates of linear warm-up, before a cosine decay to zero")
    weight_decay: float = Field(1e-5, ge=0)
    clip_norm: float = Field(100.0, gt=0, description="largest norm of the gradient of a batch")
    path_gradient: bool = Field(True, description="leave out the score of the flow, which is zero on average")
    sample_clip: float | None = Field(
        None, gt=0, description="largest norm of each sample's gradient with respect to its coordinates"
    )

    @model_validator(mode="after")
    def _some_are_left(self) -> Self:
        if self.dropped >= self.batch:
            raise ValueError(f"dropped must be less than batch; here they are {self.dropped} and {self.batch}")
        return self


class AnnealingConfig(MethodConfig):
    """Settings of the stages that follow: forward KL on weighted samples of the flow."""

    draws: int = Field(100_000, ge=10, description="samples of the flow in the buffer of a stage")
    resampled: int | None = Field(
        None, ge=1, description="samples drawn from the buffer by weight; without it, every sample has its weight"
    )
    clipped_share: float = Field(1e-4, ge=0, lt=1, description="share of the largest weights that is clipped")
    updates: int = Field(1000, ge=1, description="updates of the flow in each stage")
    batch: int = Field(256, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    warmup: int = Field(20, ge=0, description="updates of linear warm-up in each stage, before a cosine decay to zero")
    weight_decay: float = Field(1e-5, ge=0)
    clip_norm: float = Field(100.0, gt=0)
    repeats: int = Field(1, ge=0, description="further stages at the target, once it is reached")


class EstimateConfig(MethodConfig):
    """Settings of the estimate of the PMF from samples of the flow."""

    samples: int = Field(1_000_000, ge=0, description="samples of the trained flow")
    chunk: int = Field(2000, ge=1, description="samples per batch")
    truncation: float | None = Field(1000.0, gt=1, description="weights are clipped at this multiple of their mean")
    smoothing: bool = Field(True, description="before the fit has enough samples: smooth the histogram")
    pseudocount: float = Field(0.1, gt=0, description="added to each bin of the histogram")
    groups: int = Field(8, ge=2, multiple_of=2, description="groups of samples for standard errors")
    fit_orders: FitOrders = Field((3, 4, 6, 8, 10, 12, 14, 16), description="candidate orders of the Fourier fit")
    fit_from: float = Field(300.0, ge=2, description="effective samples from which the fit is tried")
    per_decade: int = Field(10, ge=1, description="estimates per tenfold number of evaluations")


class LadderConfig(MethodConfig):
    """Temperatures of the stages."""

    intervals: int = Field(9, ge=1, description="steps of the geometric series from the first temperature to the last")


class TransportConfig(MethodConfig):
    """Constraints of each stage."""

    trust_region: float = Field(0.5, gt=0, description="nats; largest KL divergence of the next target from the last")
    entropy_per_coordinate: float = Field(
        0.08, gt=0, description="nats; largest decrease of the entropy in a stage, per coordinate"
    )
    most_stages: int = Field(30, ge=1, description="stages before the target, at most")


class AnnealedConfig(MethodConfig):
    """Settings that both schedules have."""

    flow: FlowConfig = FlowConfig()
    energy: RegularisationConfig = RegularisationConfig()
    hot: HotConfig = HotConfig()
    annealing: AnnealingConfig = AnnealingConfig()
    estimate: EstimateConfig = EstimateConfig()
    updates_between_checkpoints: int = Field(200, ge=1, description="updates in training between possible checkpoints")
    compile: CompileEnergy = False


class TABGConfig(AnnealedConfig):
    """All settings of the temperature-annealed Boltzmann generator."""

    ladder: LadderConfig = LadderConfig()


class CMTConfig(AnnealedConfig):
    """All settings of constrained mass transport."""

    transport: TransportConfig = TransportConfig()
