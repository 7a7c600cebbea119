"""Plots of results: how plain MD converges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cgbench.drawing.style import COLOURS, new_figure, save_figure, theme
from cgbench.results.baseline.curve import FIT_DECADES, MDCurve

__all__ = ["draw_curves", "draw_md_curve", "mark_ends"]

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
    """Draw each estimator's curve with its 95 % band, the medians as symbols, and the power law (dotted).

    Where the band comes from the typical spread between simulations, it is hatched. An arrow at each end says in which
    direction the curve is not known.
    """
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
            label=f"{estimator}, $N^{{{b:.2f}}}$" if np.isfinite(b) else estimator,
            gid=estimator,
        )
        every = slice(None, None, 3)
        axes.plot(
            n[every],
            curve.median[every],
            linestyle="none",
            marker=marker,
            markersize=3.5,
            markeredgewidth=0.4,
            markeredgecolor="white",
            color=colour,
            gid=f"{estimator}/medians",
        )
        _draw_band(axes, curve, colour, estimator)
        if np.isfinite(b):
            reach = np.array([n[-1] / 10**FIT_DECADES, n[-1]])
            axes.plot(reach, a * reach**b, color=colour, linewidth=0.7, linestyle=":", gid=f"{estimator}/power law")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("energy evaluations (MD steps)")
    axes.set_ylabel("forward KLD of the PMF")
    axes.legend()
    for curve in curves.values():
        mark_ends(axes, curve)


def _draw_band(axes: Any, curve: MDCurve, colour: str, name: str) -> None:
    """Draw the band; the part from the typical spread is hatched."""
    table = curve.table
    n = table["evaluations"].to_numpy()
    axes.fill_between(n, table["lower"], table["upper"], color=colour, alpha=0.2, linewidth=0, gid=f"{name}/band")
    if curve.typical.any():
        start = max(int(np.argmax(curve.typical)) - 1, 0)
        late = table.iloc[start:]
        axes.fill_between(
            late["evaluations"],
            late["lower"],
            late["upper"],
            facecolor="none",
            edgecolor=colour,
            hatch="////",
            alpha=0.35,
            linewidth=0,
            gid=f"{name}/typical spread",
        )


def mark_ends(axes: Any, curve: MDCurve) -> None:
    """Mark both ends of a curve: to its left MD needs at most, to its right at least as many evaluations."""
    if len(curve.evaluations) == 0:
        return
    for at, sign, align in ((0, "≤", "right"), (-1, "≥", "left")):
        place = (curve.evaluations[at], curve.forward_kld[at])
        offset = (-4, 0) if at == 0 else (4, 0)
        axes.annotate(sign, place, offset, textcoords="offset points", ha=align, va="center", fontsize=7, gid="end")
