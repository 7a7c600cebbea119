"""Code in the documentation: the worked example runs, and what README quotes stands in the examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_pages import DOCS, ROOT, blocks

from cgbench.running.record import Record

EXAMPLES = [*(ROOT / "tests" / "examples").glob("*.py"), *(ROOT / "tests" / "newcomer").rglob("*.py")]


def test_the_worked_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All Python blocks of the page, one after the other, as a reader would run them."""
    monkeypatch.chdir(tmp_path)
    code = blocks(DOCS / "python.md", "python")
    assert len(code) > 3
    names: dict[str, object] = {}
    for block in code:
        exec(compile(block, "docs/python.md", "exec"), names)


def test_the_snippet_of_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, *_ = blocks(ROOT / "README.md", "python")
    assert first.startswith("import cgbench\n")
    exec(compile(first, "README.md", "exec"), {})


def test_the_method_in_readme_is_that_of_the_example() -> None:
    """Line by line, and in this order, it stands in one of the examples."""
    _, method = blocks(ROOT / "README.md", "python")
    lines = [line.strip() for line in method.splitlines() if line.strip() not in ("", "...")]
    sources = [iter([line.strip() for line in path.read_text(encoding="utf-8").splitlines()]) for path in EXAMPLES]
    assert any(all(line in source for line in lines) for source in sources)


def test_the_page_on_files_has_every_key_of_a_record() -> None:
    text = (DOCS / "files.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [name for name in Record.model_fields if not any(f"`{name}`" in row for row in rows)] == []


def test_the_page_on_the_leaderboard_defines_every_column() -> None:
    text = (DOCS / "leaderboard.md").read_text(encoding="utf-8")
    header = (ROOT / "runs" / "leaderboard.csv").read_text(encoding="utf-8").partition("\n")[0]
    endings = ("_lo", "_hi", "_bound")
    assert all(f"`{ending}`" in text for ending in endings)
    names = {re.sub(rf"({'|'.join(endings)})$", "", name) for name in header.split(",")}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
