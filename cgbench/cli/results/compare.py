"""``cgbench compare``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

__all__ = ["command"]


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option(
    "--alpha", type=float, default=0.05, show_default=True, metavar="P", help="False-alarm rate of all tests."
)
@click.option(
    "--tolerance",
    type=float,
    default=0.05,
    show_default=True,
    metavar="X",
    help="Ignore relative changes below this.",
)
@click.option("--fail-on-regression", is_flag=True, help="Exit with code 1 if anything got worse or is missing in B.")
@click.option("--pmf", is_flag=True, help="Compare the final PMFs of runs with each other; needs no reference.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "csv"]),
    default="markdown",
    show_default=True,
    help="Output format.",
)
def command(a: str, b: str, alpha: float, tolerance: float, fail_on_regression: bool, pmf: bool, form: str) -> int:
    """Test what got better or worse from A to B.

    A and B are folders of runs, or leaderboards in CSV. The seeds are the samples: at least three on each side.

    A failed run counts as one that reached nothing.

    With --pmf, compare the PMF of every run in A with that of every run in B, which may be the same folder.
    """
    from cgbench.errors import UserError
    from cgbench.results.compare import compare, read_results

    if not 0 < alpha < 1:
        raise UserError(f"--alpha must be between 0 and 1, not {alpha}")
    if not 0 <= tolerance < 1:
        raise UserError(f"--tolerance must be at least 0 and below 1, not {tolerance}")
    if pmf:
        if fail_on_regression:
            raise UserError("--fail-on-regression compares scores, --pmf compares PMFs: give one of them")
        return _compare_pmfs(Path(a), Path(b), form)
    first, second = read_results(Path(a)), read_results(Path(b))
    if not set(first) & set(second):
        raise UserError(f"{a} and {b} have no system (in the same version), method and preset in common")
    table = compare(first, second, alpha, tolerance)
    if form == "csv":
        print(table.to_csv(index=False, lineterminator="\n", float_format="%.6g"), end="")
    else:
        print(_markdown(table))
        print(_summary(table, alpha))
    lost = set(first) - set(second)
    for name, rows in ((a, lost), (b, set(second) - set(first))):
        for system, version, method, preset in sorted(rows):
            line = f"only in {name}: {method} on {system}, version {version}, preset {preset}"
            print(line, file=sys.stderr if form == "csv" else sys.stdout)
    return 1 if fail_on_regression and ((table["verdict"] == "worse").any() or lost) else 0


def _compare_pmfs(a: Path, b: Path, form: str) -> int:
    from cgbench.results.agreement import COMPARED_BELOW, agreement
    from cgbench.results.numbers import rounded
    from cgbench.results.tables import markdown

    table = agreement([a], [b])
    if form == "csv":
        print(table.to_csv(index=False, lineterminator="\n", float_format="%.6g"), end="")
        return 0
    header = ["system", "A", "B", "KLD (A ∥ B)", "total variation", "RMS (kT)", "largest (kT)", "within errors"]
    rows = []
    for row in table.to_dict("records"):
        numbers = [rounded(row[name], 2) for name in table.columns[3:7]]
        known = row["within_errors"] == row["within_errors"]  # nan if a run claims no errors
        rows.append([row["system"], row["a"], row["b"], *numbers, f"{row['within_errors']:.0%}" if known else "–"])
    print(markdown(header, rows, 3))
    print(f"differences over the bins below {COMPARED_BELOW:g} kT in both; within 1.96 combined standard errors")
    return 0


def _markdown(table: Any) -> str:
    from cgbench.results.numbers import rounded, show_range
    from cgbench.results.tables import markdown

    def two_digits(value: float) -> str:
        return rounded(value, 2)

    def side(row: Any, name: str) -> str:
        reached, seeds = row[f"reached_{name}"], row[f"seeds_{name}"]
        shown = rounded(row[name]) if row[name] < float("inf") else "not reached"
        return f"{shown} ({seeds})" if reached in (0, seeds) else f"{shown} ({reached} of {seeds})"

    header = ["system", "method", "preset", "quantity", "verdict", "A (seeds)", "B (seeds)", "B / A (95 %)"]
    header += ["test", "p (Holm)"]
    rows = []
    for row in table.to_dict("records"):
        known = row["ratio_lo"] == row["ratio_lo"]  # nan without an interval
        interval = f"{two_digits(row['ratio'])} ({show_range(row['ratio_lo'], row['ratio_hi'], two_digits)})"
        words = [row[name] for name in ("system", "method", "preset", "quantity", "verdict")]
        numbers = [side(row, "a"), side(row, "b"), interval if known else "–", row["test"] or "–"]
        rows.append([*words, *numbers, two_digits(row["p_holm"])])
    return markdown(header, rows, 5)


def _summary(table: Any, alpha: float) -> str:
    counts = table["verdict"].value_counts()
    words = ["better", "worse", "no difference", "not enough seeds", "no value on either side", "not tested"]
    tests = int(table["p"].notna().sum())
    found = ", ".join(f"{counts[word]} {word}" for word in words if word in counts)
    return f"{found}; {tests} tests with a total false-alarm rate below {alpha:g} (Holm); the samples are seeds"
