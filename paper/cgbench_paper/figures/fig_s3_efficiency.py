"""Fig. S3: effective sample size of the conditional flow over the torus."""

from __future__ import annotations

import numpy as np

from cgbench.results.runs import FoundRun
from cgbench_paper.records import Records, arrays_of, commands
from cgbench_paper.style import CUT, Drawing, draw_map, label_torus, new_figure, periodic_padding

__all__ = ["draw", "runs_with_map"]

METHODS = ("cgflow_al", "cgflow_grid")
LEVELS = (4.0, 8.0, 12.0)  # kT
CAPTION = """\
**Effective sample size of the conditional flow over the torus**, as a fraction of the samples (Kish), of the
importance weights about the PMF, gathered with a Gaussian kernel of 14 degrees; grey: fewer than 20 samples in
a kernel. {which} The preset "default" counts the last quarter of its labels, the preset "paper" the labels of
its last iteration. Lines: reference PMF at {levels} kT."""


def runs_with_map(records: Records) -> list[FoundRun]:
    """The run of lowest seed with a map, for each preset of the conditional flow."""
    found = []
    for _, members in sorted(records.groups("aldp", METHODS).items()):
        chosen = next((run for run in members if "efficiency" in arrays_of(run)), None)
        if chosen is not None:
            found.append(chosen)
    return found


def draw(records: Records) -> Drawing:
    """Draw one map for each preset."""
    runs = runs_with_map(records)
    if not runs:
        records.first_with("aldp", METHODS[0], "efficiency", ("default",))  # raises, and says what makes one
    columns = min(3, len(runs))
    rows = -(-len(runs) // columns)
    figure = new_figure(2.6 * rows, min(6.75, 1.0 + 2.6 * columns))
    panels = figure.subplots(rows, columns, squeeze=False)
    cvs = records.system("aldp").cvs
    reference = np.minimum(records.reference("aldp").pmf.free_energy, CUT)
    phi, psi, padded = periodic_padding(cvs, reference)
    for number, run in enumerate(runs):
        axes = panels.flat[number]
        axes.set_facecolor("0.85")
        image = draw_map(axes, cvs, arrays_of(run)["efficiency"], vmin=0.0, vmax=1.0)
        axes.contour(phi, psi, padded.T, levels=LEVELS, colors="black", linewidths=[1.0, 0.7, 0.4])
        axes.set_title(f"{run.record.method}, {run.record.preset}, seed {run.record.seed}", fontsize=7)
        label_torus(axes, left=number % columns == 0, bottom=number + columns >= len(runs))
    for axes in panels.flat[len(runs) :]:
        axes.set_visible(False)
    figure.colorbar(image, ax=panels, label="effective sample size / samples", shrink=0.9)
    seeds = sorted({run.record.seed for run in runs})
    which = f"One run of each preset (seed {', '.join(map(str, seeds))})."
    caption = CAPTION.format(which=which, levels=", ".join(f"{level:g}" for level in LEVELS))
    return Drawing(figure, f"{caption}\n\n{commands(runs)}")
