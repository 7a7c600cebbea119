"""Fig. S5: what each part of the conditional flow's recipe is worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cgbench.errors import UserError
from cgbench_paper.records import MissingData, Records
from cgbench_paper.style import OKABE_ITO, Drawing, new_figure

__all__ = ["draw", "read_ablation"]

SYSTEM = "aldp"
TARGETS = {
    "evaluations_to_1e-02": ("1e-2", "o", OKABE_ITO["sky"]),
    "evaluations_to_1e-03": ("1e-3", "s", OKABE_ITO["blue"]),
}
CAPTION = """\
**What each part of the recipe is worth.** Active learning on alanine dipeptide, preset "default" with one setting
changed at a time. Left: final forward KLD, median over seeds, with a line from the smallest to the largest;
dashed: noise floor of the reference. Right: evaluations from which on the forward KLD stays at or below the
target (median over seeds); open symbols at the edge: not reached by at least half of the seeds."""


def read_ablation(records: Records) -> pd.DataFrame:
    """Return the published table of settings.

    Raises
    ------
    MissingData
        If none is published.
    UserError
        If it cannot be read.
    """
    path = records.folder / SYSTEM / "ablation" / "ablation.csv"
    if not path.exists():
        raise MissingData(
            f"no table {path}; `python -m studies.ablation --seeds 3 --out ablation --table {path}` makes it"
        )
    try:
        table = pd.read_csv(path)
        return table[["setting", "seeds", "evaluations", "forward_kld", "forward_kld_min", "forward_kld_max", *TARGETS]]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def draw(records: Records) -> Drawing:
    """Draw one row for each setting."""
    table = read_ablation(records)
    figure = new_figure(0.9 + 0.24 * len(table))
    left, right = figure.subplots(1, 2, sharey=True)
    height = np.arange(len(table))[::-1]
    kld = table["forward_kld"].to_numpy(float)
    low, high = table["forward_kld_min"].to_numpy(float), table["forward_kld_max"].to_numpy(float)
    left.hlines(height, low, high, color=OKABE_ITO["blue"], linewidth=1.5)
    left.plot(kld, height, "o", color=OKABE_ITO["blue"], markersize=4, gid="forward_kld")
    floor = records.reference(SYSTEM).noise_floor
    if floor > 0:
        left.axvline(floor, color="0.4", linestyle="--", linewidth=0.8)
    left.set_xscale("log")
    left.set_xlabel("forward KLD at the end")
    left.set_yticks(height, [str(setting) for setting in table["setting"]])
    _draw_targets(right, table, height)
    for axes in (left, right):
        axes.grid(axis="y", color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
    return Drawing(figure, f"{CAPTION}\n\n{_provenance(table)}")


def _provenance(table: pd.DataFrame) -> str:
    """Say which command made the table, with seeds and evaluations."""
    low, high = int(table["seeds"].min()), int(table["seeds"].max())
    seeds = (
        f"seeds 0 to {high - 1} of each setting" if low == high else f"{low} to {high} seeds of each setting, from 0 on"
    )
    cheap, dear = table["evaluations"].min(), table["evaluations"].max()
    spent = f"{cheap:,.0f}" if cheap == dear else f"{cheap:,.0f} to {dear:,.0f}"
    command = f"python -m studies.ablation --system {SYSTEM} --seeds {high}"
    return f"- `{command}`: {seeds}; {spent} energy evaluations a run (medians over seeds)"


def _draw_targets(axes: Any, table: pd.DataFrame, height: np.ndarray) -> None:
    largest = float(table["evaluations"].max())
    for shift, (column, (label, marker, colour)) in zip((0.12, -0.12), TARGETS.items(), strict=True):
        needed = table[column].to_numpy(float)
        reached = np.isfinite(needed)
        shown = {"marker": marker, "color": colour, "markersize": 4, "linestyle": "none"}
        axes.plot(needed[reached], height[reached] + shift, label=f"to KLD {label}", gid=column, **shown)
        edge = np.full((~reached).sum(), 1.6 * largest)
        axes.plot(edge, height[~reached] + shift, markerfacecolor="none", gid=f"{column}/missed", **shown)
    axes.set_xscale("log")
    axes.set_xlim(right=2.0 * largest)
    axes.set_xlabel("energy evaluations")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2)
