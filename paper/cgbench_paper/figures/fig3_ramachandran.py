"""Fig. 3: the PMF of alanine dipeptide: reference, grid conditioning, and stages of active learning."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.patheffects import withStroke

from cgbench.results.runs import FoundRun
from cgbench_paper.figures.stages import Stage, stages_of
from cgbench_paper.records import MissingData, Records, arrays_of, commands
from cgbench_paper.style import CUT, OKABE_ITO, Drawing, draw_map, label_torus, new_figure, periodic_padding

__all__ = ["draw"]

SPREAD = (0.02, 5.0)  # kT, limits of the colour scale
CAPTION = """\
**PMF of alanine dipeptide in kT, cut at {cut:.0f} kT.** Top: reference; grid conditioning ({grid}); active
learning at its end ({active}). Middle: the model PMF at three stages of the same run of active learning, the
first, middle and last at which points were added, with the evaluations spent by then. Bottom: the model's
spread (standard deviation of its posterior or ensemble) at these stages; line: the threshold at which walkers
stop ({thresholds} kT); circles: the points chosen there to be explored next."""


def draw(records: Records) -> Drawing:
    """Draw nine maps: three final PMFs, and PMF and spread at three stages."""
    active = records.first_with("aldp", "cgflow_al", "stage_free_energy", ("default", "paper"))
    grid = _final(records, "cgflow_grid")
    cvs = records.system("aldp").cvs
    stages = stages_of(active)[:3]
    figure = new_figure(6.35)
    panels = figure.subplots(3, 3, squeeze=False)
    finals = [
        ("reference", records.reference("aldp").pmf.free_energy),
        (f"grid, {grid.record.evaluations.total:,} evaluations", arrays_of(grid)["free_energy"]),
        (f"active learning, {active.record.evaluations.total:,} evaluations", arrays_of(active)["free_energy"]),
    ]
    for column, (title, energy) in enumerate(finals):
        image = _map(panels[0, column], cvs, energy, title)
    for column, stage in enumerate(stages):
        title = f"{stage.name}, {stage.evaluations:,} evaluations"
        _map(panels[1, column], cvs, stage.free_energy, title)
        spread = _spread(panels[2, column], cvs, stage)
    for axes in panels[1:, len(stages) :].flat:
        axes.set_visible(False)
    for row, column in np.ndindex(3, 3):
        label_torus(panels[row, column], left=column == 0, bottom=row == 2)
    figure.colorbar(image, ax=panels[:2, :], label=f"PMF (kT), cut at {CUT:.0f}", extend="max", shrink=0.8, aspect=40)
    figure.colorbar(spread, ax=panels[2:, :], label="spread (kT)", extend="both", aspect=20)
    caption = CAPTION.format(
        cut=CUT,
        grid=f"preset {grid.record.preset}, seed {grid.record.seed}",
        active=f"preset {active.record.preset}, seed {active.record.seed}",
        thresholds=", ".join(f"{stage.threshold:g}" for stage in stages),
    )
    return Drawing(figure, f"{caption}\n\n{commands([active, grid])}")


def _final(records: Records, method: str) -> FoundRun:
    groups = records.groups("aldp", [method])
    for preset in ("default", *sorted(preset for _, preset in groups)):
        if (method, preset) in groups:
            return groups[method, preset][0]
    raise MissingData(f"no run of {method} on aldp: `cgbench run --system aldp --method {method}` makes one")


def _map(axes: Any, cvs: Any, energy: Any, title: str) -> Any:
    axes.set_title(title, fontsize=7)
    return draw_map(axes, cvs, np.minimum(energy - energy.min(), CUT), vmin=0.0, vmax=CUT)


def _spread(axes: Any, cvs: Any, stage: Stage) -> Any:
    axes.set_title("its spread", fontsize=7)
    image = draw_map(axes, cvs, stage.std, cmap="cividis", norm=LogNorm(*SPREAD))
    phi, psi, padded = periodic_padding(cvs, stage.std)
    if stage.std.min() < stage.threshold < stage.std.max():
        axes.contour(phi, psi, padded.T, levels=[stage.threshold], colors="white", linewidths=0.9).set(
            path_effects=[withStroke(linewidth=2.0, foreground="black")]
        )
    axes.plot(
        *np.degrees(stage.points).T,
        "o",
        color=OKABE_ITO["vermilion"],
        markersize=3.5,
        markeredgecolor="white",
        markeredgewidth=0.5,
    )
    return image
