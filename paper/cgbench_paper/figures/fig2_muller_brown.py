"""Fig. 2: two iterations of active learning on the Müller-Brown potential."""

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

CAPTION = "**Two iterations of active learning on the Müller-Brown potential.** Preset {preset}, seed {seed}: {stages}."


def draw(records: Records) -> Drawing:
    """Draw the first and the second stage side by side."""
    run, stages = run_with_stages(records)
    shown = stages[:2]
    system = records.system("muller_brown")
    figure = new_figure(4.2, 5.6)
    panels = figure.subplots(2, len(shown), squeeze=False, sharex=True, sharey="row")
    for column, stage in enumerate(shown):
        draw_configurations(panels[0, column], system, stage)
        draw_pmf(panels[1, column], records, stage, stages[:column], run)
        panels[0, column].set_title(f"{stage.name}, {stage.evaluations:,} evaluations")
    for axes in panels.flat:
        axes.label_outer()
    figure.colorbar(ENERGIES, ax=panels[0, :], label="energy (kT)", extend="max", aspect=15)
    figure.legend(*panels[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    listed = "; ".join(f"{stage.name} after {stage.evaluations:,} evaluations" for stage in shown)
    caption = CAPTION.format(preset=run.record.preset, seed=run.record.seed, stages=listed)
    return Drawing(figure, f"{caption} {panel_text(shown)}\n\n{commands([run])}")
