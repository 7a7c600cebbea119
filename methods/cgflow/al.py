"""Active learning: the collective variables are explored from one minimum."""

from __future__ import annotations

from cgbench.errors import UserError
from cgbench.method import Problem
from cgbench.streams import Streams
from methods.cgflow.harmonic_config import HarmonicConfig
from methods.cgflow.recipe import CGFlowConfig, RecipeMethod

__all__ = ["ActiveLearning"]


class ActiveLearning(RecipeMethod):
    """Conditional flow with active learning of the collective variables, from a single minimum."""

    name = "cgflow_al"

    def __init__(self, problem: Problem, config: CGFlowConfig, streams: Streams) -> None:
        recipe = config.recipe
        grid = recipe.atlas.grid if isinstance(recipe, HarmonicConfig) else recipe.grid
        if grid is not None:
            key = "recipe.atlas.grid" if isinstance(recipe, HarmonicConfig) else "recipe.grid"
            raise UserError(f"cgflow_al explores by itself: {key} must be null, not {grid} (cgflow_grid has grids)")
        super().__init__(problem, config, streams)
