"""Settings of Flow AIS Bootstrap."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from cgbench.contracts.method import MethodConfig
from cgbench_methods.lib.estimators.orders import FitOrders
from cgbench_methods.lib.flows.settings import FlowConfig
from cgbench_methods.lib.sampling.settings import CompileEnergy

__all__ = ["AISConfig", "BufferConfig", "EstimateConfig", "FABConfig", "FlowConfig", "TrainingConfig"]


class AISConfig(MethodConfig):
    """Settings of annealed importance sampling from the flow to ``p^alpha q^(1 - alpha)``."""

    alpha: float = Field(2.0, ge=1)
    distributions: int = Field(8, ge=1, description="intermediate distributions, one HMC transition each")
    leapfrog_steps: int = Field(4, ge=1)
    step_size: float = Field(0.1, gt=0, description="initial step size of the leapfrog integrator")
    target_acceptance: float = Field(0.65, gt=0, lt=1)
    adaptation: float = Field(0.1, ge=0, description="relative change of the step size per unit of excess acceptance")
    batch: int = Field(256, ge=1, description="chains per pass")
    energy_linear_below: float = Field(1e8, gt=0, description="kT; energies above this grow logarithmically")
    energy_largest: float = Field(1e20, gt=0, description="kT; energies are clipped at this")


class BufferConfig(MethodConfig):
    """Size of the replay buffer, in training batches."""

    smallest: int = Field(64, ge=1, description="batches before training starts")
    largest: int = Field(512, ge=1)
    correction_limit: float = Field(10.0, gt=0, description="largest correction for the change of the flow")

    @model_validator(mode="after")
    def _holds_the_start(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest ({self.smallest}) must not exceed largest ({self.largest})")
        return self


class TrainingConfig(MethodConfig):
    """Settings of the flow's training."""

    updates: int = Field(20_000, ge=1)
    updates_per_pass: int = Field(8, ge=1, description="updates per pass of annealed importance sampling")
    batch: int = Field(256, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    warmup: int = Field(1000, ge=0, description="updates of linear warm-up, before a cosine decay to zero")
    weight_decay: float = Field(1e-5, ge=0)
    clip_norm: float = Field(1e3, gt=0)


class EstimateConfig(MethodConfig):
    """Settings of the estimate of the PMF from samples of the flow."""

    samples: int = Field(1_000_000, ge=1, description="samples of the trained flow")
    chunk: int = Field(2000, ge=1, description="samples per batch")
    use_training: bool = Field(True, description="also use the starts of the AIS chains")
    truncation: float | None = Field(1000.0, gt=1, description="weights are clipped at this multiple of their mean")
    smoothing: bool = Field(
        True, description="smooth the histogram, with the kernel width chosen by held-out likelihood"
    )
    pseudocount: float = Field(0.1, gt=0, description="added to each bin of the histogram")
    per_decade: int = Field(10, ge=1, description="estimates per tenfold number of evaluations")
    fit_orders: FitOrders | None = Field(
        None,
        description="candidate orders of a Fourier fit to the weighted histogram, increasing, which is used where its "
        "held-out likelihood is better than that of the histogram; null for no fit",
    )

    @model_serializer(mode="wrap")
    def _without_new_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a key that published configurations do not have, if it is not used: it would change their hash."""
        found: dict[str, Any] = handler(self)
        if found.get("fit_orders") is None:
            found.pop("fit_orders", None)
        return found


class FABConfig(MethodConfig):
    """All settings of Flow AIS Bootstrap."""

    flow: FlowConfig = FlowConfig()
    ais: AISConfig = AISConfig()
    buffer: BufferConfig = BufferConfig()
    training: TrainingConfig = TrainingConfig()
    estimate: EstimateConfig = EstimateConfig()
    compile: CompileEnergy = False
