"""``cgbench compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["command"]


@click.command("compare", help="Say what got better or worse from A to B: leaderboards (CSV), or folders of runs.")
@click.argument("a")
@click.argument("b")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Chance of a false alarm, over all tests.")
@click.option("--tolerance", type=float, default=0.05, show_default=True, help="Smaller relative changes are none.")
@click.option("--fail-on-regression", is_flag=True, help="Exit code 1 if anything got worse.")
@click.option("--format", "form", type=click.Choice(["markdown", "csv"]), default="markdown", show_default=True)
def command(a: str, b: str, alpha: float, tolerance: float, fail_on_regression: bool, form: str) -> int:
    """Compare two sets of results, seeds as samples."""
    from cgbench.errors import UserError
    from cgbench.results.compare import compare, read_results

    if not 0 < alpha < 1:
        raise UserError(f"--alpha must be between 0 and 1, not {alpha}")
    if not 0 <= tolerance < 1:
        raise UserError(f"--tolerance must be from 0 to below 1, not {tolerance}")
    first, second = read_results(Path(a)), read_results(Path(b))
    if not set(first) & set(second):
        raise UserError(f"{a} and {b} have no system (in the same version), method and preset in common")
    table = compare(first, second, alpha, tolerance)
    if form == "csv":
        print(table.to_csv(index=False, lineterminator="\n", float_format="%.6g"), end="")
    else:
        print(_markdown(table))
        print(_summary(table, alpha))
        for name, rows in ((a, set(first) - set(second)), (b, set(second) - set(first))):
            for system, version, method, preset in sorted(rows):
                print(f"only in {name}: {method} on {system}, version {version}, preset {preset}")
    return 1 if fail_on_regression and (table["verdict"] == "worse").any() else 0


def _markdown(table: Any) -> str:
    from cgbench.results.numbers import rounded
    from cgbench.results.tables import markdown

    def side(row: Any, name: str) -> str:
        reached, seeds = row[f"reached_{name}"], row[f"seeds_{name}"]
        shown = rounded(row[name]) if reached else "not reached"
        return f"{shown} ({seeds})" if reached in (0, seeds) else f"{shown} ({reached} of {seeds})"

    header = ["system", "method", "preset", "quantity", "verdict", "A (seeds)", "B (seeds)", "B / A (95 %)"]
    header += ["test", "p (Holm)"]
    rows = []
    for row in table.to_dict("records"):
        known, tested = row["ratio_lo"] == row["ratio_lo"], row["p"] == row["p"]
        interval = f"{rounded(row['ratio'], 2)} ({rounded(row['ratio_lo'], 2)} to {rounded(row['ratio_hi'], 2)})"
        words = [row[name] for name in ("system", "method", "preset", "quantity", "verdict")]
        numbers = [side(row, "a"), side(row, "b"), interval if known else "–", row["test"] or "–"]
        rows.append([*words, *numbers, f"{row['p_holm']:.2g}" if tested else "–"])
    return markdown(header, rows, 5)


def _summary(table: Any, alpha: float) -> str:
    counts = table["verdict"].value_counts()
    words = ["better", "worse", "no difference", "not enough seeds", "no value on either side"]
    tests = int(table["p"].notna().sum())
    found = ", ".join(f"{counts[word]} {word}" for word in words if word in counts)
    return f"{found}; {tests} tests, false alarm below {alpha:g} in all (Holm); samples are seeds"
