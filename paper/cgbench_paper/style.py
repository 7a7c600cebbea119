"""A figure with its caption, legends of methods, and files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cgbench.drawing.style import COLOURS, line_of_preset, method_looks, write_picture

__all__ = ["SYSTEMS", "Drawing", "label_panels", "legend_of_methods", "save"]

SYSTEMS = {"aldp": "alanine dipeptide", "muller_brown": "Müller-Brown potential"}
DPI = 220


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
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.4}
    upper = [Line2D([], [], color=looks[n].colour, marker=looks[n].marker, label=n, **edge) for n in names]
    presets = sorted({preset for _, preset in shown} - {""})
    lower = [Line2D([], [], color=COLOURS["black"], linestyle=line_of_preset(p), label=f"preset {p}") for p in presets]
    columns = max(len(upper), len(lower))
    blank = Line2D([], [], linestyle="none", label=" ")
    rows = [row + [blank] * (columns - len(row)) for row in (upper, lower)]
    handles = [handle for column in zip(*rows, strict=True) for handle in column]  # legends fill columns first
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.4, columnspacing=1.2)


def label_panels(panels: Iterable[Any]) -> None:
    """Write (a), (b), ... above the upper left corners of panels."""
    for letter, axes in zip("abcdefghijklmnopqrstuvwxyz", panels, strict=False):
        axes.annotate(
            f"({letter})",
            (0, 1),
            xycoords="axes fraction",
            xytext=(-2, 4),
            textcoords="offset points",
            fontweight="bold",
            ha="right",
            va="bottom",
        )
