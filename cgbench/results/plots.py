"""Plots of results: how plain MD converges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cgbench.drawing.style import COLOURS, new_figure, save_figure, theme
from cgbench.results.baseline.curve import FIT_DECADES, MDCurve

__all__ = ["draw_curves", "draw_md_curve"]

# colour, line and marker of each estimator
LOOKS = {"histogram": (COLOURS["black"], "-", "o"), "smoothed": (COLOURS["orange"], "--", "^")}


@theme()
def draw_md_curve(path: Path, system: str, curves: Mapping[str, MDCurve]) -> None:
    """Draw the forward KLD of each MD estimator against evaluations, with its band and power law, to a file."""
    figure = new_figure(3.6, 5.0)
    axes = figure.add_subplot()
    draw_curves(axes, curves)
    axes.set_title(f"plain MD on {system}")
    save_figure(figure, path)


def draw_curves(axes: Any, curves: Mapping[str, MDCurve]) -> None:
    """Draw the mean over simulations with its 95 % interval, and the power law (dotted), for each estimator."""
    import seaborn

    for estimator, curve in curves.items():
        colour, line, marker = LOOKS[estimator]
        table = curve.table
        n = table["evaluations"].to_numpy()
        a, b = curve.power_law
        seaborn.lineplot(
            table,
            x="evaluations",
            y="forward_kld",
            errorbar=None,
            ax=axes,
            color=colour,
            linestyle=line,
            marker=marker,
            markersize=3.5,
            markeredgewidth=0.4,
            markevery=3,
            label=f"{estimator}, $N^{{{b:.2f}}}$" if np.isfinite(b) else estimator,
            gid=estimator,
        )
        axes.fill_between(n, table["lower"], table["upper"], color=colour, alpha=0.2, linewidth=0)
        if np.isfinite(b):
            reach = np.array([n[-1] / 10**FIT_DECADES, 3 * n[-1]])
            axes.plot(reach, a * reach**b, color=colour, linewidth=0.7, linestyle=":", gid=f"{estimator}/power law")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("energy evaluations (MD steps)")
    axes.set_ylabel("forward KLD of the PMF")
    axes.legend()
