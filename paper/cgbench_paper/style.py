"""A figure with its caption, legends of methods, and files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cgbench.drawing.style import COLOURS, line_of_preset, method_looks, new_figure, write_picture

__all__ = ["SYSTEMS", "Drawing", "legend_of_methods", "panel_grid", "save"]

SYSTEMS = {"aldp": "alanine dipeptide", "muller_brown": "Müller-Brown potential"}
DPI = 220
COLUMNS = 6  # of a legend as wide as the page
COLUMNS_OF_PANELS = 3


@dataclass(frozen=True)
class Drawing:
    """A figure and its caption.

    Attributes
    ----------
    figure
        The figure.
    caption
        What it shows and which runs the data are from, in Markdown.
    """

    figure: Figure
    caption: str


def save(figure: Figure, path: Path) -> None:
    """Write ``<path>.pdf`` and ``<path>.png``.

    Raises
    ------
    UserError
        If a file cannot be written.
    """
    for suffix in (".pdf", ".png"):
        write_picture(figure, path.with_name(path.name + suffix), DPI)


def panel_grid(count: int, height: float, below: float = 0.0) -> tuple[Figure, list[Any]]:
    """Return a figure as wide as the page with panels side by side, three in a row at most.

    Parameters
    ----------
    count
        Number of panels, at least one.
    height
        Of a row, in inches.
    below
        Room for a legend, in inches.
    """
    columns = min(count, COLUMNS_OF_PANELS)
    rows = math.ceil(count / columns)
    figure = new_figure(height * rows + below)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[count:]:
        axes.remove()
    return figure, list(panels[:count])


def legend_of_methods(figure: Figure, methods: Iterable[str], shown: Sequence[tuple[str, str]]) -> None:
    """Draw a legend below the panels: colours and markers of methods, and line styles of their presets.

    Parameters
    ----------
    methods
        All methods of the records; they decide the colours of unknown ones.
    shown
        Method and preset of what is drawn; an empty preset stands for a method whose preset has no line style.
    """
    looks = method_looks(methods)
    names = sorted({method for method, _ in shown}, key=lambda name: (name != "md", name))
    edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.4}
    upper = [Line2D([], [], color=looks[n].colour, marker=looks[n].marker, label=n, **edge) for n in names]
    lines: dict[str, Any] = {preset: line_of_preset(preset) for _, preset in shown if preset}
    lower = [Line2D([], [], color=COLOURS["black"], linestyle=lines[p], label=f"preset {p}") for p in sorted(lines)]
    columns = min(max(len(upper), len(lower)), COLUMNS)
    blank = Line2D([], [], linestyle="none", label=" ")
    rows = [half[start : start + columns] for half in (upper, lower) for start in range(0, len(half), columns)]
    rows = [row + [blank] * (columns - len(row)) for row in rows]
    handles = [handle for column in zip(*rows, strict=True) for handle in column]  # legends fill columns first
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.2, columnspacing=0.8)
