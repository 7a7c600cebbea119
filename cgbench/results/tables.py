"""Tables for people: choosing and sorting rows, and Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from cgbench.errors import UserError, choices
from cgbench.results.numbers import show_evaluations, show_score, show_seconds, show_speedup
from cgbench.running.record import EXTERNAL_PRESET

__all__ = ["choose", "leaderboard_markdown", "markdown", "sort_by"]

SELF_REPORTED = "self-reported: a file scored by cgbench score; its evaluations were stated by a user, not counted"
INTERVALS = """\
Numbers are medians over seeds. In parentheses after a forward KLD: interval of the median between two of the seeds \
(with 94 % confidence for five seeds, 75 % for three; none for fewer). In parentheses after a speedup: 95 % interval \
over seeds and simulations of MD."""
BELOW_FLOOR = "≤: the forward KLD is below the noise floor of the reference, which is used instead"
BOUNDS = """\
≥, ≤: at least, at most. The MD curve ends above the score, or the score is below the noise floor; or the curve begins \
below the score. Nothing is extrapolated."""
ASSUMED = """\
\\* fewer than three seeds: their scatter is assumed to be that of the simulations of MD"""
APPROXIMATE = """\
~: the run has only wall seconds at each estimate, here multiplied by its CPU seconds over its wall seconds"""
HEADER = ["system", "method", "preset", "algorithm", "seeds", "evaluations", "forward KLD", "evaluations to 1e-2"]
HEADER += ["evaluations to 1e-3", "time to 1e-2 / s", "time to 1e-3 / s", "time / s", "basin error / kT"]
ALGORITHM = """\
Algorithm: "published" has algorithm and settings of a publication, "published, our settings" its algorithm alone, \
"ours" is of this project, "standard" is a textbook method; "–" is not declared"""
TIME = "Times are CPU seconds of the method (wall seconds on an accelerator), on the machines that the records name"
SPEEDUPS = {
    "over MD (95 %)": "speedup_vs_md",
    "over smoothed MD": "smoothed_speedup_vs_md",
    "to 1e-1": "speedup_to_kld_1e-1",
    "to 1e-2": "speedup_to_kld_1e-2",
    "to 1e-3": "speedup_to_kld_1e-3",
    "to 1e-3, smoothed MD": "smoothed_speedup_to_kld_1e-3",
    "in time": "time_speedup_vs_md",
    "in time to 1e-2": "time_speedup_to_kld_1e-2",
    "in time to 1e-3": "time_speedup_to_kld_1e-3",
}


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
    """Return the main columns of the leaderboard in Markdown, with notes on what the numbers are, and warnings.

    The first table has scores and costs, the second the speedups over MD, of the rows that have any.
    """
    versions = table.groupby("system")["version"].nunique()
    rows = [{str(name): cell for name, cell in row.items()} for row in table.to_dict("records")]
    names = [_names(row, several=versions[row["system"]] > 1) for row in rows]
    parts = [markdown(HEADER, [[*name, *_costs(row)] for name, row in zip(names, rows, strict=True)], 4)]
    speedups = [
        [*name[:2], name[2] + " \\*" * _assumed(row), *_speedups(row)]
        for name, row in zip(names, rows, strict=True)
        if _has_speedups(row)
    ]
    if speedups:
        parts.append("\nSpeedups over plain MD, at the score that was reached and at fixed forward KLDs:\n\n")
        parts.append(markdown(["system", "method", "preset", *SPEEDUPS], speedups, 3))
    notes = [*_notes(rows), *_notes_on_rows(rows), *warnings]
    return "".join(parts) + "".join(f"\n{note}\n" for note in notes)


def _names(row: Mapping[str, Any], several: bool) -> list[str]:
    system = f"{row['system']} (version {row['version']})" if several else str(row["system"])
    return [system, str(row["method"]), str(row["preset"])]


def _costs(row: Mapping[str, Any]) -> list[str]:
    score = show_score(row["forward_kld"], row["forward_kld_lo"], row["forward_kld_hi"], row["noise_floor"])
    return [
        row["algorithm"] if isinstance(row["algorithm"], str) and row["algorithm"] else "–",  # nan if read from a file
        _seeds(row),
        show_evaluations(row["evaluations"]),
        score,
        *(show_evaluations(row[f"evaluations_to_kld_{target}"]) for target in ("1e-2", "1e-3")),
        *(show_seconds(row[f"seconds_to_kld_{target}"], row["scaled_seconds"] is True) for target in ("1e-2", "1e-3")),
        show_seconds(row["seconds"]),
        "–" if math.isnan(row["basin_df_error_kT"]) else f"{row['basin_df_error_kT']:.3f}",
    ]


def _seeds(row: Mapping[str, Any]) -> str:
    """Return the number of seeds, such as "3 of 5" if two have failed."""
    failed = row.get("n_failed", 0)
    return f"{row['n_seeds']} of {row['n_seeds'] + failed}" if failed else str(row["n_seeds"])


def _has_speedups(row: Mapping[str, Any]) -> bool:
    return any(row[column] == row[column] for column in SPEEDUPS.values())  # nan != nan


def _assumed(row: Mapping[str, Any]) -> bool:
    return row["assumed_scatter"] is True and _has_speedups(row)


def _speedups(row: Mapping[str, Any]) -> list[str]:
    return [show_speedup(*(row[f"{name}{end}"] for end in ("", "_lo", "_hi", "_bound"))) for name in SPEEDUPS.values()]


def _notes(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the explanations of what the tables contain."""
    if not rows:
        return
    yield INTERVALS
    yield TIME
    yield ALGORITHM
    bounds = {row[f"{name}_bound"] for row in rows for name in SPEEDUPS.values()}
    for note, needed in (
        (BELOW_FLOOR, any(row["forward_kld"] < row["noise_floor"] for row in rows)),
        (BOUNDS, bool(bounds & {"at least", "at most"})),
        (ASSUMED, any(map(_assumed, rows))),
        (APPROXIMATE, any(row["scaled_seconds"] is True for row in rows)),
        (SELF_REPORTED, any(str(row["preset"]).startswith(EXTERNAL_PRESET) for row in rows)),
    ):
        if needed:
            yield note


def _notes_on_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield which MD curves rest on one long run, and which rows mix seeds or have no speedup in time."""
    for system in dict.fromkeys(str(row["system"]) for row in rows if row["md_runs"] == 1):
        yield (
            f"{system}: one long run of MD. Where the MD curve rests on fewer than eight simulations, its band comes "
            "from the typical spread between simulations"
        )
    for row in rows:
        where = f"{row['system']}, {row['method']}, {row['preset']}"
        if isinstance(row["differences"], str) and row["differences"]:  # nan if read from a file
            yield f"{where}: the seeds differ in {row['differences']}"
        if isinstance(row["time_note"], str) and row["time_note"]:
            yield f"{where}: {row['time_note']}"
