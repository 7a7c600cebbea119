"""Settings of the published recipe (Schopmans & Friederich, ICML 2024)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from cgbench.contracts.method import MethodConfig

__all__ = ["PublishedConfig"]


class SeedingConfig(MethodConfig):
    """Starting trajectory: Langevin dynamics, or Metropolis sampling if the system has no masses."""

    steps: int = Field(50_000, ge=1)
    stride: int = Field(10, ge=1, description="steps between frames")
    time_step: float = Field(0.001, gt=0, description="ps")
    friction: float = Field(1.0, gt=0, description="1/ps")
    step_size: float = Field(0.1, gt=0, description="of Metropolis proposals")


class PublishedFlowConfig(MethodConfig):
    """Spline couplings, or a Gaussian whose parameters are given by a network."""

    gaussian: bool = Field(False, description="a conditional Gaussian instead of spline couplings")
    gaussian_hidden: tuple[int, ...] = Field((64, 64), description="hidden layers of its network")
    num_couplings: int = Field(12, ge=1)
    hidden_features: int = Field(256, ge=1)
    num_blocks: int = Field(1, ge=0)
    num_bins: int = Field(8, ge=2)


class ByExampleConfig(MethodConfig):
    """Training by example on the starting trajectory (forward KL)."""

    epochs: int = Field(50, ge=0)
    learning_rate: float = Field(1e-4, gt=0)
    batch: int = Field(256, ge=1)


class ByEnergyConfig(MethodConfig):
    """Training by energy (reverse KL); an epoch sees every training s once, with `samples` noise samples."""

    epochs_first: int = Field(50, ge=1, description="epochs of the first iteration")
    epochs: int = Field(50, ge=1, description="epochs of each later iteration")
    warmup_first: int = Field(15, ge=0, description="epochs of linear warm-up in the first iteration")
    warmup: int = Field(11, ge=0, description="epochs of linear warm-up in each later iteration")
    learning_rate: float = Field(1e-5, gt=0)
    cosine: bool = Field(False, description="cosine decay to zero after the warm-up")
    batch: int = Field(64, ge=1, description="values of s in a batch")
    samples: int = Field(30, ge=1, description="noise samples for each s")
    clip_warmup: float = Field(100.0, gt=0, description="largest gradient norm during the warm-up")
    clip: float = Field(1e3, gt=0, description="largest gradient norm after the warm-up")
    drop_highest: int = Field(5, ge=0, description="number of the highest losses of a batch that are dropped")
    epochs_per_estimate: int = Field(10, ge=1, description="an estimate follows after this many epochs")


class EnsembleConfig(MethodConfig):
    """Ensemble of networks, and the labels it is fitted to."""

    members: int = Field(10, ge=2)
    hidden: tuple[int, ...] = Field((256, 128, 32), description="hidden layers of each network")
    share: float = Field(0.8, gt=0, le=1, description="share of the labels that each member is fitted to")
    epochs: int = Field(1500, ge=1)
    batch: int = Field(256, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    clip_largest: int = Field(3, ge=0, description="number of the largest weights of s set to the smallest of them")


class WalkConfig(MethodConfig):
    """Monte Carlo on the ensemble, and choice of the training points."""

    walkers: int = Field(200, ge=1)
    step: float = Field(0.1, gt=0, description="standard deviation of a proposal along each CV")
    threshold: float = Field(0.2, gt=0, description="kT; a walker stops where the standard deviation is larger")
    min_steps: int = Field(0, ge=0, description="no walker stops before")
    max_steps: int = Field(500_000, ge=1)
    start: tuple[float, ...] | None = Field(
        None, description="s where the first walk starts; null: start of the trajectory"
    )
    new_points: int = Field(15, ge=1, description="largest number of uncertain points chosen in an iteration")
    wait_factor: int = Field(2, ge=1, description="the walk ends when this multiple of new_points walkers stopped")
    radius: float = Field(0.6, gt=0, description="of the ball that a chosen point is broadened into")
    broadened: int = Field(200, ge=1, description="training points around each chosen point")
    held_out: float = Field(0.2, ge=0, lt=1, description="share of the points used for validation only")
    older_share: float = Field(0.3, ge=0, description="older points in an epoch, relative to the newest")
    max_iterations: int = Field(100, ge=1)


class PublishedConfig(MethodConfig):
    """Settings of the published recipe; `grid` selects grid conditioning, null active learning."""

    GRID_KEY: ClassVar[str] = "recipe.grid"

    kind: Literal["published"] = "published"
    coordinates: str = Field("literature", description="set of fine-grained coordinates")
    grid: int | None = Field(None, ge=2, description="points per collective variable of a regular grid")
    seeding: SeedingConfig = SeedingConfig()
    flow: PublishedFlowConfig = PublishedFlowConfig()
    by_example: ByExampleConfig = ByExampleConfig()
    by_energy: ByEnergyConfig = ByEnergyConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    walk: WalkConfig = WalkConfig()

    @model_validator(mode="after")
    def _weights_to_clip(self) -> PublishedConfig:
        samples, clipped = self.by_energy.samples, self.ensemble.clip_largest
        if clipped > samples:
            raise ValueError(
                f"ensemble.clip_largest ({clipped}) must be at most by_energy.samples ({samples}): "
                "these are the weights of one s"
            )
        return self

    @property
    def grid_points(self) -> int | None:
        """Points per collective variable of the grid; None for active learning."""
        return self.grid
