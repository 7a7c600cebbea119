"""Newton's method with a backtracking line search, for convex objectives.

With gradient g and Hessian H of f at x, each iteration makes the step

    x <- x - a H^-1 g,

where a is halved until ``f(x - a H^-1 g) <= f(x) - c a (g . H^-1 g)`` (Armijo's condition). The product
``g . H^-1 g`` is the Newton decrement: twice what the quadratic model expects to gain from a full step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["minimise"]

Vector = TypeVar("Vector", NDArray[np.float64], torch.Tensor)


def minimise(
    objective: Callable[[Vector], tuple[float, Any]],
    newton_step: Callable[[Vector, Any], tuple[Vector, float]],
    start: Vector,
    *,
    iterations: int,
    shortest: float,
    armijo: float = 0.0,
    growth: float = math.inf,
    least_gain: float = 0.0,
    least_decrement: float = 0.0,
) -> tuple[Vector, Any]:
    """Minimise a convex function of an array.

    Parameters
    ----------
    objective
        Returns the value at a point, and intermediate results that `newton_step` needs there.
    newton_step
        Returns ``H^-1 g``, in the shape of the point, and the Newton decrement.
    start
        Where to start.
    iterations
        Largest number of steps.
    shortest
        Steps are not shortened beyond this part of a full one. If even that is too long, nothing is left to gain
        within rounding, and the search ends.
    armijo
        The constant c of Armijo's condition.
    growth
        An iteration first tries this multiple of the length of the step before, at most the full step.
    least_gain, least_decrement
        The search ends with the first step that gained less, or had a smaller decrement.

    Returns
    -------
    point, intermediate
        The minimum, and what `objective` returned there besides the value.
    """
    point, length = start, 1.0
    value, intermediate = objective(point)
    for _ in range(iterations):
        step, decrement = newton_step(point, intermediate)
        length = min(1.0, growth * length)
        while True:
            trial = point - length * step
            trial_value, trial_intermediate = objective(trial)
            if trial_value <= value - armijo * length * decrement:
                break
            length *= 0.5
            if length < shortest:
                return point, intermediate
        gain = value - trial_value
        point, value, intermediate = trial, trial_value, trial_intermediate
        if gain < least_gain or decrement < least_decrement:
            break
    return point, intermediate
