"""The Müller-Brown potential with one collective variable and its exact PMF."""

from cgbench_systems.muller_brown.system import (
    BARRIERS,
    BETA,
    SCALE,
    MullerBrown,
    exact_probability,
    potential,
    potential_grid,
)

__all__ = ["BARRIERS", "BETA", "SCALE", "MullerBrown", "exact_probability", "potential", "potential_grid"]
