"""Settings of our own recipe."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cgbench.contracts.method import MethodConfig

__all__ = ["AtlasConfig", "FlowConfig", "HarmonicConfig", "LabelConfig", "SurrogateConfig", "TrainingConfig"]


class AtlasConfig(MethodConfig):
    """How the harmonic atlas grows over the domain of the collective variables (CVs)."""

    grid: int | None = Field(None, ge=2, description="points per CV of a regular grid; None: active learning")
    max_points: int = Field(80, ge=1)
    batch: int = Field(6, ge=1, description="points relaxed together")
    min_distance: float = Field(0.5, gt=0, description="least distance of a new point from the others")
    relax_steps: int = Field(25, ge=0)
    relax_tolerance: float = Field(0.1, gt=0, description="kT")
    stiffness_floor: float = Field(0.05, gt=0, description="least eigenvalue of a Hessian, scaled units")
    stiffness_offset: float = Field(0.02, ge=0)
    smoothness: float = Field(1e-3, gt=0)
    length_scale: float = Field(1.0, gt=0)
    amplitude: float = Field(6.0, gt=0, description="kT")
    noise: float = Field(0.5, gt=0, description="kT")
    ceiling: float = Field(25.0, gt=0, description="kT; higher values of the PMF are cut here")
    walkers: int = Field(200, ge=1)
    walk_step: float = Field(0.15, gt=0)
    walk_steps: int = Field(5000, ge=1)
    threshold: float = Field(3.0, gt=0, description="kT")
    temperature_factor: float = Field(1.5, ge=1)


class FlowConfig(MethodConfig):
    """Shape of the flow on top of the conditional Gaussian."""

    feature_order: int = Field(3, ge=0, description="total order of the Fourier features of s")
    num_couplings: int = Field(6, ge=0)
    hidden_features: int = Field(96, ge=1)
    num_blocks: int = Field(1, ge=0)
    num_bins: int = Field(8, ge=2)


class TrainingConfig(MethodConfig):
    """Training by energy with path gradients."""

    rounds: int = Field(16, ge=1, description="a round ends with an estimate")
    steps_per_round: int = Field(25, ge=1)
    batch: int = Field(128, ge=1)
    learning_rate: float = Field(7e-4, gt=0)
    gaussian_learning_rate: float = Field(5e-4, gt=0)
    clip_norm: float = Field(40.0, gt=0)
    path_gradients: bool = Field(True, description="leave the score term out of the gradient")
    labels: bool = Field(True, description="training samples are labels as well")


class LabelConfig(MethodConfig):
    """Sampling of labels once the flow is trained, and when to stop."""

    batch: int = Field(4000, ge=1)
    max_rounds: int = Field(10, ge=1)
    target_kld: float = Field(5e-4, gt=0, description="stop when the posterior expects a KLD below this")
    truncation: float = Field(50.0, gt=1, description="weights are cut at this multiple of the fit")
    softness: float = Field(2.0, gt=0, description="s is drawn from exp(-A / softness)")
    ceiling: float = Field(12.0, gt=0, description="kT; no s is drawn where the PMF is higher")
    uniform_share: float = Field(0.1, ge=0, le=1)
    mean_force: bool = Field(True, description="the slopes of the log-weights are labels as well")


class SurrogateConfig(MethodConfig):
    """The Bayesian Fourier model of the PMF."""

    order: int = Field(8, ge=1)
    length_scales: tuple[float, ...] = Field((0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0), min_length=1)
    amplitudes: tuple[float, ...] = Field(
        (0.5, 1.0, 2.0, 4.0), min_length=1, description="kT, about the harmonic estimate"
    )
    threshold: float = Field(0.4, gt=0, description="kT; the walk stops where the spread is larger")
    walkers: int = Field(100, ge=1)
    walk_step: float = Field(0.1, gt=0)
    walk_steps: int = Field(1000, ge=1)
    new_points: int = Field(15, ge=1)
    radius: float = Field(0.3, gt=0)
    share: float = Field(0.3, ge=0, le=1, description="of the labels, drawn around the new points")


class HarmonicConfig(MethodConfig):
    """Settings of the harmonic recipe."""

    GRID_KEY: ClassVar[str] = "recipe.atlas.grid"

    kind: Literal["harmonic"] = "harmonic"
    coordinates: str = "default"
    atlas: AtlasConfig = AtlasConfig()
    flow: FlowConfig = FlowConfig()
    training: TrainingConfig = TrainingConfig()
    surrogate: SurrogateConfig = SurrogateConfig()
    labels: LabelConfig = LabelConfig()

    @property
    def grid_points(self) -> int | None:
        """Points per collective variable of the grid; None for active learning."""
        return self.atlas.grid
