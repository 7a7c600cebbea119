"""Fig. S1: all iterations of active learning on the Müller-Brown potential."""

from __future__ import annotations

from cgbench_paper.figures.muller_brown_panels import ENERGY_CUT, PANELS, draw_backmapped, draw_pmf, run_with_stages
from cgbench_paper.records import Records, commands
from cgbench_paper.style import Drawing, new_figure

__all__ = ["draw"]

COLUMNS = 3
CAPTION = "**Active learning on the Müller-Brown potential, all {count} stages.** Preset {preset}, seed {seed}."


def draw(records: Records) -> Drawing:
    """Draw every stage, three in a row of panels."""
    run, stages = run_with_stages(records)
    system = records.system("muller_brown")
    rows = -(-len(stages) // COLUMNS)
    figure = new_figure(3.1 * rows + 0.4)
    panels = figure.subplots(2 * rows, COLUMNS, squeeze=False, sharex=True)
    for number, stage in enumerate(stages):
        row, column = divmod(number, COLUMNS)
        above, below = panels[2 * row, column], panels[2 * row + 1, column]
        points = draw_backmapped(above, system, stage)
        draw_pmf(below, records, stage, stages[:number], run)
        above.set_title(f"{stage.name}, {stage.evaluations:,} evaluations", fontsize=7)
        if column == 0:
            above.set_ylabel("x + y")
            below.set_ylabel("PMF (kT)")
        if number + COLUMNS >= len(stages):
            below.set_xlabel("s = x - y")
            below.tick_params(labelbottom=True)
    for number in range(len(stages), rows * COLUMNS):
        row, column = divmod(number, COLUMNS)
        panels[2 * row, column].set_visible(False)
        panels[2 * row + 1, column].set_visible(False)
    figure.colorbar(points, ax=panels, label="energy (kT)", extend="max", shrink=0.4, aspect=40)
    figure.legend(*panels[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    caption = CAPTION.format(count=len(stages), preset=run.record.preset, seed=run.record.seed)
    panel_text = PANELS.format(cut=ENERGY_CUT, threshold=stages[0].threshold)
    return Drawing(figure, f"{caption} {panel_text}\n\n{commands([run])}")
