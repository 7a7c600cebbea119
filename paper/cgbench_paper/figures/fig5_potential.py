"""Fig. 5: the Müller-Brown potential and its collective variable."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cgbench.contracts.system import System
from cgbench.drawing.pmf import COLOUR_MAP
from cgbench.drawing.style import COLOURS, new_figure
from cgbench_paper.records import Records
from cgbench_paper.style import Drawing

__all__ = ["draw", "potential"]

HIGHEST = 20.0  # kT above the minimum
X, Y = (-1.5, 1.75), (-0.6, 2.35)
AXIS, FAR_SIDE = 1.95, -0.9  # x + y on the drawn axis of s, outside the basins, and at the ends of its grid lines
CAPTION = """\
**The Müller-Brown potential and its collective variable.** (a) Energy in kT above the deepest minimum (beta = 0.1),
contours every 2 kT, cut at {cut:.0f} kT. Arrow: axis of the collective variable s = x \N{MINUS SIGN} y; dashed lines:
constant s. (b) Exact PMF along s, by quadrature. Computed from the potential; no run is shown."""


def potential(system: System, points: int = 241) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y, and the energy in kT above the minimum ``[x, y]``."""
    x, y = np.linspace(*X, points), np.linspace(*Y, points)
    plane = torch.from_numpy(np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2))
    energy = system.reduced_energy(torch.cat([plane, system.initial_configuration()[None]])).numpy()
    return x, y, (energy[:-1] - energy[-1]).reshape(points, points)


def draw(records: Records) -> Drawing:
    """Draw the potential with the axis, and the PMF beside it."""
    system = records.system("muller_brown")
    figure = new_figure(2.9)
    axes, beside = figure.subplots(1, 2, width_ratios=[1.15, 1.0])
    x, y, energy = potential(system)
    levels = np.arange(0, HIGHEST + 1, 2)
    filled = axes.contourf(x, y, np.minimum(energy, HIGHEST).T, levels=levels, cmap=COLOUR_MAP, extend="max")
    axes.contour(x, y, energy.T, levels=levels, colors="white", linewidths=0.3)
    figure.colorbar(filled, ax=axes, label=f"energy (kT), cut at {HIGHEST:.0f}")
    _draw_axis(axes, system.cvs.lower[0], system.cvs.upper[0])
    axes.set_aspect("equal")
    axes.set(xlim=X, ylim=Y, xlabel="x", ylabel="y")
    pmf = records.reference("muller_brown").pmf
    beside.plot(pmf.centers(0), pmf.free_energy, color=COLOURS["black"], gid="pmf")
    beside.set_xlim(system.cvs.lower[0], system.cvs.upper[0])
    beside.set_ylim(bottom=0)
    beside.set(xlabel="s = x \N{MINUS SIGN} y", ylabel="PMF (kT)")
    for panel, letter in ((axes, "(a)"), (beside, "(b)")):
        panel.set_title(letter, loc="left")
    return Drawing(figure, CAPTION.format(cut=HIGHEST))


def _draw_axis(axes: Any, low: float, high: float) -> None:
    """Draw the axis of s, which runs along (1, -1) / 2 for each unit of s."""

    def place(s: float, other: float = AXIS) -> tuple[float, float]:
        return 0.5 * (other + s), 0.5 * (other - s)

    for s in (-2.0, -1.0, 0.0, 1.0):
        start = place(s)
        axes.plot(*zip(start, place(s, FAR_SIDE), strict=True), "--", color="black", linewidth=0.6)
        axes.plot(*start, "o", color="black", markersize=2.5)
        axes.annotate(
            f"{s:g}".replace("-", "\N{MINUS SIGN}"), start, xytext=(3, 2), textcoords="offset points", fontsize=7
        )
    arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=place(high + 0.2), xytext=place(low), arrowprops=arrow)
    axes.annotate("s = x \N{MINUS SIGN} y", place(-0.5), xytext=(4, 4), textcoords="offset points", rotation=-45)
