"""The registered methods ``cgflow_al`` and ``cgflow_grid``; each runs the recipe named in its configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import torch
from numpy.typing import NDArray
from pydantic import Field

from cgbench.contracts.declarations import Given
from cgbench.contracts.maps import FEW_CVS, MOST_CVS, PMF_GRID, Estimate
from cgbench.contracts.method import Method, MethodConfig
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench.errors import UserError
from cgbench_methods.cgflow.common.recipe import Recipe
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.cgflow.harmonic.pairs.recipe import PairRecipe
from cgbench_methods.cgflow.harmonic.recipe import HarmonicRecipe
from cgbench_methods.cgflow.published.config import PublishedConfig
from cgbench_methods.cgflow.published.recipe import PublishedRecipe

__all__ = ["ActiveLearning", "CGFlowConfig", "ConditionalFlowMethod", "GridConditioning"]


def _harmonic(problem: Problem, config: HarmonicConfig, streams: Streams) -> Recipe:
    """Return the harmonic recipe for the number of CVs of the system."""
    kind = HarmonicRecipe if len(problem.cvs) <= MOST_CVS else PairRecipe
    return kind(problem, config, streams)


RECIPES: dict[str, Callable[[Problem, Any, Streams], Recipe]] = {
    "harmonic": _harmonic,
    "published": PublishedRecipe,
}


def _given(collective_variables: str) -> tuple[Given, ...]:
    """Return what each recipe is given, with its use of the CVs."""
    flow = {"coordinates": "fine-grained ones, generated", "state_space": "nothing outside is evaluated"}
    published = Given(
        **flow,
        variant="published",
        collective_variables=collective_variables,
        masses="starting trajectory",
        gradient="starting trajectory, training",
        start="starting trajectory",
    )
    harmonic = Given(
        **flow,
        variant="harmonic",
        collective_variables=collective_variables,
        gradient="minima, training, slopes of the PMF",
        hessians="finite differences, counted",
        free_energies="highest of interest",
        wells="found by a search, counted",
        start="first minimum",
    )
    return published, harmonic


MANY_CVS = Given(
    variant="harmonic, above three CVs",
    collective_variables="condition of the flow; explored",
    coordinates="fine-grained ones, generated",
    state_space="proposals outside are not evaluated",
    masses="short dynamics between proposals",
    gradient="minima, training, dynamics",
    hessians="finite differences, counted",
    free_energies="highest of interest",
    start="first minimum",
)


class CGFlowConfig(MethodConfig):
    """Recipe and its settings: kind "harmonic" (ours) or "published" (Schopmans & Friederich, ICML 2024)."""

    recipe: Annotated[HarmonicConfig | PublishedConfig, Field(discriminator="kind")] = HarmonicConfig()


class ConditionalFlowMethod(Method):
    """Base of both methods: runs the recipe named in the configuration."""

    requires = frozenset({"gradient", "coordinates"})
    Config = CGFlowConfig

    def __init__(self, problem: Problem, config: CGFlowConfig, streams: Streams) -> None:
        super().__init__(problem, config, streams)
        if config.recipe.kind == "published" and PMF_GRID not in problem.traits:
            raise UserError(
                f"the published recipe of {self.name} needs {PMF_GRID} (one map over at most two CVs); "
                "use a preset with recipe.kind harmonic"
            )
        self.recipe = RECIPES[config.recipe.kind](problem, config.recipe, streams)
        self.activity = self.recipe.activity
        self.uncounted_in_publication = self.recipe.uncounted_in_publication

    def estimates(self) -> Iterator[PMF | Estimate]:
        """Yield the recipe's estimates."""
        yield from self.recipe.estimates()

    def weighted_samples(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the recipe's weighted samples."""
        return self.recipe.weighted_samples(count, generator)

    def diagnostics(self) -> dict[str, Any]:
        """Return the recipe's diagnostics."""
        return self.recipe.diagnostics()

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the recipe's arrays for figures."""
        return self.recipe.extra_arrays()

    def state_dict(self) -> dict[str, Any]:
        """Return the recipe's state."""
        return self.recipe.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.recipe.load_state_dict(state)


class ActiveLearning(ConditionalFlowMethod):
    """Conditional flow with active learning: starts at one minimum and explores the collective variables itself."""

    name = "cgflow_al"
    given = (*_given("condition of the flow; explored"), MANY_CVS)

    def __init__(self, problem: Problem, config: CGFlowConfig, streams: Streams) -> None:
        recipe = config.recipe
        if recipe.grid_points is not None:
            raise UserError(
                f"cgflow_al explores the collective variables itself: set {recipe.GRID_KEY} to null, "
                f"not {recipe.grid_points}, or use cgflow_grid"
            )
        super().__init__(problem, config, streams)


class GridConditioning(ConditionalFlowMethod):
    """Conditional flow with a regular grid of collective variables."""

    name = "cgflow_grid"
    requires = ConditionalFlowMethod.requires | {FEW_CVS}
    given = _given("condition of the flow; grid over the domain")

    def __init__(self, problem: Problem, config: CGFlowConfig, streams: Streams) -> None:
        recipe = config.recipe
        if recipe.grid_points is None:
            raise UserError(f"cgflow_grid needs {recipe.GRID_KEY}: the number of grid points per collective variable")
        super().__init__(problem, config, streams)
