"""Plots of results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cgbench.drawing.style import save_figure
from cgbench.results.md_baseline import MDCurve

__all__ = ["draw_md_curve"]


def draw_md_curve(path: Path, system: str, curves: Mapping[str, MDCurve]) -> None:
    """Draw forward KLD against evaluations for each MD estimator, with its band and its power law."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (name, curve), colour in zip(curves.items(), ("#0072b2", "#d55e00"), strict=False):
        table = curve.table
        n = table["evaluations"].to_numpy()
        a, b = curve.power_law
        axes.fill_between(n, table["lower"], table["upper"], color=colour, alpha=0.25, linewidth=0)
        axes.plot(n, table["forward_kld"], color=colour, linewidth=1.6, label=f"{name}, 95 % interval of the mean")
        reach = np.array([n[-1] / 10**3, n[-1] * 10])
        axes.plot(reach, a * reach**b, color=colour, linewidth=0.9, linestyle="--", label=f"$N^{{{b:.2f}}}$")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("energy evaluations (MD steps)")
    axes.set_ylabel("forward KLD of the PMF")
    axes.set_title(f"plain MD on {system}", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)
