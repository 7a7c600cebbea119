"""The theme, the colours and the files of all pictures."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cgbench.errors import UserError
from cgbench.storage.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "WIDTH",
    "Look",
    "line_of_preset",
    "method_looks",
    "new_figure",
    "save_figure",
    "theme",
    "write_picture",
]

WIDTH = 6.75  # inches: two columns of a journal
# seaborn's "colorblind" palette, by name, and the colour of text
COLOURS = {
    "blue": "#0173b2",
    "orange": "#de8f05",
    "green": "#029e73",
    "vermilion": "#d55e00",
    "purple": "#cc78bc",
    "brown": "#ca9161",
    "pink": "#fbafe4",
    "grey": "#949494",
    "yellow": "#ece133",
    "sky": "#56b4e9",
    "black": "#262626",
}


class Look(NamedTuple):
    """Colour and marker of a method."""

    colour: str
    marker: str


METHODS = {
    "md": Look(COLOURS["black"], "o"),
    "cgflow_al": Look(COLOURS["blue"], "s"),
    "cgflow_grid": Look(COLOURS["sky"], "D"),
    "umbrella": Look(COLOURS["green"], "^"),
    "metadynamics": Look(COLOURS["vermilion"], "v"),
    "flow_ais_bootstrap": Look(COLOURS["purple"], "P"),
}
# five colours and seven markers: 35 methods look different
SPARE_COLOURS = [COLOURS[name] for name in ("orange", "brown", "grey", "pink", "yellow")]
SPARE_MARKERS = ["X", "*", "h", "<", ">", "d", "p"]
PRESET_LINES = {"default": "-", "paper": "--", "long": "-."}
OTHER_PRESET = ":"

SIZES = {
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "legend.fontsize": 7.0,
    "legend.title_fontsize": 7.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.0,
    "patch.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.8,
    "ytick.minor.size": 1.8,
}


def settings() -> dict[str, Any]:
    """Return the rcParams of the theme: seaborn's style "ticks" at the sizes of a journal."""
    import seaborn

    return {
        **seaborn.axes_style("ticks"),
        **seaborn.plotting_context("paper", rc=SIZES),
        "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same letters everywhere
        "mathtext.fontset": "dejavusans",
        "legend.frameon": False,
        "image.cmap": "viridis",
        "pdf.fonttype": 42,
        "svg.hashsalt": "cgbench",
    }


@contextmanager
def theme() -> Iterator[None]:
    """Draw and save with the theme; afterwards the settings are what they were.

    Starts from matplotlib's own defaults, so nothing depends on the user's matplotlibrc. Also a decorator.
    """
    from matplotlib import style

    with style.context(["default", settings()]):
        yield


def method_looks(methods: Iterable[str]) -> dict[str, Look]:
    """Return the look of each method; unknown ones take the spare colours and markers in alphabetical order."""
    names = sorted(set(methods))
    others = [name for name in names if name not in METHODS]
    spare = {
        name: Look(SPARE_COLOURS[number % len(SPARE_COLOURS)], SPARE_MARKERS[number % len(SPARE_MARKERS)])
        for number, name in enumerate(others)
    }
    return {name: METHODS.get(name) or spare[name] for name in names}


def line_of_preset(preset: str) -> str:
    """Return the line style of a preset."""
    return PRESET_LINES.get(preset, OTHER_PRESET)


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure of this size in inches whose layout keeps labels apart; needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure atomically as .png, .pdf or .svg; its bytes depend on the drawing alone."""
    metadata: dict[str, dict[str, None]] = {
        ".png": {"Software": None},
        ".pdf": dict.fromkeys(("CreationDate", "ModDate", "Creator", "Producer")),
        ".svg": {"Date": None, "Creator": None},
    }
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=dpi, metadata=metadata.get(path.suffix))
    write_atomically(path, buffer.getvalue())


def write_picture(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure to a path that a user has named.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    try:
        save_figure(figure, path, dpi)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
