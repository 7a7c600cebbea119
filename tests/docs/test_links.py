"""Links and named files: what a page points at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_pages import PAGES, ROOT, anchors, links, name_of

PREFIXES = ("cgbench/", "methods/", "systems/", "paper/", "studies/", "tests/", "docs/", "runs/")


def broken_links(page: Path) -> list[str]:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(place)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_named_in_the_text_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":  # names files that are gone
        return
    named = re.findall(r"`([\w./-]+)`", page.read_text(encoding="utf-8"))
    paths = [name for name in named if name.startswith(PREFIXES) and "<" not in name]
    made = ("docs/_build", "runs/aldp/cgflow_al/paper", "runs/aldp/cgflow_grid/paper")
    assert [name for name in paths if not (ROOT / name).exists() and not name.startswith(made)] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n[good](page.md#title) [file](nowhere.md) [heading](#nothing) [web](https://x.org)\n")
    assert broken_links(page) == ["nowhere.md", "#nothing"]
