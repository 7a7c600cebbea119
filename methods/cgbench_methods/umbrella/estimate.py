"""The PMF from the frames of all windows: MBAR, a reweighted histogram, and a smooth fit to it.

pymbar solves MBAR's equations with some of the frames and gives the overlap of the windows. Their free energies are
then solved for again with all frames, collected in cells (`cgbench_methods.umbrella.cells`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench_methods.lib.estimators.fourier_fit import FourierFit, fit, fit_likeliest
from cgbench_methods.lib.estimators.jackknife import (
    jackknife_variance,
    student_factor,
    variance_of_fit,
    warnings_of_errors,
)
from cgbench_methods.lib.estimators.mbar import Frames, Windows, disconnected, statistical_inefficiency
from cgbench_methods.lib.sampling.restraints import HarmonicRestraints
from cgbench_methods.umbrella.cells import Cells

__all__ = ["Combined", "combine", "free_energies_of_cells", "unvisited_cells", "warnings_of"]

Array = NDArray[np.float64]
# Scores of neighbouring orders differ by little more than noise, and the search ends at the first that is worse.
ORDERS = (2, 3, 4, 6, 8, 12, 16)
FEWEST = 3  # replicates whose spread alone is an estimate of the error
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

    The order of the fit is chosen by the likelihood of each half of the replicates under the other. Its penalty allows
    coefficients of the size of the cutoff: ``cutoff / k^2`` is their standard deviation, at the wave number k. Visits
    are divided by their statistical inefficiency. Where there are no windows, the PMF is assumed to be above the
    cutoff: bins there count as sampled, without a visit, for as long as a bin with a PMF at the cutoff takes to be
    visited once.

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
        Largest number of frames that pymbar solves MBAR's equations with.
    min_overlap
        Windows without a chain of overlaps of at least this to the others are reported.
    stretches_for_errors
        Parts that the last stretch of every replicate is divided into for standard errors; 0 for none. See
        `_sampling_variance`.

    Raises
    ------
    ValueError
        If no frame is usable or within the domain, or MBAR finds no finite free energies.
    """
    inefficiency = statistical_inefficiency(cvs, stretches[-1], restraints.centres)
    windows = Windows(restraints, stretches, start, frames=mbar_frames, inefficiency=inefficiency)
    cells = Cells(cvs, restraints, stretches, max(1, stretches_for_errors))
    free_energy, residual = cells.free_energies(windows.free_energy)
    windows.set_free_energy(free_energy)
    halves = [windows.histogram(cvs, [_half(one, parity) for one in stretches]) for parity in (0, 1)]
    together = halves[0] + halves[1]
    if together.sum() <= 0:
        raise ValueError("no frame of any window is within the domain of the collective variables")
    least = np.where(_unexplored(cvs, restraints, together), np.exp(cutoff) / together.max(), 0.0)
    exposure = np.maximum(windows.exposure(cvs) / inefficiency, least)
    stiffness = 1.0 / cutoff**2
    fitted, scores = fit_likeliest(cvs, (halves[0], halves[1]), exposure, ORDERS, stiffness)

    def without(blocks: NDArray[np.bool_]) -> Array:
        """Return the free energies from all blocks but these."""
        own, _ = cells.free_energies(windows.free_energy, ~blocks)
        histogram, visited = cells.histogram(own, ~blocks)
        visited = np.maximum(visited / inefficiency, least)
        return -_log_probability(fit(cvs, histogram, visited, fitted.order, fitted, stiffness))

    std = None
    sampling = _sampling_variance(cells, without, fitted.probability()) if stretches_for_errors else None
    if sampling is not None:
        blocks = [cells.histogram(free_energy, each) for each in np.eye(len(cells.used), dtype=bool)[cells.used]]
        exposures = _with_sum(np.stack([visited / inefficiency for _, visited in blocks]), exposure)
        visits = np.stack([part * visited / inefficiency for part, visited in blocks])
        rest = variance_of_fit(fitted, visits, exposures, ORDERS, stiffness)
        std = np.sqrt(sampling + student_factor(len(blocks)) ** 2 * rest.truncation + rest.penalty)
    overlap = windows.overlap()
    frames = sum(int(one.usable.sum()) for one in stretches)
    facts: dict[str, Any] = {
        "frames": frames,
        "statistical_inefficiency": inefficiency,
        "effective_frames": frames / inefficiency,
        "order_of_fit": fitted.order,
        "held_out_scores": {str(order): score for order, score in scores.items()},
        "mbar_residual": residual,
        "empty_windows": windows.empty,
        "smallest_overlap": float((1.0 - overlap.diagonal()).min()) if len(overlap) > 1 else 1.0,
        "isolated": [restraints.centres[number].tolist() for number in disconnected(overlap, min_overlap)],
    }
    pmf = PMF(cvs, np.exp(_log_probability(fitted)), std)
    if std is not None:
        facts["expected_kld"] = 0.5 * float((pmf.probability * std**2).sum())
    return Combined(pmf, windows, together, facts)


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
    weights = torch.from_numpy(combined.histogram).flatten()
    cells = _bins_of_cells(combined.pmf.cvs, centres, half_widths)
    populations = torch.stack([weights[cell].sum() for cell in cells])
    once = torch.exp(-combined.windows.log_exposure(centres))
    populations = torch.where(populations > 0, populations, once)
    return np.asarray((populations.max() / populations).log().numpy())


def unvisited_cells(combined: Combined, centres: torch.Tensor, half_widths: torch.Tensor) -> int:
    """Return in how many of the windows' cells there was no walker of any window; parameters as in the function above.

    Windows were opened there because the PMF seemed to be low, so walkers that are not there have not arrived.
    """
    visits = torch.from_numpy(combined.histogram).flatten()
    cells = _bins_of_cells(combined.pmf.cvs, centres, half_widths)
    return sum(bool(cell.any()) and float(visits[cell].sum()) == 0.0 for cell in cells)


def _bins_of_cells(cvs: CollectiveVariables, centres: torch.Tensor, half_widths: torch.Tensor) -> list[torch.Tensor]:
    """Return which bins of the grid are in each cell, boolean ``[bins]``."""
    grid = torch.from_numpy(cvs.grid())
    return [(cvs.difference(grid, centre).abs() <= half_widths).all(1) for centre in centres]


def warnings_of(facts: Mapping[str, Any]) -> list[str]:
    """Return warnings about an estimate, from its ``facts``."""
    warnings = []
    if facts["mbar_residual"] > CONVERGED:
        warnings.append(f"MBAR did not converge: populations are off by up to {facts['mbar_residual']:.0%}")
    if facts["empty_windows"]:
        warnings.append(f"{facts['empty_windows']} windows have no usable frame")
    if unvisited := facts.get("unvisited_windows", 0):  # counted by the method, which knows the windows' spacing
        warnings.append(f"no walker has reached the place of {unvisited} windows")
    if facts["isolated"]:
        warnings.append(f"{len(facts['isolated'])} windows do not overlap with the others")
    return warnings + warnings_of_errors(facts.get("expected_kld"))


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


def _with_sum(exposures: Array, total: Array) -> Array:
    """Return exposures of blocks that add up to that of the fit, which is larger in unexplored bins.

    Parameters
    ----------
    exposures
        Those of the blocks, ``[blocks, *bins]``. Each gets the same share of what is missing.
    total
        That of the fit, of shape ``bins``.
    """
    return np.asarray(exposures + (total - exposures.sum(0)) / len(exposures))


def _half(stretch: Frames, parity: int) -> Frames:
    """Return the even or odd replicates, or the even or odd quarters of the frames of a single replicate."""
    if int(stretch.replicate.max()) > 0:
        return stretch.part(slice(None), stretch.replicate % 2 == parity)
    quarter = torch.arange(len(stretch.s)) * 4 // max(1, len(stretch.s))
    return Frames(stretch.s[quarter % 2 == parity], stretch.window, stretch.replicate)


def _sampling_variance(cells: Cells, without: Callable[[NDArray[np.bool_]], Array], probability: Array) -> Array | None:
    """Return the sampling variance of the free energies: the larger of two jackknifes, over blocks and over replicates.

    Replicates are independent, but few: their jackknife is noisy, and sometimes much too small. Blocks are many, but
    those of one replicate are correlated if motion is slow. There is no jackknife over fewer than three replicates.
    Each is multiplied by the square of Student's factor for its number.

    Parameters
    ----------
    cells
        Frames in blocks.
    without
        Returns the free energies without some blocks.
    probability
        Probabilities of the estimate; the constant of each free energy is fixed by its mean over them.
    """
    used, number = cells.used, np.arange(len(cells.used))
    single = [number == block for block in number[used]]
    replicates = [
        mask for one in range(len(used) // cells.parts) if (used & (mask := number // cells.parts == one)).any()
    ]
    found = []
    for sets in (single, replicates) if cells.parts > 1 else (single,):
        if len(sets) >= FEWEST:
            variance = jackknife_variance([without(blocks) for blocks in sets], probability)
            found.append(student_factor(len(sets)) ** 2 * variance)
    return np.asarray(np.max(found, axis=0)) if found else None
