"""Fig. S3: effective sample size of the conditional flow over the torus."""

from __future__ import annotations

from typing import Any

import numpy as np

from cgbench.drawing.pmf import CUT, colour_bar, draw_bins, draw_contours, label_axes
from cgbench.drawing.style import new_figure
from cgbench.results.runs import FoundRun
from cgbench_paper.records import Records, arrays_of, commands
from cgbench_paper.style import Drawing

__all__ = ["draw", "runs_with_map"]

METHODS = ("cgflow_al", "cgflow_grid")
LEVELS = (4.0, 8.0, 12.0)  # kT
CAPTION = """\
**Effective sample size of the conditional flow over the torus**, as a fraction of the number of samples (Kish), from
importance weights relative to the PMF, gathered with a Gaussian kernel of 14 degrees. Grey: fewer than 20 samples in
the kernel. {which} The preset "paper" uses the samples of its last iteration, the other presets the last quarter of
their samples. Contours: reference PMF at {levels} kT."""


def runs_with_map(records: Records) -> dict[tuple[str, str], FoundRun]:
    """Return, by method and preset, the run of lowest seed that has a map."""
    found = {}
    for key, members in sorted(records.groups("aldp", METHODS).items()):
        chosen = next((run for run in members if "efficiency" in arrays_of(run)), None)
        if chosen is not None:
            found[key] = chosen
    return found


def draw(records: Records) -> Drawing:
    """Draw one map for each method (rows) and preset (columns)."""
    runs = runs_with_map(records)
    if not runs:
        records.first_with("aldp", METHODS[0], "efficiency", ("default",))  # raises, and says what makes one
    methods, presets = (sorted({key[part] for key in runs}) for part in (0, 1))
    rows, columns = len(methods), len(presets)
    figure = new_figure(0.3 + 2.0 * rows, 1.1 + 1.8 * columns)
    panels = figure.subplots(rows, columns, squeeze=False)
    cvs = records.system("aldp").cvs
    reference = np.minimum(records.reference("aldp").pmf.free_energy, CUT)
    for row, column in np.ndindex(rows, columns):
        axes: Any = panels[row, column]
        run = runs.get((methods[row], presets[column]))
        if run is None:
            axes.set_visible(False)
            continue
        axes.set_facecolor("0.85")
        image = draw_bins(axes, cvs, arrays_of(run)["efficiency"], vmin=0.0, vmax=1.0)
        draw_contours(axes, cvs, reference, LEVELS, size=5.5)
        axes.set_title(f"{methods[row]}, preset {presets[column]}", fontsize=7)
        beside = column > 0 and (methods[row], presets[column - 1]) in runs
        below = row + 1 < rows and (methods[row + 1], presets[column]) in runs
        label_axes(axes, cvs, left=not beside, bottom=not below)
        if column + 1 == columns or (methods[row], presets[column + 1]) not in runs:
            colour_bar(axes, image, "effective fraction of samples", extend="neither")
    seeds = sorted({run.record.seed for run in runs.values()})
    which = f"One run of each preset (seed {', '.join(map(str, seeds))})."
    caption = CAPTION.format(which=which, levels=", ".join(f"{level:g}" for level in LEVELS))
    return Drawing(figure, f"{caption}\n\n{commands(runs.values())}")
