"""Settings of the published recipe (Schopmans & Friederich, ICML 2024)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cgbench.contracts.method import MethodConfig

__all__ = ["PublishedConfig"]


class SeedingConfig(MethodConfig):
    """Starting trajectory in one basin: Langevin dynamics, or Metropolis sampling without masses."""

    steps: int = Field(50_000, ge=1)
    stride: int = Field(10, ge=1)
    time_step: float = Field(0.001, gt=0, description="ps")
    friction: float = Field(1.0, gt=0, description="1/ps")
    step_size: float = Field(0.1, gt=0, description="of Metropolis proposals")


class PublishedFlowConfig(MethodConfig):
    """Spline couplings, or a Gaussian whose parameters a network gives."""

    gaussian: bool = False
    gaussian_hidden: tuple[int, ...] = (64, 64)
    num_couplings: int = Field(12, ge=1)
    hidden_features: int = Field(256, ge=1)
    num_blocks: int = Field(1, ge=0)
    num_bins: int = Field(8, ge=2)


class ByExampleConfig(MethodConfig):
    """Training on the starting trajectory (forward KL)."""

    epochs: int = Field(50, ge=0)
    learning_rate: float = Field(1e-4, gt=0)
    batch: int = Field(256, ge=1)


class ByEnergyConfig(MethodConfig):
    """Training by energy (reverse KL); an epoch sees every training s once, with `samples` latent samples."""

    epochs_first: int = Field(50, ge=1)
    epochs: int = Field(50, ge=1)
    warmup_first: int = Field(15, ge=0, description="epochs of linear warm-up in the first iteration")
    warmup: int = Field(11, ge=0)
    learning_rate: float = Field(1e-5, gt=0)
    cosine: bool = Field(False, description="cosine decay to zero after the warm-up")
    batch: int = Field(64, ge=1, description="values of s in a batch")
    samples: int = Field(30, ge=1, description="latent samples for each s")
    clip_warmup: float = Field(100.0, gt=0, description="largest gradient norm during warm-up")
    clip: float = Field(1e3, gt=0)
    drop_highest: int = Field(5, ge=0, description="highest losses of a batch that are left out")
    epochs_per_estimate: int = Field(10, ge=1)


class EnsembleConfig(MethodConfig):
    """The ensemble of networks and its labels."""

    members: int = Field(10, ge=2)
    hidden: tuple[int, ...] = (256, 128, 32)
    share: float = Field(0.8, gt=0, le=1, description="of the labels that each member sees")
    epochs: int = Field(1500, ge=1)
    batch: int = Field(256, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    clip_largest: int = Field(3, ge=0, description="largest weights that are set to the smallest of them")


class WalkConfig(MethodConfig):
    """Monte Carlo on the ensemble, and the choice of new points."""

    walkers: int = Field(200, ge=1)
    step: float = Field(0.1, gt=0)
    threshold: float = Field(0.2, gt=0, description="kT")
    min_steps: int = Field(0, ge=0)
    max_steps: int = Field(500_000, ge=1)
    start: tuple[float, ...] | None = Field(None, description="s of the first walk; the trajectory's start by default")
    new_points: int = Field(15, ge=1)
    wait_factor: int = Field(2, ge=1, description="wait for this multiple of new points")
    radius: float = Field(0.6, gt=0)
    broadened: int = Field(200, ge=1)
    held_out: float = Field(0.2, ge=0, lt=1)
    older_share: float = Field(0.3, ge=0, description="older points in an epoch, relative to the newest")
    max_iterations: int = Field(100, ge=1)


class PublishedConfig(MethodConfig):
    """The published recipe; with `grid` it is grid conditioning, without it active learning."""

    GRID_KEY: ClassVar[str] = "recipe.grid"

    kind: Literal["published"] = "published"
    coordinates: str = "literature"
    grid: int | None = Field(None, ge=2, description="points per collective variable of a regular grid")
    seeding: SeedingConfig = SeedingConfig()
    flow: PublishedFlowConfig = PublishedFlowConfig()
    by_example: ByExampleConfig = ByExampleConfig()
    by_energy: ByEnergyConfig = ByEnergyConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    walk: WalkConfig = WalkConfig()

    @property
    def grid_points(self) -> int | None:
        """Points per collective variable of the grid; None for active learning."""
        return self.grid
