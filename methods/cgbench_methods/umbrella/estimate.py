"""The PMF from the frames of all windows: MBAR, a reweighted histogram, and a smooth fit to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench_methods.lib.estimators.fourier_fit import FourierFit, fit, fit_likeliest
from cgbench_methods.lib.estimators.mbar import Frames, Windows, disconnected, statistical_inefficiency
from cgbench_methods.lib.sampling.restraints import HarmonicRestraints

__all__ = ["Combined", "combine", "free_energies_of_cells", "warnings_of"]

Array = NDArray[np.float64]
ORDERS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16)
DEEPEST = 60.0  # kT
CONVERGED = 0.01  # relative error of MBAR's equations above which a warning is given
BEYOND = 1.0  # kT; at the default width, the restraint energy at about one spacing from the centre


@dataclass(frozen=True)
class Combined:
    """A PMF and the intermediate results behind it.

    Attributes
    ----------
    pmf
        The estimate.
    windows
        The windows with their free energies.
    histogram
        The reweighted histogram, of shape ``cvs.bins``; not normalised.
    facts
        Numbers for the record.
    """

    pmf: PMF
    windows: Windows
    histogram: Array
    facts: dict[str, Any] = field(default_factory=dict)


def combine(
    cvs: CollectiveVariables,
    restraints: HarmonicRestraints,
    stretches: Sequence[Frames],
    start: Array,
    *,
    cutoff: float,
    mbar_frames: int,
    min_overlap: float,
    stretches_for_errors: int = 0,
) -> Combined:
    """Estimate the PMF.

    The order of the fit is chosen by the likelihood of each half of the replicates under the other. Visits are divided
    by their statistical inefficiency. Where there are no windows, the PMF is assumed to be above the cutoff: bins there
    count as sampled, without a visit, for as long as a bin with a PMF at the cutoff takes to be visited once.

    Parameters
    ----------
    cvs
        Collective variables and their grid.
    restraints
        Restraints of the windows, with centres ``[windows, cvs]``.
    stretches
        Frames of all windows.
    start
        Initial guess of the free energies of the windows, in kT.
    cutoff
        PMF in kT below which windows are opened.
    mbar_frames
        Largest number of frames that MBAR is solved with.
    min_overlap
        Windows without a chain of overlaps of at least this to the others are reported.
    stretches_for_errors
        Parts that the last stretch of every replicate is divided into for standard errors; 0 for none.

    Raises
    ------
    ValueError
        If no frame is usable or within the domain, or MBAR finds no finite free energies.
    """
    inefficiency = statistical_inefficiency(cvs, stretches[-1], restraints.centres)
    windows = Windows(restraints, stretches, start, frames=mbar_frames, inefficiency=inefficiency)
    halves = [windows.histogram(cvs, [_half(one, parity) for one in stretches]) for parity in (0, 1)]
    together = halves[0] + halves[1]
    if together.sum() <= 0:
        raise ValueError("no frame of any window is within the domain of the collective variables")
    least = np.where(_unexplored(cvs, restraints, together), np.exp(cutoff) / together.max(), 0.0)
    exposure = np.maximum(windows.exposure(cvs) / inefficiency, least)
    fitted, scores = fit_likeliest(cvs, (halves[0], halves[1]), exposure, ORDERS)
    std = None
    if stretches_for_errors:
        std = _standard_error(
            cvs, windows, stretches[-1], fitted, least, mbar_frames, inefficiency, stretches_for_errors
        )
    overlap = windows.overlap()
    frames = sum(int(one.usable.sum()) for one in stretches)
    facts: dict[str, Any] = {
        "frames": frames,
        "statistical_inefficiency": inefficiency,
        "effective_frames": frames / inefficiency,
        "order_of_fit": fitted.order,
        "held_out_scores": {str(order): score for order, score in scores.items()},
        # the solution of MBAR's equations makes the rows of the overlap matrix sum to one
        "mbar_residual": float(np.abs(overlap.sum(1) - 1.0).max()),
        "empty_windows": windows.empty,
        "smallest_overlap": float((1.0 - overlap.diagonal()).min()) if len(overlap) > 1 else 1.0,
        "isolated": [restraints.centres[number].tolist() for number in disconnected(overlap, min_overlap)],
    }
    return Combined(PMF(cvs, np.exp(_log_probability(fitted)), std), windows, together, facts)


def free_energies_of_cells(combined: Combined, centres: torch.Tensor, half_widths: torch.Tensor) -> Array:
    """Free energies of the windows' cells in kT, relative to the lowest; unvisited cells count as visited once.

    Parameters
    ----------
    combined
        The windows and the histogram.
    centres
        Centres of the cells ``[windows, cvs]``, float64.
    half_widths
        Half the width of a cell along each CV ``[cvs]``.
    """
    cvs = combined.pmf.cvs
    grid, weights = torch.from_numpy(cvs.grid()), torch.from_numpy(combined.histogram).flatten()
    inside = [(cvs.difference(grid, centre).abs() <= half_widths).all(1) for centre in centres]
    populations = torch.stack([weights[cell].sum() for cell in inside])
    once = torch.exp(-combined.windows.log_exposure(centres))
    populations = torch.where(populations > 0, populations, once)
    return np.asarray((populations.max() / populations).log().numpy())


def warnings_of(facts: Mapping[str, Any]) -> list[str]:
    """Return warnings about an estimate, from its ``facts``."""
    warnings = []
    if facts["mbar_residual"] > CONVERGED:
        warnings.append(f"MBAR did not converge: populations are off by up to {facts['mbar_residual']:.0%}")
    if facts["empty_windows"]:
        warnings.append(f"{facts['empty_windows']} windows have no usable frame")
    if facts["isolated"]:
        warnings.append(f"{len(facts['isolated'])} windows do not overlap with the others")
    return warnings


def _unexplored(cvs: CollectiveVariables, restraints: HarmonicRestraints, histogram: Array) -> NDArray[np.bool_]:
    """Return which bins were never visited and are more than about one spacing away from all windows."""
    grid = torch.from_numpy(cvs.grid())
    nearest = torch.cat(
        [restraints.between(part[:, None], restraints.centres[None]).amin(1) for part in torch.split(grid, 1000)]
    )
    return np.asarray((nearest.numpy().reshape(cvs.bins) > BEYOND) & (histogram == 0))


def _log_probability(fitted: FourierFit) -> Array:
    """Return ``ln p`` of all bins, cut at 60 below its maximum: nothing is known about lower values."""
    with np.errstate(divide="ignore"):
        values = np.log(fitted.probability())
    return np.asarray(np.maximum(values, values.max() - DEEPEST))


def _half(stretch: Frames, parity: int) -> Frames:
    """Return the even or odd replicates, or the even or odd quarters of the frames of a single replicate."""
    if int(stretch.replicate.max()) > 0:
        return stretch.part(slice(None), stretch.replicate % 2 == parity)
    quarter = torch.arange(len(stretch.s)) * 4 // max(1, len(stretch.s))
    return Frames(stretch.s[quarter % 2 == parity], stretch.window, stretch.replicate)


def _standard_error(
    cvs: CollectiveVariables,
    windows: Windows,
    stretch: Frames,
    fitted: FourierFit,
    least: Array,
    mbar_frames: int,
    inefficiency: float,
    parts: int,
) -> Array | None:
    """Return the standard error of the free energies from parts of the run, each with its own MBAR."""
    energies = []
    length = len(stretch.s) // parts
    if length < 2:
        return None
    for replicate in range(int(stretch.replicate.max()) + 1):
        for number in range(parts):
            part = stretch.part(slice(number * length, (number + 1) * length), stretch.replicate == replicate)
            if not bool(part.usable.any()):
                continue
            own = Windows(
                windows.restraints, [part], windows.free_energy, frames=mbar_frames, inefficiency=inefficiency
            )
            visits = own.histogram(cvs, [part])
            if visits.sum() <= 0:
                continue
            exposure = np.maximum(own.exposure(cvs) / inefficiency, least)
            p = fit(cvs, visits, exposure, fitted.order, fitted)
            energies.append(-_log_probability(p))
    if len(energies) < 3:
        return None
    # the constant of each free energy is fixed by its mean over the population
    weight = fitted.probability()
    aligned = [energy - (weight * energy).sum() for energy in energies]
    return np.asarray(np.std(aligned, axis=0, ddof=1) / np.sqrt(len(energies)))
