"""Fig. S2: convergence of plain MD."""

from __future__ import annotations

from cgbench.results.baseline.curve import FIT_DECADES
from cgbench.results.plots import draw_curves
from cgbench_paper.figures.fig4_convergence import draw_noise_floor
from cgbench_paper.records import MissingData, Records, commands
from cgbench_paper.style import SYSTEMS, Drawing, panel_grid

__all__ = ["draw"]

CAPTION = """\
**Plain MD: forward KLD of the PMF against energy evaluations.** One evaluation is one step of one walker. Symbols:
median over independent simulations; for each number of evaluations, the simulations with the longest walkers. Lines:
isotonic regression of their logarithms, which never rises and so reaches each level once. Bands: 95 % of bootstrap
samples of whole simulations; hatched where there are fewer than eight simulations and the typical spread between
simulations stands for their scatter{runs}. ≤ and ≥: to the left of its first point MD needs at most, to the right of
its last at least as many evaluations; nothing is extrapolated. Dotted: power law N^b fitted to the last {decades:.0f}
decades. Two estimators: a histogram with half a count added to each bin, and a smoothed one. Dashed grey line: noise
floor of the reference."""


def draw(records: Records) -> Drawing:
    """Draw one panel for each system that has runs of plain MD."""
    curves = {system: records.md_curves(system) for system in records.systems}
    curves = {system: found for system, found in curves.items() if found}
    if not curves:
        raise MissingData("no run of md; `cgbench run --method md --system aldp` makes one")
    figure, panels = panel_grid(len(curves), 2.8)
    for axes, (system, found) in zip(panels, curves.items(), strict=True):
        draw_curves(axes, found)
        draw_noise_floor(axes, records, system)
        legend = axes.get_legend()
        legend.set_frame_on(True)  # it may lie on the line of the noise floor
        legend.get_frame().set(alpha=0.9, linewidth=0.0)
        axes.set_title(SYSTEMS.get(system, system))
    used = [run for system in curves for members in records.groups(system, ["md"]).values() for run in members]
    numbers = {system: next(iter(found.values())).runs for system, found in curves.items()}
    words = ", ".join(f"{n} on {system}" for system, n in numbers.items())
    caption = CAPTION.format(decades=FIT_DECADES, runs=f" (long runs: {words})")
    return Drawing(figure, f"{caption}\n\n{commands(used)}")
