"""Fig. S5: ablation of the conditional flow's recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn

from cgbench.drawing.style import COLOURS, new_figure
from cgbench.errors import UserError
from cgbench_paper.records import MissingData, Records
from cgbench_paper.style import Drawing

__all__ = ["draw", "read_ablation"]

TARGETS = {
    "evaluations_to_1e-02": ("KLD 1e-2", "o", COLOURS["sky"]),
    "evaluations_to_1e-03": ("KLD 1e-3", "s", COLOURS["blue"]),
}
CAPTION = """\
**Ablation of the recipe.** Active learning, preset "default" with one setting changed at a time; a row of panels for
each system. Left: forward KLD of the final PMF, median over seeds, with a line from the smallest to the largest;
dashed: noise floor of the reference. Right: evaluations from which on the forward KLD stays at or below the target
(median over seeds); open symbols at the edge: not reached by at least half of the seeds."""


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
    """Draw panels for each system, with one row for each setting."""
    tables = read_ablation(records)
    heights = [0.9 + 0.24 * len(table) for table in tables.values()]
    figure = new_figure(sum(heights))
    grid = figure.subplots(len(tables), 2, sharey="row", squeeze=False, height_ratios=heights)
    for (left, right), (system, table) in zip(grid, tables.items(), strict=True):
        _draw_scores(left, table)
        left.set_title(system, loc="left", fontweight="bold")
        floor = records.reference(system).noise_floor
        if floor > 0:
            left.axvline(floor, color="0.4", linestyle="--", linewidth=0.8)
        _draw_targets(right, table)
        for axes in (left, right):
            axes.grid(axis="y", color="0.9")
            axes.set_ylabel("")
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


def _draw_scores(axes: Any, table: pd.DataFrame) -> None:
    """Draw the median of the forward KLD with the range of the seeds."""
    axes.set_xscale("log")
    scores = table.melt("setting", ["forward_kld_min", "forward_kld", "forward_kld_max"], value_name="kld")
    seaborn.pointplot(
        scores,
        x="kld",
        y="setting",
        estimator="median",
        errorbar=("pi", 100),  # the whole range
        linestyle="none",
        color=COLOURS["blue"],
        markersize=4,
        err_kws={"linewidth": 1.5},
        ax=axes,
        gid="forward_kld",
    )
    axes.set_xlabel("forward KLD at the end")


def _draw_targets(axes: Any, table: pd.DataFrame) -> None:
    """Draw evaluations to each target; settings that miss it get an open symbol at the edge."""
    axes.set_xscale("log")
    largest = float(table["evaluations"].max())
    for shift, (column, (label, marker, colour)) in zip((-0.12, 0.12), TARGETS.items(), strict=True):
        needed = table[column].to_numpy(float)
        reached, rows = np.isfinite(needed), np.arange(len(table)) + shift
        look = {"marker": marker, "edgecolor": colour, "linewidth": 1.0, "s": 18, "ax": axes}
        seaborn.scatterplot(x=needed[reached], y=rows[reached], color=colour, label=label, gid=column, **look)
        edge = np.full((~reached).sum(), 1.6 * largest)
        seaborn.scatterplot(x=edge, y=rows[~reached], color="white", gid=f"{column}/missed", **look)
    axes.set_xlim(right=2.0 * largest)
    axes.set_xlabel("energy evaluations to the target")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2)
