"""Fig. 4: forward KLD of the PMF against energy evaluations, all methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.results.md_baseline import MDCurve
from cgbench.results.runs import FoundRun
from cgbench_paper.records import MissingData, Records, commands
from cgbench_paper.style import PRESET_LINES, Drawing, method_style, new_figure

__all__ = ["draw", "mean_curve"]

Array = NDArray[np.float64]
TITLES = {"aldp": "alanine dipeptide", "muller_brown": "Müller-Brown potential"}
CAPTION = """\
**Forward KLD of the PMF against energy evaluations.** All evaluations count, from the first step. Lines: mean
of ln KLD over seeds where every seed has an estimate, by interpolation in ln KLD against ln evaluations; bands:
one standard error over seeds; symbols: the last estimate of each seed. A single seed has no band. Plain
dynamics (`md`, its largest preset): histogram estimator, mean over independent simulations with one standard
error. Dashed grey line: noise floor of the reference, below which no difference means anything (the reference
of the Müller-Brown potential is exact). Dotted: targets 1e-2 and 1e-3."""


def mean_curve(runs: Sequence[FoundRun]) -> tuple[Array, Array, Array]:
    """Evaluations, geometric mean of the forward KLD over seeds, and standard error of its logarithm.

    At the evaluations of the first seed's estimates and at both ends of what all seeds cover; the standard error is
    not a number for one seed.
    """
    curves = []
    for run in runs:
        usable = np.isfinite(run.forward_kld) & (run.forward_kld > 0) & (run.evaluations > 0)
        n, first = np.unique(run.evaluations[usable], return_index=True)
        curves.append((np.log(n), np.log(run.forward_kld[usable][first])))
    curves = [c for c in curves if len(c[0])]
    if not curves:
        empty = np.zeros(0)
        return empty, empty, empty
    low, high = max(c[0][0] for c in curves), min(c[0][-1] for c in curves)
    if low > high:
        empty = np.zeros(0)
        return empty, empty, empty
    inner = curves[0][0]
    at = np.unique(np.concatenate([[low], inner[(inner > low) & (inner < high)], [high]]))
    values = np.stack([np.interp(at, n, kld) for n, kld in curves])
    error = values.std(0, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else np.full(len(at), math.nan)
    return np.exp(at), np.exp(values.mean(0)), error


def draw(records: Records) -> Drawing:
    """Draw one panel for each system."""
    systems = records.systems
    if not systems:
        raise MissingData("there are no runs; `cgbench run --method cgflow_al --system aldp` makes one")
    figure = new_figure(3.3)
    panels = figure.subplots(1, len(systems), squeeze=False)[0]
    methods = sorted({run.record.method for run in records.runs})
    handles: dict[str, Any] = {}
    for axes, system in zip(panels, systems, strict=True):
        handles |= _panel(axes, records, system, methods)
    order = sorted(handles, key=lambda label: (not label.startswith("md"), label))
    figure.legend(
        [handles[label] for label in order],
        order,
        loc="outside lower center",
        ncols=4,
        handlelength=3.0,
        columnspacing=1.2,
    )
    return Drawing(figure, f"{CAPTION}\n\n{commands(records.runs)}")


def _panel(axes: Any, records: Records, system: str, methods: Sequence[str]) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    curve = records.md_curves(system).get("histogram")
    if curve is not None and len(curve.evaluations):
        handles["md"] = _dynamics(axes, curve, method_style("md", methods)[0])
    for (method, preset), runs in records.groups(system).items():
        if method != "md":
            label = method if preset == "default" else f"{method}, {preset}"
            handles[label] = _group(axes, runs, preset, *method_style(method, methods))
    floor = records.reference(system).noise_floor
    if floor > 0:
        axes.axhline(floor, color="0.4", linestyle="--", linewidth=0.8)
        across = axes.get_yaxis_transform()
        axes.text(0.99, floor, "noise floor", color="0.3", fontsize=6, ha="right", va="bottom", transform=across)
    for target in (1e-2, 1e-3):
        axes.axhline(target, color="0.75", linestyle=":", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("energy evaluations")
    axes.set_ylabel("forward KLD of the PMF")
    axes.set_title(TITLES.get(system, system))
    return handles


def _dynamics(axes: Any, curve: MDCurve, colour: str) -> Any:
    table = curve.table
    n, mean = table["evaluations"].to_numpy(), table["forward_kld"].to_numpy()
    error = np.log(table["upper"].to_numpy() / mean) / 1.96
    (line,) = axes.plot(n, mean, color=colour, gid="md")
    axes.fill_between(n, mean * np.exp(-error), mean * np.exp(error), color=colour, alpha=0.2, linewidth=0)
    return line


def _group(axes: Any, runs: Sequence[FoundRun], preset: str, colour: str, marker: str) -> Any:
    n, mean, error = mean_curve(runs)
    look = {"color": colour, "marker": marker, "markersize": 3.5, "markeredgecolor": "white", "markeredgewidth": 0.3}
    name = f"{runs[0].record.method}/{preset}"
    (line,) = axes.plot(n, mean, PRESET_LINES.get(preset, ":"), markevery=0.2, gid=name, **look)
    if np.isfinite(error).all():
        axes.fill_between(n, mean * np.exp(-error), mean * np.exp(error), color=colour, alpha=0.2, linewidth=0)
    ends = [(run.evaluations[-1], run.forward_kld[-1]) for run in runs if len(run.evaluations)]
    axes.plot(*zip(*ends, strict=True), linestyle="none", **look)
    return line
