"""Fig. S4: calibration of the claimed standard deviation of the PMF."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn
from numpy.typing import NDArray
from scipy.stats import norm

from cgbench.drawing.style import line_of_preset, method_looks, new_figure
from cgbench.results.runs import FoundRun
from cgbench.scoring.referee import COVERED_BELOW, errors_and_claims
from cgbench_paper.records import MissingData, Records, arrays_of, commands
from cgbench_paper.style import SYSTEMS, Drawing, legend_of_methods

__all__ = ["binned", "coverage", "draw", "pooled"]

Array = NDArray[np.float64]
GROUPS = 12  # of equally many bins, by claim
SYSTEMS_IN_A_ROW = 2
HEIGHT = 1.9  # of a row, in inches
CAPTION = """\
**Calibration of the claimed standard deviation.** All bins where the reference is below {highest:.0f} kT, of all seeds
and of all maps of a system together{several}. The additive constant of each PMF makes its mean error over the reference
density zero. Left: root mean square error against the claimed standard deviation (with the standard error of the
reference added in quadrature), in groups of equally many bins; claims are right on the dotted line and too small above
it. Right: fraction of bins whose error is within the central interval of a normal distribution of the claimed width,
against the probability of that interval; claims are too small below the dotted line. Methods that claim no error are
not shown. Errors of neighbouring bins are correlated, as are those of maps of one run."""


def pooled(records: Records, members: Sequence[FoundRun]) -> tuple[Array, Array]:
    """Return the errors and their claimed standard deviations in kT, over the bins of all maps of the runs."""
    maps = [
        errors_and_claims(true, pmf)[1:]
        for run in members
        for true, pmf in records.maps(run)
        if pmf.free_energy_std is not None
    ]
    error, claim = (np.concatenate(column) for column in zip(*maps, strict=True))
    return error, claim


def binned(error: Array, claim: Array) -> tuple[Array, Array]:
    """Return the root mean square claim and error of groups of equal size, by claim."""
    order = np.argsort(claim, kind="stable")
    parts = np.array_split(order, min(GROUPS, len(order)))
    return (
        np.array([np.sqrt(np.mean(claim[part] ** 2)) for part in parts]),
        np.array([np.sqrt(np.mean(error[part] ** 2)) for part in parts]),
    )


def coverage(error: Array, claim: Array, nominal: Array) -> Array:
    """Return the fraction of errors within the central interval of each nominal probability."""
    z = np.abs(error) / claim
    return np.array([np.mean(z < norm.ppf(0.5 + 0.5 * p)) for p in nominal])


def draw(records: Records) -> Drawing:
    """Draw two panels for each system, two systems in a row."""
    claiming: dict[str, dict[tuple[str, str], list[FoundRun]]] = {}
    for system in records.systems:
        for key, members in records.groups(system).items():
            kept = [run for run in members if "free_energy_std" in arrays_of(run)]
            if kept:
                claiming.setdefault(system, {})[key] = kept
    if not claiming:
        raise MissingData("no run claims an error of its PMF; `cgbench run --method cgflow_al --system aldp` makes one")
    rows = math.ceil(len(claiming) / SYSTEMS_IN_A_ROW)
    figure = new_figure(HEIGHT * rows + 0.5)
    pairs = figure.subplots(rows, 2 * SYSTEMS_IN_A_ROW, squeeze=False).reshape(-1, 2)
    for axes in pairs[len(claiming) :].ravel():
        axes.remove()
    looks = method_looks(records.methods)
    for row, (system, groups) in zip(pairs[: len(claiming)], claiming.items(), strict=True):
        for axis in ("x", "y"):
            getattr(row[0], f"set_{axis}scale")("log")
        for (method, preset), members in groups.items():
            style = {"color": looks[method].colour, "marker": looks[method].marker, "linestyle": line_of_preset(preset)}
            _draw_group(row, *pooled(records, members), style | {"gid": f"{method}/{preset}"})
        _finish(row, SYSTEMS.get(system, system))
    legend_of_methods(figure, records.methods, [key for groups in claiming.values() for key in groups])
    used = [run for groups in claiming.values() for members in groups.values() for run in members]
    counts = {SYSTEMS.get(system, system): len(records.reference(system).maps) for system in claiming}
    several = ", ".join(f"{count} of {name}" for name, count in counts.items() if count > 1)
    several = f" ({several}; one of each other system)" if several else ""
    return Drawing(figure, f"{CAPTION.format(highest=COVERED_BELOW, several=several)}\n\n{commands(used)}")


def _draw_group(row: Sequence[Any], error: Array, claim: Array, style: dict[str, Any]) -> None:
    style = style | {"estimator": None, "sort": False, "markersize": 4, "markeredgewidth": 0.4}
    claims, errors = binned(error, claim)
    seaborn.lineplot(x=claims, y=errors, ax=row[0], **style)
    nominal = np.linspace(0.02, 0.98, 49)
    seaborn.lineplot(x=nominal, y=coverage(error, claim, nominal), ax=row[1], markevery=8, **style)


def _finish(row: Sequence[Any], title: str) -> None:
    left, right = row
    ends = np.log10([*left.get_xlim(), *left.get_ylim()])
    reach = [10.0 ** np.floor(ends.min()), 10.0 ** np.ceil(ends.max())]
    for axes, low, high in ((left, *reach), (right, 0.0, 1.0)):
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.plot([low, high], [low, high], ":", color="0.4", linewidth=0.8, zorder=0)
        axes.set_title(title)
    left.set(xlabel="claimed deviation (kT)", ylabel="RMS error (kT)")
    right.set(xlabel="probability", ylabel="fraction of bins within")
