"""The registered methods ``cgflow_al`` and ``cgflow_grid``: each runs the recipe that its configuration names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Protocol

from numpy.typing import NDArray
from pydantic import Field

from cgbench.contracts.method import Activity, Method, MethodConfig
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench.errors import UserError
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.cgflow.harmonic.recipe import HarmonicRecipe
from cgbench_methods.cgflow.published.config import PublishedConfig
from cgbench_methods.cgflow.published.recipe import PublishedRecipe

__all__ = ["ActiveLearning", "CGFlowConfig", "ConditionalFlowMethod", "GridConditioning", "Recipe"]


class Recipe(Protocol):
    """What a recipe offers: the same as a method, for one kind of configuration."""

    activity: Activity
    uncounted_in_publication: frozenset[str]

    def estimates(self) -> Iterator[PMF]:
        """Yield the current PMF wherever the recipe could stop."""

    def diagnostics(self) -> dict[str, Any]:
        """Return JSON-able numbers for the record."""

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """Return named arrays that figures need."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


RECIPES: dict[str, Any] = {"harmonic": HarmonicRecipe, "published": PublishedRecipe}


class CGFlowConfig(MethodConfig):
    """A recipe with its settings: "harmonic" (ours) or "published" (Schopmans & Friederich, ICML 2024)."""

    recipe: Annotated[HarmonicConfig | PublishedConfig, Field(discriminator="kind")] = HarmonicConfig()


class ConditionalFlowMethod(Method):
    """Runs the recipe that the configuration names."""

    requires = frozenset({"gradient", "coordinates"})
    Config = CGFlowConfig

    def __init__(self, problem: Problem, config: CGFlowConfig, streams: Streams) -> None:
        super().__init__(problem, config, streams)
        self.recipe: Recipe = RECIPES[config.recipe.kind](problem, config.recipe, streams)
        self.activity = self.recipe.activity
        self.uncounted_in_publication = self.recipe.uncounted_in_publication

    def estimates(self) -> Iterator[PMF]:
        """Yield the recipe's estimates."""
        yield from self.recipe.estimates()

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
    """Conditional flow with active learning of the collective variables, from a single minimum."""

    name = "cgflow_al"

    def __init__(self, problem: Problem, config: CGFlowConfig, streams: Streams) -> None:
        recipe = config.recipe
        if recipe.grid_points is not None:
            raise UserError(
                f"cgflow_al explores the collective variables itself: set {recipe.GRID_KEY} to null, "
                f"not {recipe.grid_points}, or use cgflow_grid"
            )
        super().__init__(problem, config, streams)


class GridConditioning(ConditionalFlowMethod):
    """Conditional flow with a regular grid of collective variables, without exploration."""

    name = "cgflow_grid"

    def __init__(self, problem: Problem, config: CGFlowConfig, streams: Streams) -> None:
        recipe = config.recipe
        if recipe.grid_points is None:
            raise UserError(f"cgflow_grid needs {recipe.GRID_KEY}: the number of grid points per collective variable")
        super().__init__(problem, config, streams)
