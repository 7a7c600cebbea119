"""Fig. S5: ablation of the conditional flow's recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from cgbench.drawing.style import COLOURS, new_figure
from cgbench.errors import UserError
from cgbench_paper.records import MissingData, Records
from cgbench_paper.style import Drawing

__all__ = ["draw", "read_ablation"]

TARGETS = {"evaluations_to_1e-02": "evaluations to KLD 1e-2", "evaluations_to_1e-03": "evaluations to KLD 1e-3"}
LOOKS = [(COLOURS["blue"], "o"), (COLOURS["orange"], "s"), (COLOURS["green"], "D"), (COLOURS["purple"], "^")]
STEP = 0.22  # rows between the symbols of two systems
CAPTION = """\
**Ablation of the recipe.** Active learning, preset "default" with one setting changed at a time; colours and symbols
are systems. Settings of wells are for systems with free torsions. Left: forward KLD of the final PMF, median over
seeds, with a line from the smallest to the largest; dashed: noise floor of the reference. Others: evaluations from
which on the forward KLD stays at or below the target (median over seeds); open symbols at the edge: not reached by at
least half of the seeds."""


def read_ablation(records: Records) -> dict[str, pd.DataFrame]:
    """Return the published table of settings of each system.

    Raises
    ------
    MissingData
        If none is published.
    UserError
        If one cannot be read.
    """
    paths = sorted(records.folder.glob("*/ablation/ablation.csv"))
    if not paths:
        raise MissingData(
            f"no table {records.folder / 'SYSTEM' / 'ablation' / 'ablation.csv'}; "
            f"`python -m studies.ablation --seeds 3 --out ablation --tables {records.folder}` makes it"
        )
    columns = ["setting", "seeds", "evaluations", "forward_kld", "forward_kld_min", "forward_kld_max", *TARGETS]
    tables = {}
    for path in paths:
        try:
            tables[path.parents[1].name] = pd.read_csv(path)[columns].astype({"setting": str})
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
    return tables


def draw(records: Records) -> Drawing:
    """Draw a panel of scores and one for each target, with a row for each setting and a symbol for each system."""
    tables = read_ablation(records)
    settings = list(dict.fromkeys(setting for table in tables.values() for setting in table["setting"]))
    figure = new_figure(1.1 + 0.3 * len(settings))
    scores, *targets = figure.subplots(1, 1 + len(TARGETS), sharey=True, gridspec_kw={"width_ratios": [1.4, 1, 1]})
    largest = max(float(table["evaluations"].max()) for table in tables.values())
    middle = (len(tables) - 1) / 2
    for number, (system, table) in enumerate(tables.items()):
        colour, marker = LOOKS[number % len(LOOKS)]
        rows = table["setting"].map(settings.index).to_numpy(float) + STEP * (number - middle)
        _draw_scores(scores, table, rows, colour, marker, system)
        floor = records.reference(system).noise_floor
        if floor > 0:
            scores.axvline(floor, color=colour, linestyle="--", linewidth=0.8)
        for axes, column in zip(targets, TARGETS, strict=True):
            _draw_target(axes, table[column].to_numpy(float), rows, 1.6 * largest, colour, marker, f"{system}/{column}")
    for axes, label in zip((scores, *targets), ("forward KLD at the end", *TARGETS.values()), strict=True):
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.grid(axis="y", color="0.9")
    needed = np.concatenate([table[list(TARGETS)].to_numpy(float).ravel() for table in tables.values()])
    least = float(needed[np.isfinite(needed)].min(initial=largest))
    for axes in targets:
        axes.set_xlim(0.8 * least, 2.0 * largest)
        axes.xaxis.set_minor_formatter(NullFormatter())
    scores.set_yticks(range(len(settings)), settings)
    scores.set_ylim(len(settings) - 0.4, -0.6)
    scores.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(tables), borderaxespad=0.2)
    lines = [_provenance(system, table) for system, table in tables.items()]
    return Drawing(figure, "\n".join([f"{CAPTION}\n", *lines]))


def _provenance(system: str, table: pd.DataFrame) -> str:
    """Return the command that makes the table, with seeds and evaluations."""
    low, high = int(table["seeds"].min()), int(table["seeds"].max())
    seeds = f"seeds 0 to {high - 1} of each setting" if low == high else f"{low} to {high} seeds of each setting"
    least, most = table["evaluations"].min(), table["evaluations"].max()
    spent = f"{least:,.0f}" if least == most else f"{least:,.0f} to {most:,.0f}"
    command = f"python -m studies.ablation --system {system} --seeds {high}"
    return f"- `{command}`: {seeds}; {spent} energy evaluations a run (medians over seeds)"


def _draw_scores(
    axes: Any, table: pd.DataFrame, rows: NDArray[np.float64], colour: str, marker: str, system: str
) -> None:
    """Draw the median of the forward KLD with the range of the seeds."""
    median, low, high = (table[name].to_numpy(float) for name in ("forward_kld", "forward_kld_min", "forward_kld_max"))
    bars = axes.errorbar(
        median,
        rows,
        xerr=(median - low, high - median),
        linestyle="none",
        color=colour,
        marker=marker,
        markersize=4,
        elinewidth=1.5,
        label=system,
    )
    bars.lines[0].set_gid(f"{system}/forward_kld")


def _draw_target(
    axes: Any, needed: NDArray[np.float64], rows: NDArray[np.float64], edge: float, colour: str, marker: str, name: str
) -> None:
    """Draw evaluations to a target; settings that miss it get an open symbol at the edge."""
    reached = np.isfinite(needed)
    look = {"marker": marker, "edgecolor": colour, "linewidth": 1.0, "s": 18, "ax": axes}
    seaborn.scatterplot(x=needed[reached], y=rows[reached], color=colour, gid=name, **look)
    missed = np.full((~reached).sum(), edge)
    seaborn.scatterplot(x=missed, y=rows[~reached], color="white", gid=f"{name}/missed", **look)
