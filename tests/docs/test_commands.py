"""Command lines: every ``cgbench ...`` in README and documentation is accepted by the parser."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from doc_pages import DOCS, PAGES, blocks, name_of

from cgbench.cli.main import cgbench as group

COMMAND = re.compile(r"(?:^|[&\s])(?:\S*python -m )?cgbench ((?!:)\S.*)$")


def in_blocks(page: Path) -> list[str]:
    """What follows ``cgbench`` in shell blocks, comments left out."""
    lines = (line.partition("  #")[0].rstrip() for line in "".join(blocks(page, "sh")).splitlines())
    return [match[1] for line in lines if (match := COMMAND.search(line))]


def in_sentences(page: Path) -> list[str]:
    """What follows ``cgbench`` in code within sentences, where options that are needed may be left out."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`cgbench ([^`]+)`", text)


def parse(line: str, monkeypatch: pytest.MonkeyPatch, complete: bool = True) -> None:
    """Parse a command line without running anything; the name of a command alone is accepted.

    Raises
    ------
    click.UsageError
        If a command or option does not exist, or a value is not admissible.
    """
    command: click.Command = group
    context = click.Context(group, info_name="cgbench")
    words = shlex.split(line)
    while isinstance(command, click.Group) and words:
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    if words in ([], ["--help"]):
        return
    for parameter in () if complete else command.params:
        monkeypatch.setattr(parameter, "required", False)
    command.make_context(context.info_name, words, parent=context.parent)


CASES = [(page, line, True) for page in PAGES for line in in_blocks(page)]
CASES += [(page, line, False) for page in PAGES for line in in_sentences(page)]


@pytest.mark.parametrize(("page", "line", "complete"), CASES, ids=[f"{name_of(c[0])}: {c[1]}" for c in CASES])
def test_a_command_line_is_accepted(page: Path, line: str, complete: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    parse(line, monkeypatch, complete)


@pytest.mark.parametrize(
    "line", ["rum --system aldp", "run --sytem aldp --method md", "run --system aldp", "leaderboard --format html"]
)
def test_a_wrong_command_line_is_refused(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(click.UsageError):
        parse(line, monkeypatch)


def test_every_command_has_its_section() -> None:
    sections = re.findall(r"^## cgbench (\w+)$", (DOCS / "commands.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(sections) == sorted(group.list_commands(click.Context(group)))


def test_readme_lists_every_command() -> None:
    listed = {line.split()[0] for line in in_blocks(PAGES[0])}
    assert set(group.list_commands(click.Context(group))) <= listed
