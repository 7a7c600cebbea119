"""Table 2: metrics of publications on generative models, beside those of our runs and of scored files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import yaml

from cgbench.contracts.reference import Reference
from cgbench.errors import UserError
from cgbench.results.numbers import rounded, scientific, show_evaluations
from cgbench.results.runs import FoundRun
from cgbench.scoring.field_metrics import OF_PMF, of_pmf
from cgbench_paper.records import Records
from cgbench_paper.tables.layout import heading, pipes, tabular

__all__ = ["make", "numbers"]

COLUMNS = ["system", "method", "preset", "algorithm", "n_seeds", "evaluations", "ramachandran_tv", "ramachandran_kld"]
COLUMNS += ["delta_f_phi_error", "ess_percent", "eubo", "impossible", "force_field", "source"]
HEADINGS = [
    "method",
    "preset",
    "algorithm",
    "seeds",
    "evaluations",
    "Ramachandran TV",
    "Ramachandran KLD",
    "error of dF / kT",
]
HEADINGS += ["ESS / %", "EUBO"]
PUBLISHED_HEADINGS = ["method", "evaluations", "Ramachandran TV", "ESS / %", "EUBO", "source"]
EXPLANATION = """\
Medians over seeds. Ramachandran TV and KLD: total variation, and sum of p ln(p/q) times the area of a bin with 1e-10
added to both densities, of phi and psi on 100 x 100 bins; ours against the reference PMF, published ones against a long
MD trajectory. Of a system with several maps over phi and psi, such as alanine tetrapeptide, ours are the means over
these maps. Error of dF: of ln(N_out / N_in), with "in" for phi between 0 and 2 rad. ESS: effective sample size of
importance weights, with the largest 1e-4 of the weights clipped. EUBO: mean negative log-likelihood on equilibrium
configurations, in the coordinates of each group and with its constraints: compare differences between methods of one
group only. It is infinite for a seed whose model gives zero density to any of them; in brackets, their number in all
seeds. Numbers of different force fields are not compared. Methods that are not generative models have no ESS and
no EUBO. Rows with the preset "self-reported" are results of other programs, whose evaluations were not counted here."""


def numbers(records: Records) -> pd.DataFrame:
    """Return one row per method and preset on systems with two angles as CVs, then the published values, unrounded."""
    rows = []
    for system in records.systems:
        if _has_ramachandran(records, system):
            groups = records.groups(system)
            rows += [_row(records, system, *names, members) for names, members in sorted(groups.items())]
    published = _published()
    for system, entry in published["systems"].items():
        shared = {"system": system, "preset": "published", "source": published["source"]}
        shared["force_field"] = entry["force_field"]
        rows += [shared | row for row in entry["rows"]]
    return pd.DataFrame(rows, columns=COLUMNS)


def _has_ramachandran(records: Records, system: str) -> bool:
    try:
        return bool(_ramachandran(records.reference(system)))
    except UserError:
        return False


def _ramachandran(reference: Reference) -> list[int]:
    """Return the numbers of the maps over phi and psi; "phi 2" and "psi 2" are those of residue 2."""
    return [
        number
        for number, pmf in enumerate(one.pmf for one in reference.maps)
        if [name.partition(" ")[0] for name in pmf.cvs.names] == ["phi", "psi"]
        and of_pmf(pmf, pmf)["ramachandran_kld"] is not None
    ]


def _row(records: Records, system: str, method: str, preset: str, members: Sequence[FoundRun]) -> dict[str, Any]:
    found = [_metrics(records, run) for run in members]
    board = records.leaderboard.set_index(["system", "method", "preset"])
    row: dict[str, Any] = {"system": system, "method": method, "preset": preset}
    row |= {"algorithm": board.loc[(system, method, preset), "algorithm"], "n_seeds": len(members)}
    row["evaluations"] = float(np.median([run.record.evaluations.total for run in members]))
    for name in ("ramachandran_tv", "ramachandran_kld", "delta_f_phi_error", "ess_percent", "eubo"):
        known = [value for one in found if (value := one.get(name)) is not None]
        row[name] = float(np.median(known)) if known else math.nan
    densities = [run.record.density for run in members if run.record.density is not None]
    row["impossible"] = sum(int(density["impossible"]) for density in densities) if densities else math.nan
    return row


def _metrics(records: Records, run: FoundRun) -> dict[str, float | None]:
    """Return the metrics of one run: of its PMFs, as means over maps, unless its record has those of samples."""
    maps = records.maps(run)
    each = [of_pmf(maps[k][0].pmf, maps[k][1]) for k in _ramachandran(records.reference(run.record.system))]
    found: dict[str, float | None] = {}
    for name in OF_PMF:
        known = [value for one in each if (value := one[name]) is not None]
        found[name] = float(np.mean(known)) if known else None
    found |= {name: value for name in found if (value := run.record.metrics.get(name)) is not None}
    ess = run.record.metrics.get("ess_clipped")
    density = run.record.density
    found["ess_percent"] = None if ess is None else 100.0 * ess
    found["eubo"] = None
    if density is not None:  # of the possible configurations alone in records of older versions
        found["eubo"] = math.inf if density["impossible"] else -float(density["log_likelihood"])
    return found


def _published() -> dict[str, Any]:
    text = resources.files("cgbench_paper.tables").joinpath("published.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)["table2"]
    return found


def make(records: Records) -> dict[str, str]:
    """Return the table as CSV, Markdown and LaTeX, by suffix."""
    table = numbers(records)
    parts = [(system, *_rows(table, system)) for system in dict.fromkeys(table["system"])]
    titles = {name: entry["title"] for name, entry in _published()["systems"].items()}
    markdown = ["# Table 2. Metrics of publications on generative models", EXPLANATION]
    latex = ["% needs the package booktabs; table2.md explains the columns"]
    for system, ours, published in parts:
        title = heading(titles.get(system, system))
        markdown.append(f"## {title}")
        latex.append(f"% {title}")
        if ours:
            markdown.append(pipes(HEADINGS, ours))
            latex.append(tabular(HEADINGS, ours))
        if published:
            field = table[(table["system"] == system) & (table["preset"] == "published")]["force_field"].iloc[0]
            markdown += [f"Published values ({field}):", pipes(PUBLISHED_HEADINGS, published)]
            latex.append(tabular(PUBLISHED_HEADINGS, published))
    return {
        ".csv": table.to_csv(index=False, lineterminator="\n", float_format="%.6g"),
        ".md": "\n\n".join(markdown) + "\n",
        ".tex": "\n\n".join(latex) + "\n",
    }


def _rows(table: pd.DataFrame, system: str) -> tuple[list[list[str]], list[list[str]]]:
    """Return the rows of a system under `HEADINGS`, and its published rows under `PUBLISHED_HEADINGS`."""
    ours, published = [], []
    for _, row in table[table["system"] == system].iterrows():
        evaluations = show_evaluations(row["evaluations"], exact_below=1e6)
        variation = scientific(row["ramachandran_tv"])
        model = [rounded(row["ess_percent"]), "–" if math.isnan(row["eubo"]) else f"{row['eubo']:.2f}"]
        if row["impossible"] > 0:
            model[1] += f" ({row['impossible']:.0f})"
        if row["preset"] == "published":
            published.append([row["method"], evaluations, variation, *model, row["source"]])
            continue
        names = [row["method"], row["preset"], row["algorithm"] or "–", f"{row['n_seeds']:.0f}", evaluations]
        error = "–" if math.isnan(row["delta_f_phi_error"]) else f"{row['delta_f_phi_error']:+.3f}"
        ours.append([*names, variation, scientific(row["ramachandran_kld"]), error, *model])
    return ours, published
