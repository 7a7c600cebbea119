"""Load a PMF from a file of any known format: read, understand, and integrate over bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench.exchange.axes import Oriented, orient
from cgbench.exchange.binning import to_bins
from cgbench.exchange.formats.detect import SAMPLE_FORMATS, detect, read_landscape
from cgbench.exchange.formats.options import refuse_physical_unit, refuse_unused
from cgbench.exchange.landscape import Axis, Hints, Landscape, Options, energy_scale

__all__ = ["LoadedPMF", "bring_onto_grid", "load", "load_pmf", "regrid"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LoadedPMF:
    """A PMF on the grid that was asked for, and how its file was understood.

    Attributes
    ----------
    pmf
        The PMF.
    linear
        The same with linear interpolation, which bounds the interpolation error; None if nothing was interpolated.
    format, unit
        Format of the file in words, and unit of its free energies ("" for probabilities).
    temperature
        Temperature of the PMF in kelvin, as stated or assumed; None if it is not stated and energies are in kT.
    axes
        Where the points are, in words.
    unvisited
        Number of points without a value.
    empty_bins
        Number of bins whose probability is zero.
    assumed, notes, warnings
        What was assumed, what was done, and what is doubtful, in words.
    """

    pmf: PMF
    linear: PMF | None
    format: str
    unit: str
    temperature: float | None
    axes: str
    unvisited: int
    empty_bins: int
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def load_pmf(
    paths: Sequence[Path],
    cvs: CollectiveVariables | None,
    options: Options | None = None,
    system: System | None = None,
) -> LoadedPMF:
    """Load a PMF and bring it onto a grid.

    Parameters
    ----------
    paths
        One file; several only for the biases of several walkers of OpenMM.
    cvs
        CVs and grid of the PMF; by default the file's own grid, whose CVs are named and periodic as the file says.
    options
        What the user says about the file.
    system
        The system that it is a PMF of. If this is a molecule, its temperature is assumed, and said, where neither the
        user nor the program's default gives one.

    Raises
    ------
    UserError
        If a file is damaged or cannot be understood, or a unit or temperature is missing.
    """
    options = options or Options()
    found = options.format or detect(paths[0], () if cvs is None else (len(cvs),))
    if found in SAMPLE_FORMATS:
        raise UserError(
            f"{paths[0]} holds samples, not a PMF: score it with cgbench score or cgbench.score, or give its format if "
            "it is a PMF"
        )
    refuse_unused(paths[0], found, options, system)
    landscape = read_landscape(paths, found, options, cvs)
    return bring_onto_grid(landscape, cvs or _own_grid(landscape, str(paths[0])), options, str(paths[0]), system)


def bring_onto_grid(
    landscape: Landscape, cvs: CollectiveVariables, hints: Hints, where: str, system: System | None = None
) -> LoadedPMF:
    """Bring a landscape onto a grid. Parameters are those of `load_pmf`; `where` is the file, for messages.

    Raises
    ------
    UserError
        If it cannot be understood, or has densities or free energies that are impossible.
    """
    _check_values(landscape, where)
    scale, unit, kelvin, assumed = _scale(landscape, hints, where, system)
    oriented = orient(landscape, cvs, hints, where)
    try:
        binned = to_bins(oriented, scale * _free_energy(landscape, oriented), cvs)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    std = None
    if binned.error is not None:
        std = np.asarray(binned.error * energy_scale(landscape.error_unit or unit or "kT", kelvin))
    if std is not None and not (np.isfinite(std).all() and (std >= 0).all()):
        std = None
    pmf = PMF(cvs, binned.probability, std)
    return LoadedPMF(
        pmf=pmf,
        linear=None if binned.linear is None else PMF(cvs, binned.linear),
        format=landscape.format,
        unit=unit,
        temperature=kelvin,
        axes=binned.where,
        unvisited=int((~oriented.visited).sum()),
        empty_bins=int((pmf.probability == 0).sum()),
        assumed=(*oriented.assumed, *assumed),
        notes=oriented.notes,
        warnings=oriented.warnings,
    )


def _check_values(landscape: Landscape, where: str) -> None:
    """Refuse what is neither a value nor an unvisited point.

    Nan is not how a program says that nothing was there: ``-log(0)`` is infinite, as sum_hills, CONVERT_TO_FES and WHAM
    write it. It comes from weights that overflowed or a division by zero, also in bins that were visited.
    """
    values = landscape.values
    if landscape.quantity == "density":
        wrong = ~(np.isfinite(values) & (values >= 0))
        words = "densities are negative or not finite: an unvisited point has 0"
    else:
        wrong = np.isnan(values) | np.isneginf(values)
        words = "free energies are nan or -inf: an unvisited point has inf"
    if wrong.any():
        raise UserError(f"{where}: {int(wrong.sum()):,} of {values.size:,} {words}")


def _free_energy(landscape: Landscape, oriented: Oriented) -> Array:
    if landscape.quantity == "free energy":
        return oriented.values
    return np.asarray(-np.log(np.where(oriented.visited, oriented.values, 1.0)))


def _scale(
    landscape: Landscape, hints: Hints, where: str, system: System | None
) -> tuple[float, str, float | None, list[str]]:
    """Return the factor to kT, the unit ("" of a density), the temperature of the PMF, and what was assumed."""
    density = landscape.quantity == "density"
    stated = "kT" if density else landscape.unit
    if stated is not None and hints.unit not in (None, stated):
        words = "holds probabilities, whose free energies are in kT" if density else f"states {stated}"
        raise UserError(f"{where}: the file {words}, but --unit says {hints.unit}")
    unit, assumed = stated or hints.unit, []
    if unit is None:
        unit = landscape.usual_unit
        if unit is None:
            raise UserError(f"{where}: the file does not state a unit of energy: give --unit")
        assumed.append(f"unit {unit}: the default of the program (--unit gives another one)")
    for one in (unit, landscape.error_unit or unit):
        refuse_physical_unit(where, one, system)
    kelvin = hints.temperature or landscape.temperature
    if kelvin is None and {unit, landscape.error_unit or unit} != {"kT"}:
        usual = landscape.usual_temperature
        kelvin = usual or (None if system is None else system.temperature)
        if kelvin is not None:
            source = "the default of the program" if usual else "that of the system"
            assumed.append(f"temperature {kelvin:g} K: {source} (--temperature gives another one)")
    return energy_scale(unit, kelvin), "" if density else unit, kelvin, assumed


def _own_grid(landscape: Landscape, where: str) -> CollectiveVariables:
    """Return CVs whose bins are centred on the points of a landscape."""
    lower, upper, bins, periodic, angles = [], [], [], [], []
    for axis in landscape.axes:
        x, half = axis.coordinates, axis.spacing / 2
        turn = next((turn for turn in (2 * np.pi, 360.0) if _closes(axis, turn)), None)
        count = len(x) if turn is None else round(turn / axis.spacing)
        factor = np.pi / 180 if turn == 360.0 else 1.0
        lower.append(float(factor * (x[0] - half)))
        upper.append(lower[-1] + (2 * np.pi if turn else float(factor * axis.spacing * count)))
        bins.append(count)
        periodic.append(turn is not None and axis.periodic is not False)
        angles.append(turn is not None or axis.unit == "rad")
    names = tuple(axis.name or f"CV {k}" for k, axis in enumerate(landscape.axes, 1))
    if len(set(names)) < len(names):
        raise UserError(f"{where}: two axes are called {names[0]!r}")
    unit = "rad" if all(angles) else ""
    return CollectiveVariables(names, tuple(lower), tuple(upper), tuple(periodic), tuple(bins), unit)


def _closes(axis: Axis, turn: float) -> bool:
    count = round(turn / axis.spacing)
    return len(axis.coordinates) in (count, count + 1) and abs(count * axis.spacing - turn) < 0.04 * axis.spacing


def load(path: str | Path, cvs: CollectiveVariables | None = None, format: str | None = None, **said: Any) -> PMF:
    """Load a PMF of another program; see `cgbench.contracts.pmf.PMF.load`, which calls this.

    Parameters
    ----------
    path, cvs
        As for `PMF.load`.
    format, said
        Fields of `Options`; the format "auto" is found out.

    Raises
    ------
    UserError
        If the file is damaged or cannot be understood, or a unit or temperature is missing.
    """
    return load_pmf([Path(path)], cvs, Options(format=None if format == "auto" else format, **said)).pmf


def regrid(pmf: PMF, cvs: CollectiveVariables) -> LoadedPMF:
    """Bring a PMF onto another grid: its free energies are taken at its bin centres.

    Raises
    ------
    UserError
        If its CVs do not fit.
    """
    own = pmf.cvs
    axes = tuple(Axis(own.centers(k), own.names[k], own.periodic[k], own.unit) for k in range(len(own)))
    landscape = Landscape("PMF", axes, pmf.probability, "density", error=pmf.free_energy_std)
    return bring_onto_grid(landscape, cvs, Hints(), "the PMF")
