"""What all figures share: sizes, colours, axes of maps, and files without time stamps."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.errors import UserError
from cgbench.storage.files import write_atomically

__all__ = [
    "CUT",
    "METHOD_STYLES",
    "OKABE_ITO",
    "PRESET_LINES",
    "RC",
    "Drawing",
    "draw_map",
    "extent",
    "label_torus",
    "method_style",
    "new_figure",
    "periodic_padding",
    "save",
]

Array = NDArray[np.float64]
WIDTH = 6.75  # inches: two columns
CUT = 15.0  # kT: PMFs are cut here
OKABE_ITO = {
    "black": "#000000",
    "orange": "#e69f00",
    "sky": "#56b4e9",
    "green": "#009e73",
    "yellow": "#f0e442",
    "blue": "#0072b2",
    "vermilion": "#d55e00",
    "purple": "#cc79a7",
}
# colour and marker of each method; others take what is left in alphabetical order
METHOD_STYLES = {
    "md": (OKABE_ITO["black"], "o"),
    "cgflow_al": (OKABE_ITO["blue"], "s"),
    "cgflow_grid": (OKABE_ITO["sky"], "D"),
    "umbrella": (OKABE_ITO["green"], "^"),
    "metadynamics": (OKABE_ITO["vermilion"], "v"),
    "flow_ais_bootstrap": (OKABE_ITO["purple"], "P"),
}
SPARE = [(OKABE_ITO["orange"], "X"), (OKABE_ITO["yellow"], "*"), ("#7f7f7f", "h")]
PRESET_LINES = {"default": "-", "paper": "--", "long": "-."}
RC: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "image.cmap": "viridis",
    "pdf.fonttype": 42,
    "svg.hashsalt": "cgbench",
    "mathtext.fontset": "dejavusans",
}


@dataclass(frozen=True)
class Drawing:
    """A figure and its caption.

    Attributes
    ----------
    figure
        The figure.
    caption
        What it shows, in Markdown; the data's provenance is part of it.
    """

    figure: Figure
    caption: str


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure of this size in inches, laid out so that nothing overlaps."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write ``<path>.pdf`` and ``<path>.png``; the bytes depend on the drawing alone.

    Raises
    ------
    UserError
        If a file cannot be written.
    """
    for suffix, metadata in (
        (".pdf", {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None}),
        (".png", {"Software": None}),
    ):
        buffer = io.BytesIO()
        with rc_context(RC):
            figure.savefig(buffer, format=suffix[1:], dpi=220, metadata=metadata)
        target = path.with_name(path.name + suffix)
        try:
            write_atomically(target, buffer.getvalue())
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror}") from error


def method_style(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a method among those of a figure."""
    if method in METHOD_STYLES:
        return METHOD_STYLES[method]
    others = sorted(set(methods) - set(METHOD_STYLES))
    return SPARE[others.index(method) % len(SPARE)]


def extent(cvs: CollectiveVariables) -> tuple[float, float, float, float]:
    """Bounds of the first two CVs, in degrees where they are angles."""
    scale = 180.0 / np.pi if cvs.unit == "rad" else 1.0
    return (cvs.lower[0] * scale, cvs.upper[0] * scale, cvs.lower[1] * scale, cvs.upper[1] * scale)


def draw_map(axes: Any, cvs: CollectiveVariables, values: Array, **options: Any) -> Any:
    """Draw values over two CVs, first CV to the right and second upwards; one rectangle for each bin."""
    return axes.imshow(values.T, origin="lower", extent=extent(cvs), interpolation="none", aspect="auto", **options)


def label_torus(axes: Any, left: bool = True, bottom: bool = True) -> None:
    """Ticks and labels of a map over phi and psi."""
    ticks = [-180, -90, 0, 90, 180]
    axes.set_xticks(ticks, [str(tick) for tick in ticks] if bottom else [])
    axes.set_yticks(ticks, [str(tick) for tick in ticks] if left else [])
    axes.set_xlim(-180, 180)
    axes.set_ylim(-180, 180)
    axes.set_box_aspect(1)
    if bottom:
        axes.set_xlabel(r"$\phi$ (degrees)")
    if left:
        axes.set_ylabel(r"$\psi$ (degrees)", labelpad=-3)


def periodic_padding(cvs: CollectiveVariables, values: Array) -> tuple[Array, Array, Array]:
    """Bin centres in degrees and values with the opposite edge repeated, so that contours have no seam."""
    degrees = [np.degrees(cvs.centers(axis)) for axis in (0, 1)]
    widened = [np.concatenate([[c[-1] - 360.0], c, [c[0] + 360.0]]) for c in degrees]
    return widened[0], widened[1], np.pad(values, 1, mode="wrap")
