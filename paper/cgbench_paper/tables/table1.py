"""Table 1: cost of each method, quality of its PMF, and speedup over plain MD."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import yaml

from cgbench.results.numbers import (
    scientific,
    show_evaluations,
    show_range,
    show_score,
    show_seconds,
    show_speedup,
)
from cgbench_paper.records import Records, commands
from cgbench_paper.tables.layout import heading, pipes, tabular

__all__ = ["make", "numbers"]

TARGETS = ("1e-2", "1e-3")
SPEEDUPS = {
    "speedup over MD": "speedup_vs_md",
    "over smoothed MD": "smoothed_speedup_vs_md",
    "speedup to 1e-1": "speedup_to_kld_1e-1",
    "to 1e-2": "speedup_to_kld_1e-2",
    "to 1e-3": "speedup_to_kld_1e-3",
    "in time to 1e-3": "time_speedup_to_kld_1e-3",
}
TAKEN = ["algorithm", "n_seeds", "evaluations", "evaluations_paper_convention"]
TAKEN += [
    "forward_kld",
    "forward_kld_lo",
    "forward_kld_hi",
    "noise_floor",
    "evaluations_to_kld_1e-2",
    "evaluations_to_kld_1e-3",
]
TAKEN += ["seconds_to_kld_1e-2", "seconds_to_kld_1e-3", "scaled_seconds", "assumed_scatter"]
TAKEN += [f"{name}{end}" for name in SPEEDUPS.values() for end in ("", "_lo", "_hi", "_bound")]
HEADINGS = ["method", "preset", "algorithm", "seeds", "evaluations", "forward KLD", "to KLD 1e-2", "to KLD 1e-3"]
HEADINGS += ["time to 1e-2 / s", "to 1e-3 / s", *SPEEDUPS, "total variation"]
PUBLISHED_HEADINGS = ["method", "evaluations", "speedup over MD", "result", "source"]
EXPLANATION = """\
Algorithm: "published" has algorithm and settings of a publication, "published, our settings" its algorithm alone,
"ours" is of this project, and "standard" a textbook method. Evaluations: all energy evaluations, including the starting
trajectory, training, labels and validation; median over seeds. Forward KLD: median over seeds, with an interval of the
median between two of the seeds (94 % confidence with five, 75 % with three, none with fewer); a bound if it is below
the noise floor of the reference. To KLD: evaluations from which on the forward KLD stays at or below this value; median
over seeds. Time: CPU seconds to the same points; ~: wall seconds, multiplied by the CPU seconds of the run over its
wall seconds. Speedup: evaluations that plain MD needs for the same forward KLD, or for the target, divided by those of
the method; median over seeds, with a 95 % bootstrap interval over seeds and simulations of MD. ≥ and ≤: at least and at
most, because the curve of plain MD ends above the score (or the score is below the noise floor) or begins below it;
nothing is extrapolated. †: fewer than three seeds, whose scatter is assumed to be that of the simulations of MD. In
time: CPU seconds of plain MD on the same machine, with as many threads and the same engine and kernels, divided by
those of the method; empty where no such run of MD is published. Total variation: over the grid of the PMF; median over
seeds."""


def numbers(records: Records) -> pd.DataFrame:
    """Return one row per system, method and preset, then the published values, unrounded."""
    ours = records.leaderboard
    rows: list[dict[str, Any]] = []
    for _, row in ours.iterrows():
        members = records.groups(row["system"])[row["method"], row["preset"]]
        variation = [m.record.metrics.get("total_variation") for m in members]
        known = [v for v in variation if v is not None]
        names = {name: row[name] for name in ("system", "method", "preset")}
        taken = {name: row[name] for name in TAKEN}
        rows.append(names | taken | {"total_variation": float(np.median(known)) if known else math.nan})
    for system, entries in _published().items():
        for entry in entries:
            low, high = entry["evaluations"]
            slow, fast = entry["speedup"] or (math.nan, math.nan)
            stated = {"evaluations_published_lo": low, "evaluations_published_hi": high}
            stated |= {"speedup_published_lo": slow, "speedup_published_hi": fast}
            names = {"system": system, "method": entry["method"], "preset": "published"}
            rows.append(names | stated | {name: entry[name] for name in ("result", "source")})
    columns = ["system", "method", "preset", *TAKEN, "total_variation", "evaluations_published_lo"]
    columns += ["evaluations_published_hi", "speedup_published_lo", "speedup_published_hi", "result", "source"]
    return pd.DataFrame(rows, columns=columns)


def make(records: Records) -> dict[str, str]:
    """Return the table as CSV, Markdown and LaTeX, by suffix."""
    table = numbers(records)
    return {
        ".csv": table.to_csv(index=False, lineterminator="\n", float_format="%.6g"),
        ".md": _markdown(records, table),
        ".tex": _latex(table),
    }


def _published() -> dict[str, list[dict[str, Any]]]:
    text = resources.files("cgbench_paper.tables").joinpath("published.yaml").read_text(encoding="utf-8")
    found: dict[str, list[dict[str, Any]]] = yaml.safe_load(text)["table1"]
    return found


def _count(value: float) -> str:
    return show_evaluations(value, exact_below=1e6)


def _kld(row: Any) -> str:
    return show_score(row["forward_kld"], row["forward_kld_lo"], row["forward_kld_hi"], row["noise_floor"], digits=3)


def _speedups(row: Any) -> list[str]:
    mark = "†" if row["assumed_scatter"] is True else ""
    shown = [show_speedup(*(row[f"{name}{end}"] for end in ("", "_lo", "_hi", "_bound"))) for name in SPEEDUPS.values()]
    return [text.replace(" (", f"{mark} (", 1) for text in shown]


def _rows(table: pd.DataFrame) -> Iterable[tuple[str, list[list[str]], list[list[str]]]]:
    """Yield each system with its rows under `HEADINGS` and its published rows under `PUBLISHED_HEADINGS`."""
    for system in dict.fromkeys(table["system"]):
        own = table[(table["system"] == system) & (table["preset"] != "published")]
        stated = table[(table["system"] == system) & (table["preset"] == "published")]
        ours = [
            [
                row["method"],
                row["preset"],
                row["algorithm"] or "–",
                f"{row['n_seeds']:.0f}",
                _count(row["evaluations"]),
                _kld(row),
            ]
            + [_count(row["evaluations_to_kld_1e-2"]), _count(row["evaluations_to_kld_1e-3"])]
            + [show_seconds(row[f"seconds_to_kld_{target}"], row["scaled_seconds"] is True) for target in TARGETS]
            + [*_speedups(row), scientific(row["total_variation"])]
            for _, row in own.iterrows()
        ]
        published = [
            [row["method"], show_range(row["evaluations_published_lo"], row["evaluations_published_hi"], _count)]
            + [show_range(row["speedup_published_lo"], row["speedup_published_hi"], str), row["result"], row["source"]]
            for _, row in stated.iterrows()
        ]
        yield system, ours, published


def _markdown(records: Records, table: pd.DataFrame) -> str:
    parts = ["# Table 1. Cost and quality of the PMF", EXPLANATION]
    for system, ours, published in _rows(table):
        parts.append(f"## {heading(system)}")
        if ours:
            parts.append(pipes(HEADINGS, ours))
        if published:
            parts.append("Published values, counted and scored by each publication in its own way:")
            parts.append(pipes(PUBLISHED_HEADINGS, published))
    parts += ["## Data", commands(records.runs)]
    return "\n\n".join(parts) + "\n"


def _latex(table: pd.DataFrame) -> str:
    parts = ["% needs the package booktabs; table1.md explains the columns"]
    for system, ours, published in _rows(table):
        parts.append(f"% {heading(system)}")
        if ours:
            parts.append(tabular(HEADINGS, ours))
        if published:
            parts.append(tabular(PUBLISHED_HEADINGS, published))
    return "\n\n".join(parts) + "\n"
