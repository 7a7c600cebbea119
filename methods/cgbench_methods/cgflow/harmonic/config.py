"""Settings of our recipe.

Lengths along collective variables (CVs) are those of `cgbench_methods.lib.lengths`: the whole domain of a CV counts as
2 pi. For torsions they are in radians.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from cgbench.contracts.method import MethodConfig
from cgbench_methods.lib.estimators.orders import FitOrders
from cgbench_methods.lib.sampling.settings import Friction, StepSize, TimeStep

__all__ = [
    "SLOPE_NOISE",
    "FlowConfig",
    "HarmonicConfig",
    "MinimaConfig",
    "PairsConfig",
    "SamplingConfig",
    "SurrogateConfig",
    "TrainingConfig",
    "WellsConfig",
    "more_for",
]

SLOPE_NOISE = 4.0  # times the noise of a harmonic free energy over the length scale: noise of its slope


def more_for(cvs: int) -> int:
    """Return the factor of the numbers of samples and reference points for a number of CVs."""
    if cvs <= 2:
        return 1
    return 4 if cvs == 3 else 2 * (cvs - 2)  # the model of pairs needs less than a grid


class MinimaConfig(MethodConfig):
    """Search for harmonic minima over the domain of the collective variables (CVs)."""

    grid: int | None = Field(None, ge=2, description="points per CV of a regular grid; null: active learning")
    max_points: int = Field(80, ge=1, description="largest number of reference points, for two CVs")
    batch: int = Field(6, ge=1, description="points relaxed together")
    min_distance: float = Field(0.5, gt=0, description="smallest distance of a new point from the others")
    relax_steps: int = Field(25, ge=0, description="largest number of steps of a relaxation")
    relax_tolerance: float = Field(0.1, gt=0, description="kT; relaxation ends at a smaller predicted decrease")
    stiffness_floor: float = Field(0.05, gt=0, description="smallest eigenvalue of a Hessian, in scaled coordinates")
    stiffness_offset: float = Field(0.02, ge=0, description="added to the diagonal of a Hessian before inversion")
    smoothness: float = Field(1e-3, gt=0, description="penalty on the curvature of the fitted mean and covariance")
    length_scale: float = Field(0.6, gt=0, description="prior length scale of the model of the harmonic PMF")
    amplitude: float = Field(6.0, gt=0, description="kT; prior standard deviation of that model")
    noise: float = Field(0.5, gt=0, description="kT; assumed error of a harmonic free energy")
    ceiling: float = Field(25.0, gt=0, description="kT; higher harmonic free energies are set to this value")
    walkers: int = Field(200, ge=1)
    walk_step: float = Field(0.15, gt=0, description="standard deviation of a proposal along each CV")
    walk_steps: int = Field(5000, ge=1, description="largest number of steps of a walk")
    threshold: float = Field(3.0, gt=0, description="kT; a walker stops where the standard deviation is larger")
    temperature_factor: float = Field(1.5, ge=1, description="walkers sample at this multiple of the temperature")


class WellsConfig(MethodConfig):
    """Wells of free torsions. Without free torsions nothing here matters."""

    search_points: int = Field(9, ge=1, description="values of s where wells are searched")
    starts: int = Field(36, ge=6, description="largest number of combinations of angles to relax from at each s")
    margin: float = Field(10.0, gt=0, description="kT above the lowest well at the same s; higher ones are left out")
    largest_number: int = Field(27, ge=1, description="largest number of wells")
    sharpness: float = Field(10.0, gt=0, description="of the boundaries between wells")
    wide_share: float = Field(0.1, ge=0, lt=1, description="share of the noise of free torsions with a wide density")
    even_share: float = Field(0.1, gt=0, le=1, description="share of the samples that is spread evenly over the wells")
    growth: float = Field(0.5, ge=0, description="training samples grow as this power of the number of wells")
    largest_growth: float = Field(2.0, ge=1, description="of the training samples, at most this factor")
    checks: int = Field(6, ge=0, description="values of s where minima are searched that the flow does not generate")
    order: int = Field(4, ge=0, description="total order of the Fourier functions that correct the shares of wells")
    length_scale: float = Field(0.7, gt=0, description="prior length scale of these corrections")
    amplitude: float = Field(2.0, gt=0, description="kT; prior standard deviation of these corrections")


class PairsConfig(MethodConfig):
    """What is particular to more than three CVs; with at most three nothing here matters."""

    order: int = Field(6, ge=1, description="largest sum of the two wave numbers of a function of two CVs")
    length_scale: float = Field(0.8, gt=0, description="prior length scale of the model to start from")
    single: float = Field(4.0, gt=0, description="kT; prior standard deviation of a function of one CV to start from")
    pair: float = Field(2.0, gt=0, description="kT; the same of a function of two CVs")
    correction: float = Field(1.0, gt=0, description="kT; both deviations around the harmonic PMF to start from")
    noise: float = Field(1.0, gt=0, description="kT; assumed error of a harmonic free energy")
    more_points: int = Field(3, ge=1, description="factor of the number of reference points")
    atlas_softness: float = Field(1.5, gt=0, description="kT; reference points are sought in exp(-A / atlas_softness)")
    reach: float = Field(0.6, gt=0, description="longest step of s between two relaxations on the way to a new point")
    softness: float = Field(2.0, gt=0, description="kT; s is drawn from exp(-A / softness)")
    ceiling: float = Field(20.0, gt=0, description="kT; no s is drawn where the PMF is higher")
    walkers: int = Field(1000, ge=2, description="chains that draw s, and walkers of the sampling rounds")
    walk_step: float = Field(0.25, gt=0, description="standard deviation of a Gaussian step of a chain along each CV")
    spacing: int = Field(20, ge=1, description="proposals between two draws of s by a chain")
    settling: int = Field(100, ge=0, description="proposals to each chain after the model has changed")
    groups: int = Field(10, ge=2, description="groups of walkers for the standard errors of the maps")
    learned: int = Field(16000, ge=1, description="samples of a training round that the model learns from, at most")
    marginal_draws: int = Field(20000, ge=1, description="draws of s for the maps of the model")
    fit_orders: FitOrders = Field(
        (1, 2, 3, 4, 6, 8), description="candidate orders of the ratio of a map to that of the model"
    )
    starts: int = Field(30, ge=1, description="weighted samples that a walker is drawn from before sampling")
    proposals: int = Field(12, ge=1, description="configurations proposed to each walker in a sampling round")
    stride: int = Field(25, ge=1, description="steps of dynamics before each proposal")
    time_step: TimeStep = 0.002
    friction: Friction = 1.0
    step_size: StepSize = 0.1


class FlowConfig(MethodConfig):
    """Size and parts of the flow: conditional Gaussian, quadratic response, peaks, spline couplings."""

    feature_order: int = Field(3, ge=0, description="total order of the Fourier features of s")
    peaks: bool = Field(True, description="periodic coordinates start with the peaks of their minima; false: uniform")
    quadratic: bool = Field(True, description="coordinates follow products of others")
    num_couplings: int = Field(6, ge=0)
    hidden_features: int = Field(96, ge=1)
    num_blocks: int = Field(1, ge=0)
    num_bins: int = Field(8, ge=2)


class TrainingConfig(MethodConfig):
    """Training by energy."""

    rounds: int = Field(16, ge=1, description="training rounds; an estimate follows each")
    steps_per_round: int = Field(25, ge=1)
    batch: int = Field(128, ge=1)
    learning_rate: float = Field(1e-4, gt=0, description="of the spline couplings")
    gaussian_learning_rate: float = Field(1e-4, gt=0, description="of the harmonic start")
    quadratic_learning_rate: float = Field(5e-4, gt=0, description="of the quadratic response")
    clip_norm: float = Field(
        6.0, gt=0, description="largest gradient norm of a sample, in standard deviations of the harmonic start"
    )
    divergence: Literal["jensen_shannon", "reverse_kl"] = Field(
        "jensen_shannon", description="that path gradients minimise"
    )
    path_gradients: bool = Field(True, description="omit the score term from the gradient")
    labels: bool = Field(True, description="use the training samples for the PMF")


class SamplingConfig(MethodConfig):
    """Choice of s, use of the weighted samples, and rounds of sampling after the training."""

    batch: int = Field(4000, ge=1, description="samples of a sampling round")
    max_rounds: int = Field(10, ge=1, description="largest number of sampling rounds")
    target_kld: float = Field(5e-4, gt=0, description="stop when the expected forward KLD is below")
    truncation: float = Field(
        50.0,
        gt=1,
        description="times the fit; what a weight has above is spread to samples nearby (more than three CVs: cut)",
    )
    softness: float = Field(2.0, gt=0, description="kT; s is drawn from exp(-A / softness)")
    ceiling: float = Field(12.0, gt=0, description="kT; no s is drawn where the PMF is higher")
    uniform_share: float = Field(0.1, ge=0, le=1, description="share of s drawn uniformly below the ceiling")
    mean_force: bool = Field(True, description="fit the slopes of the log-weights too")


class SurrogateConfig(MethodConfig):
    """Bayesian Fourier model of the PMF, and exploration with it."""

    order: int = Field(8, ge=1, description="largest wave number along each CV")
    length_scales: tuple[float, ...] = Field(
        (0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0), min_length=1, description="candidates; the evidence chooses"
    )
    amplitudes: tuple[float, ...] = Field(
        (0.5, 1.0, 2.0, 4.0), min_length=1, description="kT, around the harmonic PMF; candidates"
    )
    threshold: float = Field(0.4, gt=0, description="kT; a walker stops where the standard deviation is larger")
    walkers: int = Field(100, ge=1)
    walk_step: float = Field(0.1, gt=0, description="standard deviation of a proposal along each CV")
    walk_steps: int = Field(1000, ge=1, description="largest number of steps of a walk")
    new_points: int = Field(15, ge=1, description="largest number of uncertain points chosen in a round")
    radius: float = Field(0.3, gt=0, description="s is drawn within this distance of an uncertain point")
    share: float = Field(0.3, ge=0, le=1, description="share of s drawn around the uncertain points")


class HarmonicConfig(MethodConfig):
    """Settings of the harmonic recipe."""

    GRID_KEY: ClassVar[str] = "recipe.atlas.grid"

    kind: Literal["harmonic"] = "harmonic"
    coordinates: str = Field("default", description="set of fine-grained coordinates")
    atlas: MinimaConfig = Field(MinimaConfig(), description="search for harmonic minima")
    flow: FlowConfig = FlowConfig()
    training: TrainingConfig = TrainingConfig()
    surrogate: SurrogateConfig = Field(SurrogateConfig(), description="model of the PMF, and exploration")
    labels: SamplingConfig = Field(SamplingConfig(), description="weighted samples")
    wells: WellsConfig = Field(WellsConfig(), description="wells of free torsions")
    pairs: PairsConfig = Field(PairsConfig(), description="more than three CVs")

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `wells` and `pairs` out where nothing is changed: older records keep the hash of their settings."""
        content: dict[str, Any] = handler(self)
        if self.wells == WellsConfig():
            content.pop("wells", None)
        if self.pairs == PairsConfig():
            content.pop("pairs", None)
        return content

    @property
    def grid_points(self) -> int | None:
        """Points per collective variable of the grid; None for active learning."""
        return self.atlas.grid
