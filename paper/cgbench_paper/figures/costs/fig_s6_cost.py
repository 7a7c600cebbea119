"""Fig. S6: energy evaluations and CPU time by phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.patches import Patch

from cgbench.drawing.style import COLOURS, new_figure
from cgbench.results.numbers import rounded
from cgbench.results.runs import FoundRun
from cgbench_paper.records import MissingData, Records, commands
from cgbench_paper.style import SYSTEMS, Drawing

__all__ = ["draw", "shares"]

KINDS = ("evaluations", "cpu")
FILLS = [
    COLOURS[name]
    for name in ("blue", "orange", "green", "sky", "vermilion", "purple", "brown", "yellow", "pink", "grey")
]
HATCHES = ["", "//////", "......", "xxxxxx"]
CAPTION = """\
**Cost by phase.** Fraction of the energy evaluations (left) and of the CPU seconds (right) in each phase of a method,
medians over seeds; the total is at the end of each bar. Seconds are comparable only between runs on one machine, which
each record names. Fits, walks over the collective variables and similar phases evaluate no energy; "unassigned" is the
time outside all phases."""


def shares(runs: Sequence[FoundRun], what: str) -> tuple[dict[str, float], float]:
    """Return the share of each phase, and the total: medians over seeds; `what` is "evaluations" or "cpu"."""
    spent = []
    for run in runs:
        if what == "evaluations":
            spent.append({name: float(n) for name, n in run.record.evaluations.by_phase.items()})
        else:
            spent.append({name: float(phase.get("cpu", 0.0)) for name, phase in run.record.seconds.items()})
    names = sorted({name for one in spent for name in one})
    medians = {name: float(np.median([one.get(name, 0.0) for one in spent])) for name in names}
    total = float(np.median([sum(one.values()) for one in spent]))
    scale = max(sum(medians.values()), 1e-300)
    return {name: value / scale for name, value in medians.items() if value > 0}, total


def draw(records: Records) -> Drawing:
    """Draw two panels for each system, one bar for each method and preset."""
    systems = [system for system in records.systems if records.counted(system)]
    if not systems:
        raise MissingData("no runs; `cgbench run --method cgflow_al --system aldp` makes one")
    table, totals = _table(records)
    bars = [len(records.counted(system)) for system in systems]
    figure = new_figure(0.22 * sum(bars) + 0.55 * len(systems) + 0.7)
    panels = figure.subplots(len(systems), 2, squeeze=False, sharey="row", height_ratios=[n + 1 for n in bars])
    order = table.groupby("phase")["share"].sum().sort_values(ascending=False, kind="stable")
    looks = {str(name): _look(number) for number, name in enumerate(order.index)}
    for row, system in zip(panels, systems, strict=True):
        for axes, what in zip(row, KINDS, strict=True):
            part = table[(table["system"] == system) & (table["what"] == what)].copy()
            names = [f"{method}, {preset}" for method, preset in records.counted(system)]
            part["run"] = pd.Categorical(part["run"], names)  # those without a phase, too
            _bars(axes, part, looks, totals[system, what])
            axes.set_title(SYSTEMS.get(system, system))
    panels[-1, 0].set_xlabel("fraction of energy evaluations")
    panels[-1, 1].set_xlabel("fraction of CPU seconds")
    shown = [run for system in systems for members in records.counted(system).values() for run in members]
    handles = [Patch(label=name.replace("_", " "), **look) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, handlelength=1.6, columnspacing=1.2)
    return Drawing(figure, f"{CAPTION}\n\n{commands(shown)}")


def _table(records: Records) -> tuple[pd.DataFrame, dict[tuple[str, str], list[str]]]:
    """Return the share of every phase, a row each, and the totals of the bars as text."""
    rows, totals = [], {}
    for system in records.systems:
        groups = records.counted(system)
        for what in KINDS:
            texts = []
            for (method, preset), runs in groups.items():
                found, total = shares(runs, what)
                texts.append(rounded(total) if what == "evaluations" else f"{total:,.0f} s")
                rows += [(system, what, f"{method}, {preset}", phase, share) for phase, share in found.items()]
            totals[system, what] = texts
    return pd.DataFrame(rows, columns=["system", "what", "run", "phase", "share"]), totals


def _look(number: int) -> dict[str, Any]:
    """Return the fill of one phase; the phases that cost most have no hatch."""
    hatch = HATCHES[number // len(FILLS) % len(HATCHES)]
    return {"facecolor": FILLS[number % len(FILLS)], "hatch": hatch, "edgecolor": "white", "linewidth": 0.3}


def _bars(axes: Any, table: pd.DataFrame, looks: dict[str, dict[str, Any]], totals: Sequence[str]) -> None:
    names = [name for name in looks if name in set(table["phase"])]
    seaborn.histplot(
        table,
        y="run",
        hue="phase",
        hue_order=names[::-1],  # the last is at the left, and drawn first
        weights="share",
        multiple="stack",
        discrete=True,
        shrink=0.75,
        legend=False,
        ax=axes,
    )
    for name, bars in zip(names, axes.containers, strict=True):
        for bar in bars:
            bar.set(gid=name, alpha=1.0, **looks[name])
    for height, text in enumerate(totals):
        axes.text(1.02, height, text, va="center", fontsize=6.5)
    axes.set_xlim(0, 1.25)
    axes.set_xticks([0, 0.5, 1])
    axes.set(xlabel="", ylabel="")
    seaborn.despine(ax=axes)
