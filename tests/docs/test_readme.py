"""README: its length, the two commands, and the numbers of its table."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd
import pytest
from doc_pages import ROOT, blocks

README = ROOT / "README.md"
FIRST = (
    "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e . && "
    ".venv/bin/python -m cgbench run --method cgflow_al --system aldp --out my-runs"
)
SECOND = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt tox && .venv/bin/tox"
LARGEST_TABLE = 10


def test_it_can_be_read_in_two_minutes() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_it_has_the_two_commands() -> None:
    assert {FIRST, SECOND} <= {block.strip() for block in blocks(README, "sh")}


def table() -> list[dict[str, str]]:
    """Rows of the table of results by column."""
    lines = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def same(shown: str, value: float) -> bool:
    """Whether a number is the value, rounded to the digits that are shown."""
    number = float(shown.replace(",", ""))
    digits = re.sub(r"e.*|[,.]", "", shown).lstrip("0")
    if "e" not in shown and "." not in shown and len(digits) > 1:
        digits = digits.rstrip("0")  # 53,500 may have three significant digits or five
    place = math.floor(math.log10(abs(number))) - len(digits) + 1
    return abs(number - value) <= 0.5 * 10.0**place * (1 + 1e-9)


def test_numbers_are_compared_to_the_digits_that_are_shown() -> None:
    assert same("53,500", 53_476) and same("1.9e-4", 0.00019191) and same("2.00e7", 19_994_300) and same("47.2", 47.2)
    assert not same("53,500", 53_600) and not same("1.8e-4", 0.00019191) and not same("2.00e7", 1.99e7)


@pytest.fixture(scope="module")
def leaderboard() -> pd.DataFrame:
    return pd.read_csv(ROOT / "runs" / "leaderboard.csv").set_index(["system", "method", "preset"])


def test_the_table_is_short() -> None:
    assert 0 < len(table()) <= LARGEST_TABLE


@pytest.mark.parametrize("row", table(), ids=lambda row: f"{row['system']} {row['method']} {row['preset']}")
def test_its_numbers_are_those_of_the_leaderboard(row: dict[str, str], leaderboard: pd.DataFrame) -> None:
    known = leaderboard.loc[(row["system"], row["method"], row["preset"])]
    assert row["algorithm"] == known["algorithm"]
    assert int(row["seeds"]) == known["n_seeds"]
    assert same(row["evaluations"], known["evaluations"])
    assert same(row["forward KLD"], known["forward_kld"])
    approximate = "~" if known["scaled_seconds"] else ""
    time = row["time to 1e-3 / s"]
    if known["seconds_to_kld_1e-3"] == math.inf:
        assert time == "not reached"
    else:
        assert time.startswith(approximate) and same(time.removeprefix("~"), known["seconds_to_kld_1e-3"])
    for heading, column in SPEEDUPS.items():
        check_speedup(row[heading], [known[f"{column}{end}"] for end in ("", "_lo", "_hi", "_bound")])


SPEEDUPS = {
    "speedup over MD (95 %)": "speedup_vs_md",
    "over smoothed MD": "smoothed_speedup_vs_md",
    "to 1e-3": "speedup_to_kld_1e-3",
    "in time to 1e-3": "time_speedup_to_kld_1e-3",
}


def check_speedup(shown: str, known: list[Any]) -> None:
    """Check value, bound and interval, each rounded to the digits that are shown."""
    value, low, high, bound = known
    if math.isnan(value):
        assert shown == "–"
        return
    found = re.fullmatch(r"([≥≤] )?([\d.,e-]+) \((?:(at least|at most) )?([\d.,e-]+)(?: to ([\d.,e-]+))?\)", shown)
    assert found is not None, shown
    sign, number, only, first, second = found.groups()
    assert {"≥ ": "at least", "≤ ": "at most", None: ""}[sign] == (bound if isinstance(bound, str) else "")
    assert same(number, value)
    if only == "at least":
        assert math.isinf(high) and same(first, low)
    elif only == "at most":
        assert low == 0 and same(first, high)
    else:
        assert same(first, low) and same(second or first, high)


def test_it_says_which_rows_are_whose_algorithm() -> None:
    """Preset "paper" runs published algorithms; our recipe is never called published."""
    for row in table():
        ours = row["method"].startswith("cgflow") and row["preset"] != "paper"
        assert (row["algorithm"] == "ours") == ours, row
