"""Fig. S2: convergence of plain dynamics."""

from __future__ import annotations

from typing import Any

import numpy as np

from cgbench.results.md_baseline import FIT_DECADES, MDCurve
from cgbench_paper.figures.fig4_convergence import TITLES
from cgbench_paper.records import MissingData, Records, commands
from cgbench_paper.style import OKABE_ITO, Drawing, new_figure

__all__ = ["draw"]

LOOKS = {"histogram": (OKABE_ITO["black"], "-", "o"), "smoothed": (OKABE_ITO["vermilion"], "--", "^")}
CAPTION = """\
**Plain dynamics: forward KLD of the PMF against evaluations.** One evaluation is one step of one walker. Lines:
mean over independent simulations (for every number of evaluations those with the fewest, longest walkers);
bands: 95 % interval of that mean; thin lines: power law N^b through the last {decades:.0f} decades, by which
the speedups of Table 1 are extrapolated where they must be. Two estimators: the histogram with half a count for
each bin, and a smoothed one. Dashed grey line: noise floor of the reference."""


def draw(records: Records) -> Drawing:
    """Draw one panel for each system that has runs of plain dynamics."""
    curves = {system: records.md_curves(system) for system in records.systems}
    curves = {system: found for system, found in curves.items() if found}
    if not curves:
        raise MissingData("there is no run of md; `cgbench run --method md --system aldp` makes one")
    figure = new_figure(2.8)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (system, found) in zip(panels, curves.items(), strict=True):
        for estimator, curve in found.items():
            _draw_curve(axes, estimator, curve)
        floor = records.reference(system).noise_floor
        if floor > 0:
            axes.axhline(floor, color="0.4", linestyle="--", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("energy evaluations")
        axes.set_ylabel("forward KLD of the PMF")
        axes.set_title(TITLES.get(system, system))
        axes.legend()
    used = [run for system in curves for members in records.groups(system, ["md"]).values() for run in members]
    return Drawing(figure, f"{CAPTION.format(decades=FIT_DECADES)}\n\n{commands(used)}")


def _draw_curve(axes: Any, estimator: str, curve: MDCurve) -> None:
    colour, line, marker = LOOKS[estimator]
    table = curve.table
    n = table["evaluations"].to_numpy()
    a, b = curve.power_law
    label = f"{estimator}, $N^{{{b:.2f}}}$" if np.isfinite(b) else estimator
    axes.plot(
        n,
        table["forward_kld"],
        line,
        color=colour,
        marker=marker,
        markersize=2.5,
        markevery=3,
        label=label,
        gid=estimator,
    )
    axes.fill_between(n, table["lower"], table["upper"], color=colour, alpha=0.2, linewidth=0)
    if np.isfinite(b):
        reach = np.array([n[-1] / 10**FIT_DECADES, 3 * n[-1]])
        axes.plot(reach, a * reach**b, color=colour, linewidth=0.6, linestyle=":")
