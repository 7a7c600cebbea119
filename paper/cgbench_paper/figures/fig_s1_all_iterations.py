"""Fig. S1: all iterations of active learning on the Müller-Brown potential."""

from __future__ import annotations

from cgbench.drawing.style import new_figure
from cgbench_paper.figures.muller_brown_panels import (
    ENERGIES,
    draw_configurations,
    draw_pmf,
    panel_text,
    run_with_stages,
)
from cgbench_paper.records import Records, commands
from cgbench_paper.style import Drawing

__all__ = ["draw"]

COLUMNS = 3
CAPTION = "**All {count} stages of active learning on the Müller-Brown potential.** Preset {preset}, seed {seed}."


def draw(records: Records) -> Drawing:
    """Draw every stage, three in a row of panels."""
    run, stages = run_with_stages(records)
    system = records.system("muller_brown")
    rows = -(-len(stages) // COLUMNS)
    figure = new_figure(3.1 * rows + 0.4)
    panels = figure.subplots(2 * rows, COLUMNS, squeeze=False)
    for number in range(rows * COLUMNS):
        row, column = divmod(number, COLUMNS)
        upper, lower = panels[2 * row, column], panels[2 * row + 1, column]
        if number >= len(stages):
            upper.set_visible(False)
            lower.set_visible(False)
            continue
        stage = stages[number]
        draw_configurations(upper, system, stage)
        draw_pmf(lower, records, stage, stages[:number], run)
        upper.set_title(f"{stage.name}, {stage.evaluations:,} evaluations", fontsize=7)
        upper.set_xlabel("")
        upper.tick_params(labelbottom=False)
        if column > 0:
            for axes in (upper, lower):
                axes.set_ylabel("")
                axes.tick_params(labelleft=False)
        if number + COLUMNS < len(stages):
            lower.set_xlabel("")
            lower.tick_params(labelbottom=False)
    figure.colorbar(ENERGIES, ax=panels, label="energy (kT)", extend="max", shrink=0.4, aspect=40)
    figure.legend(*panels[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    caption = CAPTION.format(count=len(stages), preset=run.record.preset, seed=run.record.seed)
    return Drawing(figure, f"{caption} {panel_text(stages)}\n\n{commands([run])}")
