"""Fig. 4: forward KLD of the PMF against energy evaluations, all methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.ticker import NullFormatter

from cgbench.drawing.style import Look, line_of_preset, method_looks
from cgbench.results.baseline.curve import MDCurve
from cgbench.results.plots import mark_ends
from cgbench.results.runs import FoundRun
from cgbench.results.statistics import median_interval
from cgbench_paper.records import MissingData, Records, commands
from cgbench_paper.style import SYSTEMS, Drawing, legend_of_methods, panel_grid

__all__ = ["draw", "draw_noise_floor", "seeds_together"]

TARGETS = (1e-2, 1e-3)
WIDTH = 100.0  # ratio of the ends of the axis of evaluations, below which it is drawn in whole decades
COLUMNS = ["evaluations", "forward_kld", "seed"]
CAPTION = """\
**Forward KLD of the PMF against energy evaluations.** All evaluations are counted, from the first step on. Lines:
median over seeds, interpolated in ln KLD against ln evaluations, over the range that all seeds cover; bands: interval
of the median between two of the seeds (the range up to five seeds), where there are three or more; symbols: the last
estimate of each seed. Plain MD (`md`, of the preset with most evaluations): histogram estimator, the monotone curve
through the medians over independent simulations, with its 95 % band. It is not extended: ≤ and ≥ mark its ends.
Dashed grey line: noise floor of the reference, below which differences have no meaning (the reference of the
Müller-Brown potential is exact). Dotted: targets 1e-2 and 1e-3."""


def seeds_together(runs: Sequence[FoundRun]) -> pd.DataFrame:
    """Return the forward KLD of every seed at the same evaluations, over the range that all seeds cover.

    The evaluations are those of the first seed's estimates and the ends of the range; the forward KLD is interpolated
    in its logarithm against the logarithm of the evaluations. Estimates that are not finite and positive are skipped.
    """
    curves = []
    for run in runs:
        usable = np.isfinite(run.forward_kld) & (run.forward_kld > 0) & (run.evaluations > 0)
        n, first = np.unique(run.evaluations[usable], return_index=True)
        if len(n):
            curves.append((run.record.seed, np.log(n), np.log(run.forward_kld[usable][first])))
    low = max((n[0] for _, n, _ in curves), default=np.inf)
    high = min((n[-1] for _, n, _ in curves), default=-np.inf)
    if low > high:
        return pd.DataFrame(columns=COLUMNS, dtype=float)
    inner = curves[0][1]
    at = np.unique(np.concatenate([[low], inner[(inner > low) & (inner < high)], [high]]))
    parts = [
        pd.DataFrame({"evaluations": np.exp(at), "forward_kld": np.exp(np.interp(at, n, kld)), "seed": seed})
        for seed, n, kld in curves
    ]
    return pd.concat(parts, ignore_index=True)


def draw(records: Records) -> Drawing:
    """Draw one panel for each system."""
    systems = records.systems
    if not systems:
        raise MissingData("no runs; `cgbench run --method cgflow_al --system aldp` makes one")
    figure, panels = panel_grid(len(systems), 2.7, below=0.7)
    drawn: list[tuple[str, str]] = []
    for axes, system in zip(panels, systems, strict=True):
        drawn += _panel(axes, records, system)
    legend_of_methods(figure, records.methods, drawn)
    return Drawing(figure, f"{CAPTION}\n\n{commands(records.runs)}")


def _panel(axes: Any, records: Records, system: str) -> list[tuple[str, str]]:
    """Draw the curves of one system and return their methods and presets."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    looks = method_looks(records.methods)
    drawn = []
    curve = records.md_curves(system).get("histogram")
    if curve is not None and len(curve.evaluations):
        drawn.append(("md", ""))
        _draw_md(axes, curve, looks["md"])
    for (method, preset), runs in records.groups(system).items():
        if method != "md":
            drawn.append((method, preset))
            _draw_group(axes, runs, f"{method}/{preset}", line_of_preset(preset), looks[method])
    draw_noise_floor(axes, records, system)
    for target in TARGETS:
        axes.axhline(target, color="0.75", linestyle=":", linewidth=0.8, zorder=0)
    low, high = axes.get_xlim()
    if high < WIDTH * low:  # hardly a number would be on the axis
        axes.set_xlim(10.0 ** np.floor(np.log10(low)), 10.0 ** np.ceil(np.log10(high)))
    axes.xaxis.set_minor_formatter(NullFormatter())  # numbers between the decades would overlap
    axes.set(xlabel="energy evaluations", ylabel="forward KLD of the PMF", title=SYSTEMS.get(system, system))
    return drawn


def draw_noise_floor(axes: Any, records: Records, system: str) -> None:
    """Draw the noise floor of the reference as a horizontal line; nothing for an exact reference."""
    floor = records.reference(system).noise_floor
    if floor > 0:
        axes.set_ylim(bottom=min(axes.get_ylim()[0], 0.5 * floor))
        axes.axhline(floor, color="0.4", linestyle="--", linewidth=0.8, gid="noise floor")
        across = axes.get_yaxis_transform()
        axes.text(0.99, floor, "noise floor", color="0.3", fontsize=6, ha="right", va="bottom", transform=across)


def _draw_md(axes: Any, curve: MDCurve, look: Look) -> None:
    table = curve.table
    n, kld = table["evaluations"].to_numpy(), table["forward_kld"].to_numpy()
    seaborn.lineplot(x=n, y=kld, errorbar=None, ax=axes, color=look.colour, gid="md")
    axes.fill_between(n, table["lower"], table["upper"], color=look.colour, alpha=0.2, linewidth=0)
    mark_ends(axes, curve)
    _draw_ends(axes, n[-1:], kld[-1:], look)


def _draw_group(axes: Any, runs: Sequence[FoundRun], name: str, line: str, look: Look) -> None:
    curves = seeds_together(runs).pivot(index="evaluations", columns="seed", values="forward_kld")
    n, klds = curves.index.to_numpy(), curves.to_numpy()
    if len(n):
        seaborn.lineplot(
            x=n, y=np.median(klds, axis=1), errorbar=None, ax=axes, color=look.colour, linestyle=line, gid=name
        )
        low, high = np.array([median_interval(values)[:2] for values in klds]).T
        if len(n) > 1 and not np.isnan(low).any():
            axes.fill_between(n, low, high, color=look.colour, alpha=0.2, linewidth=0, gid=name)
    ended = [run for run in runs if len(run.evaluations)]
    _draw_ends(axes, [run.evaluations[-1] for run in ended], [run.forward_kld[-1] for run in ended], look, name)


def _draw_ends(axes: Any, n: Any, kld: Any, look: Look, name: str = "md") -> None:
    seaborn.scatterplot(
        x=n,
        y=kld,
        color=look.colour,
        marker=look.marker,
        s=18,
        edgecolor="white",
        linewidth=0.4,
        zorder=3,
        ax=axes,
        gid=f"{name}/ends",
    )
