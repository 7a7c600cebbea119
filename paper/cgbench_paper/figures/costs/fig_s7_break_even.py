"""Fig. S7: time to a forward KLD of 1e-3 against the cost of one energy evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import seaborn
from numpy.typing import NDArray

from cgbench.drawing.style import Look, line_of_preset, method_looks
from cgbench.results.baseline.times import md_seconds_per_evaluation, seconds_to
from cgbench.results.numbers import rounded
from cgbench_paper.records import MissingData, Records, commands
from cgbench_paper.style import SYSTEMS, Drawing, legend_of_methods, panel_grid

__all__ = ["Line", "best_methods", "break_even", "draw", "lines_of"]

Array = NDArray[np.float64]
TARGET = 1e-3
COSTS = np.logspace(-6, 1, 1401)  # seconds per evaluation
UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
CAPTION = """\
**Time to a forward KLD of 1e-3 against the cost of one energy evaluation.** A line is the method's own time plus its
evaluations times the cost of one, median over seeds; one evaluation at a time, without parallel walkers. A method's
own time (training, fits, analysis) is its CPU seconds to the target less its evaluations times what one costs in plain
MD on the same machine, with the same threads, engine and kernels; not below zero. Plain MD (`md`) has no own time; its
evaluations are those of the MD curve, with the 95 % band. Circles: break-even with plain MD; to the right of it, the
method is faster. Dotted: what an evaluation cost in these runs of MD ({here}). {words} Best method by cost: {best};
lines closer to each other than a factor of two differ by less than the scatter of their seeds. Not drawn, because they
did not reach the target or no run of MD on their machine is published: {left_out}. Systems without a panel, because
their MD curve does not reach the target or no method can be drawn: {systems}."""


@dataclass(frozen=True)
class Line:
    """Costs of one method and preset to the target.

    Attributes
    ----------
    evaluations, own_seconds
        Of each seed; infinite evaluations for a miss.
    """

    evaluations: Array
    own_seconds: Array

    def time(self, cost: Array) -> Array:
        """Return the median time in seconds for these seconds per evaluation."""
        times: Array = np.median(self.own_seconds[:, None] + self.evaluations[:, None] * cost, axis=0)
        return times


def lines_of(records: Records, system: str) -> tuple[dict[tuple[str, str], Line], list[float], list[str]]:
    """Return the lines of a system, seconds per evaluation of MD on the machines used, and what cannot be drawn."""
    md = [run for members in records.groups(system, ["md"]).values() for run in members if run.record.origin == "run"]
    found, rates, left_out = {}, [], []
    for (method, preset), members in records.counted(system).items():
        if method == "md":
            continue
        rate, reason = md_seconds_per_evaluation(members, md)
        evaluations = np.array([run.evaluations_to(TARGET) for run in members])
        if reason or not math.isfinite(np.median(evaluations)):
            left_out.append(f"{method}, {preset}, on {system}")
            continue
        with np.errstate(invalid="ignore"):
            own = np.array([seconds_to(run, TARGET) for run in members]) - evaluations * rate
        found[method, preset] = Line(evaluations, np.where(np.isfinite(evaluations), np.maximum(own, 0.0), np.inf))
        rates.append(rate)
    return found, rates, left_out


def break_even(line: Line, md: Line) -> float:
    """Return the seconds per evaluation above which a method is faster than MD; infinite if it never is."""
    faster = line.time(COSTS) < md.time(COSTS)
    if not faster[-1]:
        return math.inf
    slower = np.flatnonzero(~faster)
    return float(COSTS[slower[-1] + 1]) if len(slower) else float(COSTS[0])


def best_methods(lines: dict[tuple[str, str], Line]) -> list[tuple[float, str]]:
    """Return the seconds per evaluation from which on each method is the fastest, in rising order."""
    names = list(lines)
    best = np.argmin([lines[name].time(COSTS) for name in names], axis=0)
    starts = [0, *(np.flatnonzero(np.diff(best)) + 1)]
    return [(float(COSTS[start]), ", ".join(part for part in names[best[start]] if part)) for start in starts]


def draw(records: Records) -> Drawing:
    """Draw one panel for each system that has an MD curve and a method on the machine of a run of MD."""
    panels: dict[str, tuple[dict[tuple[str, str], Line], Array, list[float]]] = {}
    left_out: list[str] = []
    for system in records.systems:
        curve = records.md_curves(system).get("histogram")
        lines, rates, missing = lines_of(records, system)
        if curve is None or not lines:
            continue
        ends, drawn = curve.to_target(TARGET)
        if math.isfinite(ends[1]) and ends[0] > 0:
            left_out += missing
            md = {("md", ""): Line(ends[:1], np.zeros(1))}
            panels[system] = md | lines, np.quantile(drawn[:, 1], [0.025, 0.975], method="nearest"), rates
    if not panels:
        raise MissingData(
            "no method and no MD on one machine reach 1e-3; `cgbench run --method md --preset long --system aldp` and "
            "`cgbench run --method cgflow_al --system aldp` make such runs"
        )
    figure, grid = panel_grid(len(panels), 2.7, below=0.7)
    looks = method_looks(records.methods)
    shown: list[tuple[str, str]] = []
    words = []
    for axes, (system, panel) in zip(grid, panels.items(), strict=True):
        words.append(_panel(axes, system, panel, looks))
        shown += panel[0]
    legend_of_methods(figure, records.methods, shown)
    best = "; ".join(f"{SYSTEMS.get(system, system)}: {_ranges(panel[0])}" for system, panel in panels.items())
    here = ", ".join(
        f"{_with_unit(rate)} on {SYSTEMS.get(system, system)}"
        for system, panel in panels.items()
        for rate in sorted(set(panel[2]))
    )
    caption = CAPTION.format(
        here=here,
        words=" ".join(words),
        best=best,
        left_out="; ".join(left_out) or "none",
        systems=", ".join(system for system in records.systems if system not in panels) or "none",
    )
    used = [run for system in panels for members in records.counted(system).values() for run in members]
    return Drawing(figure, f"{caption}\n\n{commands(used)}")


def _panel(axes: Any, system: str, panel: tuple[dict[tuple[str, str], Line], Array, list[float]], looks: Any) -> str:
    """Draw the lines of one system; return the break-even points in words."""
    lines, band, rates = panel
    md = lines["md", ""]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.fill_between(COSTS, band[0] * COSTS, band[1] * COSTS, color=looks["md"].colour, alpha=0.2, linewidth=0)
    points = []
    for (method, preset), line in lines.items():
        look: Look = looks[method]
        style = line_of_preset(preset) if preset else "-"
        name = f"{method}/{preset}" if preset else method
        seaborn.lineplot(x=COSTS, y=line.time(COSTS), color=look.colour, linestyle=style, ax=axes, gid=name)
        if method == "md":
            continue
        cost = break_even(line, md)
        if COSTS[0] < cost < math.inf:
            at = dict(color=look.colour, markeredgecolor="white", markeredgewidth=0.5, markersize=5, zorder=4)
            axes.plot([cost], md.time(np.array([cost])), "o", gid=f"{name}/break-even", **at)
        points.append(f"{method}, {preset}: {_words(cost)}")
    for rate in sorted(set(rates)):
        axes.axvline(rate, color="0.75", linestyle=":", linewidth=0.8, zorder=0, gid="here")
    axes.set_xlim(COSTS[0], COSTS[-1])
    axes.set(xlabel="cost of one energy evaluation (s)", ylabel="time to forward KLD 1e-3 (s)")
    axes.set_title(SYSTEMS.get(system, system))
    return f"Break-even with plain MD on {system}: {'; '.join(points)}."


def _words(cost: float) -> str:
    if math.isinf(cost):
        return "never"
    return f"{'at most ' if cost <= COSTS[0] else ''}{_with_unit(cost)}"


def _with_unit(seconds: float) -> str:
    name, size = next((unit for unit in UNITS if seconds >= unit[1]), UNITS[-1])
    return f"{rounded(seconds / size, 2)} {name}"


def _ranges(lines: dict[tuple[str, str], Line]) -> str:
    (_, first), *rest = best_methods(lines)
    return "".join([first, *(f", from {_with_unit(cost)} {name}" for cost, name in rest)])
