"""Fig. 2: two iterations of active learning on the Müller-Brown potential."""

from __future__ import annotations

from cgbench_paper.figures.muller_brown_panels import ENERGY_CUT, PANELS, draw_backmapped, draw_pmf, run_with_stages
from cgbench_paper.records import Records, commands
from cgbench_paper.style import Drawing, new_figure

__all__ = ["draw"]

CAPTION = "**Active learning on the Müller-Brown potential, two iterations.** Preset {preset}, seed {seed}: {stages}."


def draw(records: Records) -> Drawing:
    """Draw the first and the second stage side by side."""
    run, stages = run_with_stages(records)
    shown = stages[:2]
    system = records.system("muller_brown")
    figure = new_figure(4.0, 5.5)
    panels = figure.subplots(2, len(shown), squeeze=False, sharex=True, sharey="row")
    for column, stage in enumerate(shown):
        points = draw_backmapped(panels[0, column], system, stage)
        draw_pmf(panels[1, column], records, stage, stages[:column], run)
        panels[0, column].set_title(f"{stage.name}, {stage.evaluations:,} evaluations")
        panels[1, column].set_xlabel("s = x - y")
    panels[0, 0].set_ylabel("x + y")
    panels[1, 0].set_ylabel("PMF (kT)")
    figure.colorbar(points, ax=panels[0, :], label="energy (kT)", extend="max")
    figure.legend(*panels[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    listed = "; ".join(f"{stage.name} after {stage.evaluations:,} evaluations" for stage in shown)
    caption = CAPTION.format(preset=run.record.preset, seed=run.record.seed, stages=listed)
    panel_text = PANELS.format(cut=ENERGY_CUT, threshold=shown[0].threshold)
    return Drawing(figure, f"{caption} {panel_text}\n\n{commands([run])}")
