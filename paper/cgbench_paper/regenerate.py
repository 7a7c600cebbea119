"""Regenerates figures and tables, each with what it shows and where its data come from."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib import rc_context

from cgbench.errors import UserError, choices
from cgbench.storage.files import write_atomically
from cgbench_paper import FIGURES, TABLES
from cgbench_paper.records import MissingData, Records
from cgbench_paper.style import RC, Drawing, save

__all__ = ["regenerate"]

SUFFIXES = (".pdf", ".png", ".md", ".csv", ".tex")


def regenerate(
    runs: Path, out: Path, names: Sequence[str] = (), say: Callable[[str], None] = lambda line: None
) -> list[str]:
    """Write ``<out>/figures/<name>.pdf|png|md`` and ``<out>/tables/<name>.csv|md|tex``.

    Where the records lack the data, earlier files of that name are removed.

    Parameters
    ----------
    runs
        Folder of published runs; nothing else is read.
    out
        Folder to write to.
    names
        Figures and tables to make; all by default.
    say
        Called with a line for each file set, and for each that lacks data.

    Returns
    -------
    list of str
        Names that were left out because the records lack their data.

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
            for suffix in SUFFIXES:  # nothing may be older than its data
                (out / ("tables" if name in TABLES else "figures") / f"{name}{suffix}").unlink(missing_ok=True)
            say(f"{name} left out: {reason}")
        else:
            say(f"{name} written")
    return missing


def _write_figure(name: str, records: Records, folder: Path) -> None:
    with rc_context(RC):
        drawing: Drawing = importlib.import_module(FIGURES[name]).draw(records)
    _make(folder)
    save(drawing.figure, folder / name)
    _write(folder / f"{name}.md", f"# {name}\n\n{drawing.caption.strip()}\n")


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
