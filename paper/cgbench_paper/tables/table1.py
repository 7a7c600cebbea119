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
    rounded,
    scientific,
    show_evaluations,
    show_range,
    show_score,
    with_common_exponent,
)
from cgbench_paper.records import Records, commands
from cgbench_paper.tables.layout import heading, pipes, tabular

__all__ = ["make", "numbers"]

TAKEN = ["n_seeds", "evaluations", "evaluations_paper_convention", "forward_kld", "forward_kld_se", "noise_floor"]
TAKEN += ["evaluations_to_kld_1e-2", "evaluations_to_kld_1e-3", "speedup_vs_md", "speedup_lo", "speedup_hi"]
TAKEN += ["extrapolated"]
HEADINGS = ["method", "preset", "seeds", "evaluations", "forward KLD", "to KLD 1e-2", "to KLD 1e-3", "speedup over MD"]
HEADINGS += ["total variation"]
PUBLISHED_HEADINGS = ["method", "evaluations", "speedup over MD", "result", "source"]
EXPLANATION = """\
Evaluations: all energy evaluations, including the starting trajectory, training, labels and validation; median over
seeds. Forward KLD: median over seeds, with the standard error over seeds; a bound if it is below the noise floor of
the reference. To KLD: evaluations from which on the forward KLD stays at or below this value; median over seeds.
Speedup: evaluations that plain MD needs for the same forward KLD, divided by those of the method, with a 95 %
bootstrap interval over seeds and simulations; †: the curve of plain MD is extrapolated by its power law; ‡: the
forward KLD is below the noise floor, and the speedup is that at the noise floor. On the Müller-Brown potential the
walkers of plain Monte Carlo are shorter than the barrier crossing time, and speedups are upper bounds. Total
variation: over the grid of the PMF; median over seeds."""


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
    return show_score(row["forward_kld"], row["forward_kld_se"], row["noise_floor"], with_common_exponent)


def _speedup(row: Any) -> str:
    if row["method"] == "md" or math.isnan(row["speedup_vs_md"]):
        return rounded(math.nan)
    marks = "†" * bool(row["extrapolated"]) + "‡" * bool(row["forward_kld"] < row["noise_floor"])
    value, low, high = (rounded(row[name], 2) for name in ("speedup_vs_md", "speedup_lo", "speedup_hi"))
    return f"{value}{marks} [{low}, {high}]"


def _rows(table: pd.DataFrame) -> Iterable[tuple[str, list[list[str]], list[list[str]]]]:
    """Yield each system with its rows under `HEADINGS` and its published rows under `PUBLISHED_HEADINGS`."""
    for system in dict.fromkeys(table["system"]):
        own = table[(table["system"] == system) & (table["preset"] != "published")]
        stated = table[(table["system"] == system) & (table["preset"] == "published")]
        ours = [
            [row["method"], row["preset"], f"{row['n_seeds']:.0f}", _count(row["evaluations"]), _kld(row)]
            + [_count(row["evaluations_to_kld_1e-2"]), _count(row["evaluations_to_kld_1e-3"]), _speedup(row)]
            + [scientific(row["total_variation"])]
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
