"""Fig. S4: whether the claimed standard deviation of the PMF tells its error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from cgbench.contracts.reference import Reference
from cgbench.results.runs import FoundRun
from cgbench_paper.figures.fig4_convergence import TITLES
from cgbench_paper.records import MissingData, Records, arrays_of, commands
from cgbench_paper.style import PRESET_LINES, Drawing, method_style, new_figure

__all__ = ["binned", "coverage", "draw", "errors_and_claims"]

Array = NDArray[np.float64]
HIGHEST = 12.0  # kT: bins below count, as in the records' coverage
GROUPS = 12  # of bins of equal number, by claim
CAPTION = """\
**Calibration of the spread.** All bins where the reference is below {highest:.0f} kT, seeds pooled. The
constant of each PMF is fixed by the mean error under the reference being zero. Left: root mean square error
against the claimed standard deviation (with the standard error of the reference, root of the sum of squares),
in groups of equal number of bins; on the dotted line a claim is right, above it is too small. Right: share of
bins whose error is within the central interval that a normal distribution of the claimed width gives, against
the probability of that interval; below the dotted line claims are too small. Methods that claim no error are
absent. Errors of neighbouring bins are correlated."""


def errors_and_claims(run: FoundRun, reference: Reference) -> tuple[Array, Array]:
    """Errors of the PMF and their claimed standard deviations in kT, over the bins that count."""
    arrays = arrays_of(run)
    true = reference.pmf
    low = true.free_energy < HIGHEST
    error = arrays["free_energy"][low] - true.free_energy[low]
    weight = true.probability[low]
    error = error - (weight * error).sum() / weight.sum()
    variance = arrays["free_energy_std"][low] ** 2
    if reference.standard_error is not None:
        variance = variance + (reference.standard_error[low] / weight) ** 2
    return np.asarray(error), np.sqrt(variance)


def binned(error: Array, claim: Array) -> tuple[Array, Array]:
    """Root mean square claim and error of groups of equal size, by claim."""
    order = np.argsort(claim, kind="stable")
    parts = np.array_split(order, min(GROUPS, len(order)))
    return (
        np.array([np.sqrt(np.mean(claim[part] ** 2)) for part in parts]),
        np.array([np.sqrt(np.mean(error[part] ** 2)) for part in parts]),
    )


def coverage(error: Array, claim: Array, nominal: Array) -> Array:
    """Share of errors within the central interval of each nominal probability."""
    z = np.abs(error) / np.maximum(claim, 1e-300)
    return np.array([np.mean(z < norm.ppf(0.5 + 0.5 * p)) for p in nominal])


def draw(records: Records) -> Drawing:
    """Draw two panels for each system."""
    claiming: dict[str, dict[tuple[str, str], list[FoundRun]]] = {}
    for system in records.systems:
        for key, members in records.groups(system).items():
            kept = [run for run in members if "free_energy_std" in arrays_of(run)]
            if kept:
                claiming.setdefault(system, {})[key] = kept
    if not claiming:
        raise MissingData("no run claims an error of its PMF; `cgbench run --method cgflow_al --system aldp` makes one")
    figure = new_figure(2.7 * len(claiming) + 0.3)
    panels = figure.subplots(len(claiming), 2, squeeze=False)
    methods = sorted({run.record.method for run in records.runs})
    handles: dict[str, Any] = {}
    for row, (system, groups) in zip(panels, claiming.items(), strict=True):
        reference = records.reference(system)
        for (method, preset), members in groups.items():
            label = method if preset == "default" else f"{method}, {preset}"
            look = {"color": (style := method_style(method, methods))[0], "marker": style[1], "markersize": 3}
            handles[label] = _draw_group(
                row, members, reference, PRESET_LINES.get(preset, ":"), f"{method}/{preset}", look
            )
        _finish(row, TITLES.get(system, system))
    figure.legend([handles[label] for label in sorted(handles)], sorted(handles), loc="outside lower center", ncols=3)
    used = [run for groups in claiming.values() for members in groups.values() for run in members]
    return Drawing(figure, f"{CAPTION.format(highest=HIGHEST)}\n\n{commands(used)}")


def _draw_group(
    row: Sequence[Any], members: Sequence[FoundRun], reference: Reference, line: str, name: str, look: dict[str, Any]
) -> Any:
    pooled = [errors_and_claims(run, reference) for run in members]
    error, claim = (np.concatenate(column) for column in zip(*pooled, strict=True))
    (handle,) = row[0].plot(*binned(error, claim), line, gid=name, **look)
    nominal = np.linspace(0.02, 0.98, 49)
    row[1].plot(nominal, coverage(error, claim, nominal), line, gid=name, markevery=8, **look)
    return handle


def _finish(row: Sequence[Any], title: str) -> None:
    left, right = row
    left.set_xscale("log")
    left.set_yscale("log")
    ends = np.log10([*left.get_xlim(), *left.get_ylim()])
    reach = [10.0 ** np.floor(ends.min()), 10.0 ** np.ceil(ends.max())]
    left.set_xlim(*reach)
    left.set_ylim(*reach)
    left.plot(reach, reach, ":", color="0.4", linewidth=0.8, zorder=0)
    left.set_xlabel("claimed standard deviation (kT)")
    left.set_ylabel("root mean square error (kT)")
    left.set_title(title)
    right.plot([0, 1], [0, 1], ":", color="0.4", linewidth=0.8, zorder=0)
    right.set_xlim(0, 1)
    right.set_ylim(0, 1)
    right.set_xlabel("probability of the interval")
    right.set_ylabel("share of bins within")
    right.set_title(title)
