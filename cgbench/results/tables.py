"""Tables for people: choosing and sorting rows, and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from cgbench.errors import UserError, choices
from cgbench.results.numbers import rounded, show_evaluations, show_range, show_score
from cgbench.running.record import EXTERNAL_PRESET

__all__ = ["choose", "leaderboard_markdown", "markdown", "sort_by"]

EXTRAPOLATED = "\\* extrapolated: plain MD did not reach this KLD, so its curve is extended by a power law"
SELF_REPORTED = "self-reported: a file scored by cgbench score; its evaluations were stated by a user, not counted"
AT_LEAST = "≤, ≥: the score is below the noise floor of the reference; the noise floor is used instead"


def choose(table: pd.DataFrame, wanted: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Keep the rows with one of the wanted values in each column; an empty list keeps all.

    Raises
    ------
    UserError
        If no row has a wanted value.
    """
    for column, values in wanted.items():
        present = set(table[column])
        for value in values:
            if value not in present:
                raise UserError(f"no runs of {column} {value!r} (--{column}): choose from {choices(present)}")
    for column, values in wanted.items():
        if values:
            table = table[table[column].isin(values)]
    return table


def sort_by(table: pd.DataFrame, column: str, descending: bool = False) -> pd.DataFrame:
    """Sort by a column; missing values come last, and equal values keep their order.

    Raises
    ------
    UserError
        If there is no such column.
    """
    if column not in table.columns:
        raise UserError(f"no column {column!r} (--sort): choose from {choices(table.columns)}")
    return table.sort_values(column, ascending=not descending, kind="stable", na_position="last")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Return a Markdown table, padded for reading as plain text: `left` columns of words, then columns of numbers."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[k]) for row in escaped)) for k in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |\n"

    rule = ["-" * w if k < left else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
    return line(escaped[0]) + line(rule) + "".join(line(row) for row in escaped[1:])


def leaderboard_markdown(table: pd.DataFrame, warnings: Sequence[str] = ()) -> str:
    """Return the main columns of the leaderboard in Markdown, with rounded numbers, bounds, misses and warnings."""
    versions = table.groupby("system")["version"].nunique()
    header = ["system", "method", "preset", "seeds", "evaluations", "forward KLD", "evaluations to 1e-2", "to 1e-3"]
    header += ["speedup over MD (95 %)", "basin error / kT", "time / s"]
    rows, notes = [], set()
    for row in table.to_dict("records"):
        bound = row["forward_kld"] < row["noise_floor"]
        several = versions[row["system"]] > 1
        speedup = _speedup(row["speedup_vs_md"], row["speedup_lo"], row["speedup_hi"], bound, row["extrapolated"])
        notes |= {SELF_REPORTED} if str(row["preset"]).startswith(EXTERNAL_PRESET) else set()
        notes |= ({AT_LEAST} if bound else set()) | ({EXTRAPOLATED} if speedup.endswith("\\*") else set())
        rows.append(
            [
                f"{row['system']} (version {row['version']})" if several else str(row["system"]),
                str(row["method"]),
                str(row["preset"]),
                str(row["n_seeds"]),
                show_evaluations(row["evaluations"]),
                show_score(row["forward_kld"], row["forward_kld_se"], row["noise_floor"]),
                *(show_evaluations(row[f"evaluations_to_kld_{target}"]) for target in ("1e-2", "1e-3")),
                speedup,
                "–" if math.isnan(row["basin_df_error_kT"]) else f"{row['basin_df_error_kT']:.3f}",
                rounded(row["wall_s"]),
            ]
        )
    return markdown(header, rows, 3) + "".join(f"\n{note}\n" for note in [*sorted(notes), *warnings])


def _speedup(value: float, low: float, high: float, bound: bool, extrapolated: object) -> str:
    if not math.isfinite(value):
        return "–"
    mark = " \\*" if extrapolated is True else ""
    return f"{'≥ ' * bound}{_two_digits(value)} ({show_range(low, high, _two_digits)}){mark}"


def _two_digits(value: float) -> str:
    return rounded(value, 2)
