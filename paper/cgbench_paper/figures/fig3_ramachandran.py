"""Fig. 3: PMF of alanine dipeptide: reference, grid conditioning, and stages of active learning."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import LogNorm

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.drawing.pmf import CUT, colour_bar, draw_bins, draw_contours, draw_map, label_axes, shown
from cgbench.drawing.style import COLOURS, new_figure
from cgbench.results.runs import FoundRun
from cgbench_paper.figures.stages import Stage, stages_of
from cgbench_paper.records import MissingData, Records, arrays_of, commands
from cgbench_paper.style import Drawing

__all__ = ["draw"]

PRESETS = ("paper", "default")  # the publication's first
LEVELS = (2.0, 5.0, 8.0, 11.0)  # kT
SPREAD = (0.02, 5.0)  # kT, limits of the colour scale
CAPTION = """\
**PMF of alanine dipeptide in kT, cut at {cut:.0f} kT, with contours at {levels} kT.** Top: (a) reference; (b) grid
conditioning ({grid}) and (c) active learning ({active}), both at the end of the run. Middle: the model PMF at {count}
of the same run of active learning (the first, the middle and the last at which points were added), with the
evaluations so far. Bottom: the standard deviation of the model PMF at these stages; line: the threshold at which
walkers stop ({thresholds} kT); circles: the points chosen to be explored next."""


def draw(records: Records) -> Drawing:
    """Draw up to nine maps: three final PMFs, and PMF and standard deviation at three stages."""
    active = records.first_with("aldp", "cgflow_al", "stage_free_energy", PRESETS)
    grid = _final(records, "cgflow_grid")
    cvs = records.system("aldp").cvs
    stages = stages_of(active)[:3]
    figure = new_figure(6.5)
    panels = figure.subplots(3, 3, squeeze=False)
    finals = [
        ("(a) reference\n", records.reference("aldp").pmf.free_energy),
        (_title("b", grid, f"{grid.record.evaluations.total:,} evaluations"), arrays_of(grid)["free_energy"]),
        (_title("c", active, f"{active.record.evaluations.total:,} evaluations"), arrays_of(active)["free_energy"]),
    ]
    last = max(len(stages) - 1, 0)
    for column, (title, energy) in enumerate(finals):
        image = _map(panels[0, column], cvs, energy, title)
    colour_bar(panels[0, 2], image)
    for column, stage in enumerate(stages):
        title = _title("def"[column], active, f"{stage.name}, {stage.evaluations:,} evaluations")
        image = _map(panels[1, column], cvs, stage.free_energy, title)
        spread = _spread(panels[2, column], cvs, stage)
        title = f"({'ghi'[column]}) standard deviation of ({'def'[column]})\nline: {stage.threshold:g} kT"
        panels[2, column].set_title(title, fontsize=7, loc="left")
    colour_bar(panels[1, last], image)
    colour_bar(panels[2, last], spread, "standard deviation (kT)", extend="both")
    for axes in panels[1:, len(stages) :].flat:
        axes.set_visible(False)
    for row, column in np.ndindex(3, 3):
        label_axes(panels[row, column], cvs, left=column == 0, bottom=row == 2)
    caption = CAPTION.format(
        cut=CUT,
        levels=", ".join(f"{level:g}" for level in LEVELS),
        grid=f"preset {grid.record.preset}, seed {grid.record.seed}",
        active=f"preset {active.record.preset}, seed {active.record.seed}",
        count="one stage" if len(stages) == 1 else f"{len(stages)} stages",
        thresholds=", ".join(f"{stage.threshold:g}" for stage in stages),
    )
    return Drawing(figure, f"{caption}\n\n{commands([active, grid])}")


def _title(letter: str, run: FoundRun, what: str) -> str:
    return f"({letter}) {run.record.method}, preset {run.record.preset}\n{what}"


def _final(records: Records, method: str) -> FoundRun:
    groups = records.groups("aldp", [method])
    for preset in (*PRESETS, *sorted(preset for _, preset in groups)):
        if (method, preset) in groups:
            return groups[method, preset][0]
    raise MissingData(f"no run of {method} on aldp: `cgbench run --system aldp --method {method}` makes one")


def _map(axes: Any, cvs: CollectiveVariables, energy: Any, title: str) -> Any:
    axes.set_title(title, fontsize=7, loc="left")
    return draw_map(axes, cvs, energy, LEVELS, size=5.5)


def _spread(axes: Any, cvs: CollectiveVariables, stage: Stage) -> Any:
    image = draw_bins(axes, cvs, stage.std, cmap="cividis", norm=LogNorm(*SPREAD))
    draw_contours(axes, cvs, stage.std, [stage.threshold], labels=False)
    axes.plot(
        *shown(cvs, stage.points).T,
        "o",
        color=COLOURS["vermilion"],
        markersize=3.5,
        markeredgecolor="white",
        markeredgewidth=0.5,
        gid="new",
    )
    return image
