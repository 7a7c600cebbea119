"""Table 1: what each method spends, how good its PMF is, and what that is worth in molecular dynamics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import yaml

from cgbench_paper.records import Records, commands

__all__ = ["make", "numbers"]

NAMES = {"aldp": "Alanine dipeptide", "muller_brown": "Müller-Brown potential"}
TAKEN = ["n_seeds", "evaluations", "evaluations_paper_convention", "forward_kld", "forward_kld_se", "noise_floor"]
TAKEN += ["evaluations_to_kld_1e-2", "evaluations_to_kld_1e-3", "speedup_vs_md", "speedup_lo", "speedup_hi"]
TAKEN += ["extrapolated"]
HEADINGS = ["method", "preset", "seeds", "evaluations", "forward KLD", "to KLD 1e-2", "to KLD 1e-3", "speedup over MD"]
HEADINGS += ["total variation"]
EXPLANATION = """\
Evaluations: medians over seeds of all energy evaluations, the starting trajectory, training, labels and
validation included. Forward KLD: median over seeds, with a standard error over seeds; below the noise floor of
the reference it is a bound. To KLD: evaluations from which on the score stays at or below that value (median
over seeds). Speedup: evaluations that plain dynamics needs for the same forward KLD over those of the method,
with a 95 % bootstrap interval over seeds and simulations; † says that the curve of plain dynamics had to be
extrapolated by its power law, ‡ that the score is below the noise floor and the speedup is the one at the
floor. On the Müller-Brown potential the walkers of plain Monte Carlo are shorter than the time to cross the
barrier, and speedups are upper bounds. Total variation: median over seeds, over the grid of the PMF."""


def numbers(records: Records) -> pd.DataFrame:
    """One row per system, method and preset, then the published values, unrounded."""
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
    found: dict[str, list[dict[str, Any]]] = yaml.safe_load(text)
    return found


def _scientific(value: float, digits: int = 2) -> str:
    mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def _count(value: float) -> str:
    if math.isinf(value):
        return "not reached"
    return f"{value:,.0f}" if value < 1e6 else _scientific(value)


def _range(low: float, high: float, form: Any) -> str:
    if math.isnan(low):
        return "–"
    return str(form(low)) if low == high else f"{form(low)} to {form(high)}"


def _kld(row: Any) -> str:
    if row["forward_kld"] < row["noise_floor"]:
        return f"≤ {_scientific(row['noise_floor'], 1)}"
    if math.isnan(row["forward_kld_se"]):
        return _scientific(row["forward_kld"])
    exponent = math.floor(math.log10(row["forward_kld"]))
    scale = 10.0**-exponent
    return f"({row['forward_kld'] * scale:.2f} ± {row['forward_kld_se'] * scale:.2f})e{exponent}"


def _two_digits(value: float) -> str:
    rounded = float(f"{value:.1e}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:.1f}"


def _speedup(row: Any) -> str:
    if row["method"] == "md" or math.isnan(row["speedup_vs_md"]):
        return "–"
    marks = "†" * bool(row["extrapolated"]) + "‡" * bool(row["forward_kld"] < row["noise_floor"])
    low, high = _two_digits(row["speedup_lo"]), _two_digits(row["speedup_hi"])
    return f"{_two_digits(row['speedup_vs_md'])}{marks} [{low}, {high}]"


def _rows(table: pd.DataFrame) -> Iterable[tuple[str, list[list[str]], list[list[str]]]]:
    """System, rows of ours under `HEADINGS`, and published rows: method, evaluations, speedup, result, source."""
    for system in dict.fromkeys(table["system"]):
        own = table[(table["system"] == system) & (table["preset"] != "published")]
        stated = table[(table["system"] == system) & (table["preset"] == "published")]
        ours = [
            [row["method"], row["preset"], f"{row['n_seeds']:.0f}", _count(row["evaluations"]), _kld(row)]
            + [_count(row["evaluations_to_kld_1e-2"]), _count(row["evaluations_to_kld_1e-3"]), _speedup(row)]
            + ["–" if math.isnan(row["total_variation"]) else _scientific(row["total_variation"])]
            for _, row in own.iterrows()
        ]
        published = [
            [row["method"], _range(row["evaluations_published_lo"], row["evaluations_published_hi"], _count)]
            + [_range(row["speedup_published_lo"], row["speedup_published_hi"], str), row["result"], row["source"]]
            for _, row in stated.iterrows()
        ]
        yield system, ours, published


PUBLISHED_HEADINGS = ["method", "evaluations", "speedup over MD", "result", "source"]


def _pipes(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markdown(records: Records, table: pd.DataFrame) -> str:
    parts = ["# Table 1. Cost and quality of the PMF", EXPLANATION]
    for system, ours, published in _rows(table):
        parts.append(f"## {NAMES.get(system, system)}")
        if ours:
            parts.append(_pipes(HEADINGS, ours))
        if published:
            parts += ["Published, each counted and scored in its own way:", _pipes(PUBLISHED_HEADINGS, published)]
    parts += ["## Data", commands(records.runs)]
    return "\n\n".join(parts) + "\n"


def _tex(text: str) -> str:
    for plain, command in (
        ("&", r"\&"),
        ("%", r"\%"),
        ("_", r"\_"),
        ("±", r"$\pm$"),
        ("≤", r"$\leq$"),
        ("†", r"$^\dagger$"),
        ("‡", r"$^\ddagger$"),
        ("–", "--"),
        ("ü", r"\"u"),
    ):
        text = text.replace(plain, command)
    return text


def _tabular(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_tex(" & ".join(headings).replace("&", "\0")).replace("\0", "&") + r" \\", r"\midrule"]
    lines += [" & ".join(_tex(cell) for cell in row) + r" \\" for row in rows]
    body = "\n".join(lines)
    return f"\\begin{{tabular}}{{{'l' * len(headings)}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}"


def _latex(table: pd.DataFrame) -> str:
    parts = ["% needs booktabs; for the meaning of the columns see table1.md"]
    for system, ours, published in _rows(table):
        parts.append(f"% {NAMES.get(system, system)}")
        if ours:
            parts.append(_tabular(HEADINGS, ours))
        if published:
            parts.append(_tabular(PUBLISHED_HEADINGS, published))
    return "\n\n".join(parts) + "\n"
