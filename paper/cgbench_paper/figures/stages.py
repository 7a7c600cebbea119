"""Stages of active learning, as the runs of the conditional flow store them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgbench.results.runs import FoundRun
from cgbench_paper.records import arrays_of

__all__ = ["Stage", "stages_of"]

Array = NDArray[np.float64]
NAMES = {"atlas": "harmonic minima", "train": "training", "label": "weighted samples"}  # others as they are


@dataclass(frozen=True)
class Stage:
    """The model PMF at one stage of a run, and the points chosen from it.

    Attributes
    ----------
    name
        Phase of the method, with its number where it is known.
    evaluations
        Energy evaluations so far.
    threshold
        Standard deviation in kT at which walkers stop.
    free_energy, std
        PMF and its standard deviation in kT at the bin centres.
    points
        Points chosen to be explored next, ``[points, cvs]``.
    configurations
        Configurations drawn from the flow, ``[samples, ...]``, possibly none.
    """

    name: str
    evaluations: int
    threshold: float
    free_energy: Array
    std: Array
    points: Array
    configurations: Array


def stages_of(run: FoundRun) -> list[Stage]:
    """Return all stages in the run's ``pmf.npz``, in order."""
    arrays = arrays_of(run)
    iterations = _iterations(run)
    kinds = [str(kind) for kind in arrays["stage_name"]]
    dimensions = arrays["stage_free_energy"].ndim - 1
    nothing = np.zeros((0, dimensions))
    found = []
    for number, kind in enumerate(kinds):
        name = NAMES.get(kind, kind)
        evaluations = int(arrays["stage_evaluations"][number])
        if kind == "iteration" and evaluations in iterations:
            name += f" {iterations[evaluations]}"
        elif dimensions == 1:  # of one CV all stages are stored, of more only three
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
                evaluations=evaluations,
                threshold=float(arrays["stage_threshold"][number]),
                free_energy=arrays["stage_free_energy"][number].astype(float),
                std=arrays["stage_std"][number].astype(float),
                points=points.astype(float),
                configurations=configurations.astype(float),
            )
        )
    return found


def _iterations(run: FoundRun) -> dict[int, int]:
    """Return the number of each iteration by the evaluations at its end, from the record's diagnostics."""
    history = run.record.diagnostics.get("iterations", [])
    return {int(entry["evaluations"]): int(entry["iteration"]) for entry in history}
