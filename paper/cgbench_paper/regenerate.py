"""Regenerate the figures and tables, each with a caption that names the runs its data are from."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from cgbench.drawing.style import theme
from cgbench.errors import UserError, choices
from cgbench.storage.files import write_atomically
from cgbench_paper import FIGURES, TABLES
from cgbench_paper.records import MissingData, Records
from cgbench_paper.style import Drawing, save

__all__ = ["regenerate"]

SUFFIXES = (".pdf", ".png", ".md", ".csv", ".tex")


def regenerate(
    runs: Path,
    out: Path,
    names: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
    on_error: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Write ``<out>/figures/<name>.pdf|png|md`` and ``<out>/tables/<name>.csv|md|tex``.

    If the records lack the data of a figure or table, its earlier files are removed.

    Parameters
    ----------
    runs
        Folder of published runs, the only input.
    out
        Folder to write to.
    names
        Figures and tables to make; default: all.
    say
        Called with one line for each figure or table: written, or left out with the reason.
    on_error
        Called with one line for each figure or table that cannot be drawn; the others are still made.

    Returns
    -------
    list of str
        Names of the figures and tables left out for lack of data.

    Raises
    ------
    UserError
        If a name is unknown, a record cannot be read, or a file cannot be written.
    """
    known = [*FIGURES, *TABLES]
    for name in names:
        if name not in known:
            raise UserError(f"no figure or table {name!r}: choose from {choices(known)}")
    records = Records(runs)
    for line in records.skipped:
        say(f"left out: {line}")
    missing = []
    for name in names or known:
        try:
            if name in TABLES:
                _write_table(name, records, out / "tables")
            else:
                _write_figure(name, records, out / "figures")
        except MissingData as reason:
            missing.append(name)
            _remove(name, out)
            say(f"{name} left out: {reason}")
        except UserError:
            raise
        except Exception as error:  # matplotlib can raise anything; the others are still made
            _remove(name, out)
            on_error(f"{name} cannot be drawn: {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}")
        else:
            say(f"{name} written")
    return missing


def _remove(name: str, out: Path) -> None:
    """Remove the files of a figure or table: files older than their data would mislead."""
    for suffix in SUFFIXES:
        (out / ("tables" if name in TABLES else "figures") / f"{name}{suffix}").unlink(missing_ok=True)


def _write_figure(name: str, records: Records, folder: Path) -> None:
    with theme():  # while saving, too: matplotlib makes the labels of ticks then
        drawing: Drawing = importlib.import_module(FIGURES[name]).draw(records)
        _make(folder)
        save(drawing.figure, folder / name)
    _write(folder / f"{name}.md", f"# {name}\n\n{_wrapped(drawing.caption.strip())}\n")


def _wrapped(caption: str) -> str:
    """Wrap the paragraphs of a caption; lists stay as they are."""
    paragraphs = [
        text if text.startswith("- ") else textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
        for text in caption.split("\n\n")
    ]
    return "\n\n".join(paragraphs)


def _write_table(name: str, records: Records, folder: Path) -> None:
    texts: dict[str, str] = importlib.import_module(TABLES[name]).make(records)
    _make(folder)
    for suffix, text in texts.items():
        _write(folder / f"{name}{suffix}", text)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}; choose another --out") from error


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
