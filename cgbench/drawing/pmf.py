"""PMFs as pictures: a map of two collective variables with labelled contours, or a curve of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import Reference
from cgbench.drawing.style import COLOURS, new_figure, save_figure, theme, write_picture

__all__ = [
    "CUT",
    "colour_bar",
    "draw_bins",
    "draw_contours",
    "draw_map",
    "draw_pmf",
    "draw_reference",
    "label_axes",
    "padded",
    "shown",
]

Array = NDArray[np.float64]
CUT = 15.0  # kT: PMFs are cut here
LEVELS = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0)  # kT, of contours
COLOUR_MAP = "viridis"
ROOM = 0.09  # of the width of a map: least distance between labels of contours
SHORTEST_LABELLED = 0.25  # of the width of a map: pieces of contours with a label
NAMES = {"phi": r"$\phi$", "psi": r"$\psi$"}


@theme()
def draw_pmf(path: Path, pmf: PMF | Sequence[PMF], title: str, reference: PMF | Sequence[PMF] | None = None) -> None:
    """Draw PMFs to a file, side by side; of a map of three collective variables the first two, the third summed out.

    Parameters
    ----------
    pmf
        A PMF, or those of several maps.
    reference
        Drawn beside PMFs of one collective variable; as many as there are PMFs, or none.
    """
    pmfs = (pmf,) if isinstance(pmf, PMF) else tuple(pmf)
    true = (reference,) if isinstance(reference, PMF) else tuple(reference or ())
    figure = new_figure(4.1, 5.0 * len(pmfs))
    panels = figure.subplots(1, len(pmfs), squeeze=False)[0]
    for number, (axes, one) in enumerate(zip(panels, pmfs, strict=True)):
        if len(one.cvs) == 1:
            _draw_curve(axes, one, true[number] if true else None)
        else:
            _draw_whole_map(axes, one)
    if len(pmfs) == 1:
        panels[0].set_title(title)
    else:
        figure.suptitle(title)
    save_figure(figure, path)


@theme()
def draw_reference(path: Path, name: str, reference: Reference) -> None:
    """Draw a reference PMF and, where it has errors, the standard error of each bin's free energy.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    maps = reference.maps
    with_errors = any(one.standard_error is not None and len(one.pmf.cvs) == 2 for one in maps)
    figure = new_figure(4.1 * len(maps), 9.4 if with_errors else 5.0)
    rows = figure.subplots(len(maps), 2 if with_errors else 1, squeeze=False)
    for panels, one in zip(rows, maps, strict=True):
        if len(one.pmf.cvs) == 1:
            _draw_curve(panels[0], one.pmf, None, "reference")
        else:
            _draw_whole_map(panels[0], one.pmf)
        if one.standard_error is not None and len(one.pmf.cvs) == 2:
            relative = one.standard_error / np.maximum(one.pmf.probability, 1e-300)
            image = draw_bins(panels[1], one.pmf.cvs, relative, vmin=0.0, vmax=float(np.quantile(relative, 0.99)))
            label_axes(panels[1], one.pmf.cvs, left=False)
            panels[1].set_title("standard error of the free energy")
            colour_bar(panels[1], image, "standard error (kT)")
        elif with_errors:
            panels[1].set_axis_off()
    rows[0][0].set_title(f"{name}: reference PMF")
    write_picture(figure, path)


def draw_map(
    axes: Any, cvs: CollectiveVariables, energy: Array, levels: Sequence[float] = LEVELS, size: float = 6.0
) -> Any:
    """Draw a PMF of two collective variables: colours up to the cut, and contours with their value in kT.

    Parameters
    ----------
    energy
        Free energy of each bin in kT, ``cvs.bins``; its minimum becomes zero.
    levels
        Contours in kT.
    size
        Font size of the contours' labels.

    Returns
    -------
    matplotlib.image.AxesImage
        For a colour bar.
    """
    cut = np.minimum(energy - energy.min(), CUT)
    image = draw_bins(axes, cvs, cut, vmin=0.0, vmax=CUT)
    draw_contours(axes, cvs, cut, levels, size=size)
    return image


def draw_bins(axes: Any, cvs: CollectiveVariables, values: Array, **options: Any) -> Any:
    """Draw a value for each bin, the first collective variable to the right, the second upwards."""
    (left, right), (bottom, top) = (shown(cvs, [cvs.lower[axis], cvs.upper[axis]]) for axis in (0, 1))
    image = axes.imshow(
        values.T,
        origin="lower",
        extent=(left, right, bottom, top),
        interpolation="none",
        aspect="auto",
        **{"cmap": COLOUR_MAP} | options,
    )
    axes.set_box_aspect(1)
    return image


def draw_contours(
    axes: Any,
    cvs: CollectiveVariables,
    values: Array,
    levels: Sequence[float],
    *,
    size: float = 6.0,
    labels: bool = True,
) -> None:
    """Draw contours, with their values; along periodic variables they continue over the edges."""
    from matplotlib.patheffects import withStroke

    within = [level for level in levels if values.min() < level < values.max()]
    if not within:
        return
    x, y, z = padded(cvs, values)
    lines = axes.contour(x, y, z.T, levels=within, colors="white", linewidths=0.6)
    lines.set(path_effects=[withStroke(linewidth=1.4, foreground=COLOURS["black"])])
    if not labels:
        return
    places = _places_of_labels(lines, *(shown(cvs, [cvs.lower[axis], cvs.upper[axis]]) for axis in (0, 1)))
    for text in axes.clabel(lines, fmt="%g", fontsize=size, inline_spacing=2, manual=places) if places else ():
        text.set(path_effects=[withStroke(linewidth=1.5, foreground=COLOURS["black"])])


def _places_of_labels(lines: Any, *bounds: Array) -> list[tuple[float, float]]:
    """Choose one place on each piece of a contour, far from the edges and from the labels before it.

    Pieces that are short, or have no place with enough room, get no label.
    """
    low, high = (np.array([bound[end] for bound in bounds]) for end in (0, 1))
    places: list[Array] = []
    pieces = [piece for path in lines.get_paths() for piece in path.to_polygons(closed_only=False)]
    for piece in sorted(pieces, key=len, reverse=True):
        relative = (piece - low) / (high - low)
        if np.linalg.norm(np.diff(relative, axis=0), axis=1).sum() < SHORTEST_LABELLED:
            continue
        room = np.minimum(relative, 1 - relative).min(axis=1) + 0.5 * ROOM
        for place in places:
            room = np.minimum(room, np.linalg.norm(relative - place, axis=1))
        if room.max() >= ROOM:
            places.append(relative[int(np.argmax(np.minimum(room, 2 * ROOM)))])
    return [(float(x), float(y)) for x, y in low + places * (high - low)] if places else []


def colour_bar(axes: Any, image: Any, label: str = f"PMF (kT), cut at {CUT:.0f}", extend: str = "max") -> None:
    """Draw a colour bar to the right of a map, as high as the map; by default that of a PMF."""
    place = axes.inset_axes((1.04, 0.0, 0.045, 1.0))
    axes.figure.colorbar(image, cax=place, label=label, extend=extend)


def padded(cvs: CollectiveVariables, values: Array) -> tuple[Array, Array, Array]:
    """Bin centres of two collective variables and values, as shown; periodic ones with a bin more at either edge."""
    centers = []
    for axis in (0, 1):
        c = cvs.centers(axis)
        if cvs.periodic[axis]:
            period = cvs.upper[axis] - cvs.lower[axis]
            c = np.concatenate([[c[-1] - period], c, [c[0] + period]])
        centers.append(shown(cvs, c))
    return centers[0], centers[1], np.pad(values, [(int(p), int(p)) for p in cvs.periodic[:2]], mode="wrap")


def shown(cvs: CollectiveVariables, values: Any) -> Array:
    """Return values of collective variables as pictures show them: angles in degrees."""
    return np.degrees(values) if cvs.unit == "rad" else np.asarray(values, dtype=np.float64)


def label_axes(axes: Any, cvs: CollectiveVariables, left: bool = True, bottom: bool = True) -> None:
    """Set ticks, and names with units where wanted, of a map of two collective variables."""
    for axis, place, wanted in ((0, axes.xaxis, bottom), (1, axes.yaxis, left)):
        low, high = (float(value) for value in shown(cvs, [cvs.lower[axis], cvs.upper[axis]]))
        if cvs.unit == "rad" and cvs.periodic[axis]:
            place.set_ticks(np.linspace(low, high, 5))
        (axes.set_xlim if axis == 0 else axes.set_ylim)(low, high)
        if wanted:
            place.set_label_text(_label(cvs, axis))
        else:
            place.set_tick_params(**{"labelbottom" if axis == 0 else "labelleft": False})


def _label(cvs: CollectiveVariables, axis: int) -> str:
    name = NAMES.get(cvs.names[axis], cvs.names[axis])
    unit = "degrees" if cvs.unit == "rad" else cvs.unit
    return f"{name} ({unit})" if unit else name


def _draw_curve(axes: Any, pmf: PMF, reference: PMF | None, label: str = "estimate") -> None:
    import seaborn

    s = shown(pmf.cvs, pmf.centers(0))
    if reference is not None:
        seaborn.lineplot(
            x=s, y=reference.free_energy, ax=axes, color=COLOURS["black"], label="reference", errorbar=None
        )
    seaborn.lineplot(x=s, y=pmf.free_energy, ax=axes, color=COLOURS["blue"], linestyle="--", label=label, errorbar=None)
    if pmf.free_energy_std is not None:
        low, high = pmf.free_energy - pmf.free_energy_std, pmf.free_energy + pmf.free_energy_std
        axes.fill_between(s, low, high, color=COLOURS["blue"], alpha=0.25, linewidth=0, label="one standard error")
    axes.set_xlabel(_label(pmf.cvs, 0))
    axes.set_ylabel("PMF (kT)")
    axes.legend()


def _draw_whole_map(axes: Any, pmf: PMF) -> None:
    others = tuple(range(2, len(pmf.cvs)))
    with np.errstate(divide="ignore"):
        energy = -np.log(pmf.probability.sum(axis=others))
    image = draw_map(axes, pmf.cvs, energy, size=7.0)
    label_axes(axes, pmf.cvs)
    colour_bar(axes, image)
