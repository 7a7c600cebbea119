"""Table 2: metrics of publications on generative models, beside those of our runs and of scored files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import yaml

from cgbench.contracts.pmf import PMF
from cgbench.errors import UserError
from cgbench.results.numbers import rounded, scientific, show_evaluations
from cgbench.results.runs import FoundRun
from cgbench.scoring.field_metrics import of_pmf
from cgbench_paper.records import Records, arrays_of
from cgbench_paper.tables.layout import heading, pipes, tabular

__all__ = ["make", "numbers"]

COLUMNS = ["system", "method", "preset", "algorithm", "n_seeds", "evaluations", "ramachandran_tv", "ramachandran_kld"]
COLUMNS += ["delta_f_phi_error", "ess_percent", "eubo", "force_field", "source"]
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
MD trajectory. Error of dF: of ln(N_out / N_in), with "in" for phi between 0 and 2 rad. ESS: effective sample size of
importance weights, with the largest 1e-4 of the weights clipped. EUBO: mean negative log-likelihood on equilibrium
configurations, in the coordinates of each group and with its constraints: compare differences between methods of one
group only. Numbers of different force fields are not compared. Methods that are not generative models have no ESS and
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
        reference = records.reference(system).pmf
    except UserError:
        return False
    return of_pmf(reference, reference)["ramachandran_kld"] is not None


def _row(records: Records, system: str, method: str, preset: str, members: Sequence[FoundRun]) -> dict[str, Any]:
    found = [_metrics(records, run) for run in members]
    board = records.leaderboard.set_index(["system", "method", "preset"])
    row: dict[str, Any] = {"system": system, "method": method, "preset": preset}
    row |= {"algorithm": board.loc[(system, method, preset), "algorithm"], "n_seeds": len(members)}
    row["evaluations"] = float(np.median([run.record.evaluations.total for run in members]))
    for name in ("ramachandran_tv", "ramachandran_kld", "delta_f_phi_error", "ess_percent", "eubo"):
        known = [value for one in found if (value := one.get(name)) is not None]
        row[name] = float(np.median(known)) if known else math.nan
    return row


def _metrics(records: Records, run: FoundRun) -> dict[str, float | None]:
    """Return the metrics of one run: of its PMF, unless its record has those of samples."""
    reference = records.reference(run.record.system).pmf
    found = of_pmf(reference, PMF(reference.cvs, arrays_of(run)["probability"]))
    found |= {name: value for name in found if (value := run.record.metrics.get(name)) is not None}
    ess = run.record.metrics.get("ess_clipped")
    density = run.record.density
    found["ess_percent"] = None if ess is None else 100.0 * ess
    found["eubo"] = None if density is None else -float(density["log_likelihood"])
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
        if row["preset"] == "published":
            published.append([row["method"], evaluations, variation, *model, row["source"]])
            continue
        names = [row["method"], row["preset"], row["algorithm"] or "–", f"{row['n_seeds']:.0f}", evaluations]
        error = "–" if math.isnan(row["delta_f_phi_error"]) else f"{row['delta_f_phi_error']:+.3f}"
        ours.append([*names, variation, scientific(row["ramachandran_kld"]), error, *model])
    return ours, published
