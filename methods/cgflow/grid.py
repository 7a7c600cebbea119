"""Grid conditioning: the collective variables are covered by a regular grid from the start."""

from __future__ import annotations

from cgbench.errors import UserError
from cgbench.method import Problem
from cgbench.streams import Streams
from methods.cgflow.harmonic_config import HarmonicConfig
from methods.cgflow.recipe import CGFlowConfig, RecipeMethod

__all__ = ["GridConditioning"]


class GridConditioning(RecipeMethod):
    """Conditional flow with a regular grid of collective variables, no exploration."""

    name = "cgflow_grid"

    def __init__(self, problem: Problem, config: CGFlowConfig, streams: Streams) -> None:
        recipe = config.recipe
        grid = recipe.atlas.grid if isinstance(recipe, HarmonicConfig) else recipe.grid
        if grid is None:
            key = "recipe.atlas.grid" if isinstance(recipe, HarmonicConfig) else "recipe.grid"
            raise UserError(f"cgflow_grid needs {key}: the number of grid points per collective variable")
        super().__init__(problem, config, streams)
