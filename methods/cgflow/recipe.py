"""What a recipe of the conditional flow is, and the method that runs one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from numpy.typing import NDArray
from pydantic import Field

from cgbench.method import Method, MethodConfig, Problem
from cgbench.pmf import PMF
from cgbench.streams import Streams
from methods.cgflow.harmonic_config import HarmonicConfig
from methods.cgflow.harmonic_recipe import HarmonicRecipe
from methods.cgflow.published_recipe import PublishedConfig, PublishedRecipe

__all__ = ["CGFlowConfig", "RecipeMethod"]


class CGFlowConfig(MethodConfig):
    """A recipe with its settings: "harmonic" (ours) or "published" (Schopmans & Friederich, ICML 2024)."""

    recipe: Annotated[HarmonicConfig | PublishedConfig, Field(discriminator="kind")] = HarmonicConfig()


class RecipeMethod(Method):
    """Runs the recipe that the configuration names."""

    requires = frozenset({"gradient", "coordinates"})
    Config = CGFlowConfig

    def __init__(self, problem: Problem, config: CGFlowConfig, streams: Streams) -> None:
        super().__init__(problem, config, streams)
        published = isinstance(config.recipe, PublishedConfig)
        # the publication counts training alone; in ours, labels are part of what the PMF is made of
        self.uncounted_in_publication = frozenset({"seed_md", "validate"} | ({"label"} if published else set()))
        kind = HarmonicRecipe if isinstance(config.recipe, HarmonicConfig) else PublishedRecipe
        self.recipe: HarmonicRecipe | PublishedRecipe = kind(problem, config.recipe, streams)  # type: ignore[arg-type]

    def estimates(self) -> Iterator[PMF]:
        """Yield the recipe's estimates."""
        yield from self.recipe.estimates()

    @property
    def status(self) -> str:
        """The recipe's status."""
        return self.recipe.status if hasattr(self, "recipe") else "starting"

    @status.setter
    def status(self, value: str) -> None:
        pass

    @property
    def progress(self) -> float | None:
        """The recipe's progress."""
        return self.recipe.progress if hasattr(self, "recipe") else None

    @progress.setter
    def progress(self, value: float | None) -> None:
        pass

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
        """Take back what `state_dict` returned."""
        self.recipe.load_state_dict(state)
