"""Fig. S6: where evaluations and time go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Patch

from cgbench.results.runs import FoundRun
from cgbench_paper.figures.fig4_convergence import TITLES
from cgbench_paper.records import MissingData, Records, commands
from cgbench_paper.style import OKABE_ITO, Drawing, new_figure

__all__ = ["draw", "shares"]

COLOURS = [OKABE_ITO[name] for name in ("blue", "orange", "green", "sky", "vermilion", "purple", "yellow")] + [
    "#7f7f7f"
]
HATCHES = ["", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "oooo"]
CAPTION = """\
**Cost by phase.** Shares of the energy evaluations (left) and of the CPU seconds (right) in each phase of a
method, medians over seeds, with the total at the end of a bar. Seconds are those of the machine that each
record names, and comparable only within one. Fits, walks over the CVs and the like evaluate no energy, and have
seconds alone; "unassigned" is what is left."""


def shares(runs: Sequence[FoundRun], what: str) -> tuple[dict[str, float], float]:
    """Share of each phase, and the total: medians over seeds; `what` is "evaluations" or "cpu"."""
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
    systems = records.systems
    if not systems:
        raise MissingData("there are no runs; `cgbench run --method cgflow_al --system aldp` makes one")
    groups = {system: sorted(records.groups(system).items(), reverse=True) for system in systems}
    bars = [len(found) for found in groups.values()]
    figure = new_figure(0.24 * sum(bars) + 0.55 * len(systems) + 0.7)
    panels = figure.subplots(len(systems), 2, squeeze=False, sharey="row", height_ratios=[n + 1 for n in bars])
    phases = sorted({name for run in records.runs for name in (*run.record.evaluations.by_phase, *run.record.seconds)})
    for row, system in zip(panels, systems, strict=True):
        for axes, what in zip(row, ("evaluations", "cpu"), strict=True):
            _bars(axes, groups[system], what, phases)
            axes.set_title(TITLES.get(system, system))
        row[0].set_yticks(range(len(groups[system])), [f"{method}, {preset}" for (method, preset), _ in groups[system]])
    panels[-1, 0].set_xlabel("share of energy evaluations")
    panels[-1, 1].set_xlabel("share of CPU seconds")
    handles = [Patch(label=name.replace("_", " "), **_look(number)) for number, name in enumerate(phases)]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    return Drawing(figure, f"{CAPTION}\n\n{commands(records.runs)}")


def _look(number: int) -> dict[str, Any]:
    colour, hatch = COLOURS[number % len(COLOURS)], HATCHES[(number + number // len(COLOURS)) % len(HATCHES)]
    return {"facecolor": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.3}


def _bars(axes: Any, groups: Sequence[Any], what: str, phases: Sequence[str]) -> None:
    for height, (_, runs) in enumerate(groups):
        found, total = shares(runs, what)
        start = 0.0
        for number, name in enumerate(phases):
            if name in found:
                axes.barh(height, found[name], left=start, height=0.7, gid=name, **_look(number))
                start += found[name]
        text = f"{total:.3g}" if what == "evaluations" else f"{total:,.0f} s"
        axes.text(1.02, height, text, va="center", fontsize=6.5)
    axes.set_xlim(0, 1.25)
    axes.set_xticks([0, 0.5, 1])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
