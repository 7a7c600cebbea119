"""Stages of active learning, as records of the conditional flow keep them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgbench.results.runs import FoundRun
from cgbench_paper.records import arrays_of

__all__ = ["Stage", "stages_of"]

Array = NDArray[np.float64]
NAMES = {"atlas": "harmonic atlas", "train": "training", "label": "labels", "iteration": "iteration"}


@dataclass(frozen=True)
class Stage:
    """What a method knew at one stage.

    Attributes
    ----------
    name
        What it was doing, with a number among stages of that name.
    evaluations
        Spent by then.
    threshold
        Spread in kT at which walkers stop.
    free_energy, std
        PMF and its spread in kT at the bin centres.
    points
        Points chosen to be explored next, ``[points, cvs]``.
    configurations
        What the flow maps back, ``[samples, ...]``; there may be none.
    """

    name: str
    evaluations: int
    threshold: float
    free_energy: Array
    std: Array
    points: Array
    configurations: Array


def stages_of(run: FoundRun) -> list[Stage]:
    """Return all stages that the run's ``pmf.npz`` keeps, in order."""
    arrays = arrays_of(run)
    kinds = [str(kind) for kind in arrays["stage_name"]]
    dimensions = arrays["stage_free_energy"].ndim - 1
    nothing = np.zeros((0, dimensions))
    found = []
    for number, kind in enumerate(kinds):
        name = NAMES.get(kind, kind)
        if dimensions == 1:  # all stages are kept, so that they can be numbered
            name += f" {kinds[: number + 1].count(kind)}"
        points, configurations = (
            arrays[f"stage_{plural}"][arrays[f"stage_of_{singular}"] == number]
            if f"stage_{plural}" in arrays
            else nothing
            for singular, plural in (("point", "points"), ("configuration", "configurations"))
        )
        found.append(
            Stage(
                name=name,
                evaluations=int(arrays["stage_evaluations"][number]),
                threshold=float(arrays["stage_threshold"][number]),
                free_energy=arrays["stage_free_energy"][number].astype(float),
                std=arrays["stage_std"][number].astype(float),
                points=points.astype(float),
                configurations=configurations.astype(float),
            )
        )
    return found
