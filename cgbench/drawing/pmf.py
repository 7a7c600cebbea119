"""The picture that a person looks at first: the PMF of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import Reference
from cgbench.drawing.style import save_figure
from cgbench.errors import UserError

__all__ = [
    "draw_pmf",
    "draw_reference",
]

CUT = 15.0  # kT


def draw_pmf(path: Path, pmf: PMF, title: str, reference: PMF | None = None) -> None:
    """Draw a PMF of one or two collective variables; of more, the first two with the others summed out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if len(pmf.cvs) == 1:
        _draw_line(axes, pmf, reference)
    else:
        _draw_map(figure, axes, pmf)
    axes.set_title(title, fontsize=10)
    save_figure(figure, path)


def draw_reference(path: Path, name: str, reference: Reference) -> None:
    """Draw a reference PMF and, where it has errors, the standard error of each bin's free energy.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pmf = reference.pmf
    errors = reference.standard_error if len(pmf.cvs) == 2 else None
    figure = Figure(figsize=(6.0 if errors is None else 11.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 1 if errors is None else 2, squeeze=False)[0]
    if len(pmf.cvs) == 1:
        _draw_line(panels[0], pmf, None, "reference")
    else:
        _draw_map(figure, panels[0], pmf)
    panels[0].set_title(f"{name}: reference PMF", fontsize=10)
    if errors is not None:
        scale = 180.0 / np.pi if pmf.cvs.unit == "rad" else 1.0
        extent = [v * scale for axis in (0, 1) for v in (pmf.cvs.lower[axis], pmf.cvs.upper[axis])]
        relative = errors / np.maximum(pmf.probability, 1e-300)
        limit = float(np.quantile(relative, 0.99))
        image = panels[1].imshow(
            relative.T, origin="lower", extent=extent, cmap="viridis", vmin=0.0, vmax=limit, aspect="equal"
        )
        panels[1].set_title("standard error of the free energy", fontsize=10)
        panels[1].set_xlabel(_label(pmf, 0))
        figure.colorbar(image, ax=panels[1], label="kT", extend="max")
    try:
        save_figure(figure, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _label(pmf: PMF, axis: int) -> str:
    name = pmf.cvs.names[axis]
    greek = {"phi": r"$\phi$", "psi": r"$\psi$"}.get(name, name)
    return f"{greek} (degrees)" if pmf.cvs.unit == "rad" else f"{greek} {pmf.cvs.unit}".strip()


def _draw_line(axes: Any, pmf: PMF, reference: PMF | None, label: str = "estimate") -> None:
    scale = 180.0 / np.pi if pmf.cvs.unit == "rad" else 1.0
    s = pmf.centers(0) * scale
    if reference is not None:
        axes.plot(s, reference.free_energy, color="black", linewidth=1.0, label="reference")
    axes.plot(s, pmf.free_energy, color="#0072b2", linewidth=1.8, linestyle="--", label=label)
    if pmf.free_energy_std is not None:
        low, high = pmf.free_energy - pmf.free_energy_std, pmf.free_energy + pmf.free_energy_std
        axes.fill_between(s, low, high, color="#0072b2", alpha=0.25, linewidth=0, label="one standard error")
    axes.set_xlabel(_label(pmf, 0))
    axes.set_ylabel("PMF (kT)")
    axes.legend(frameon=False)


def _draw_map(figure: Any, axes: Any, pmf: PMF) -> None:
    others = tuple(range(2, len(pmf.cvs)))
    with np.errstate(divide="ignore"):
        energy = -np.log(pmf.probability.sum(axis=others))
    energy -= energy.min()
    scale = 180.0 / np.pi if pmf.cvs.unit == "rad" else 1.0
    extent = [v * scale for axis in (0, 1) for v in (pmf.cvs.lower[axis], pmf.cvs.upper[axis])]
    image = axes.imshow(
        np.minimum(energy, CUT).T, origin="lower", extent=extent, cmap="viridis", vmin=0.0, vmax=CUT, aspect="equal"
    )
    if pmf.cvs.unit == "rad":
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks([-180, -90, 0, 90, 180])
    axes.set_xlabel(_label(pmf, 0))
    axes.set_ylabel(_label(pmf, 1))
    figure.colorbar(image, ax=axes, label=f"PMF (kT), cut at {CUT:.0f}", extend="max")
