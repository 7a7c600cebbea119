"""Fig. 1: scheme of active learning with a conditional flow."""

from __future__ import annotations

from typing import Any

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from cgbench.drawing.style import COLOURS, new_figure
from cgbench_paper.records import Records
from cgbench_paper.style import Drawing

__all__ = ["draw"]

CAPTION = """\
**Active learning with a conditional flow.** (a) A flow maps latent noise z to fine-grained coordinates y at given
collective variables s. The potential then gives each configuration an importance weight; the mean weight over z
is the exponential of minus the PMF. (b) The loop. Walkers on the model PMF stop where its standard deviation
exceeds a threshold. The flow is trained by energy around these points, its weighted samples give values of the
PMF, and the model is refitted to all of them. The loop ends when no walker finds an uncertain point. Every energy
evaluation is counted, and the reference is never used. Scheme without data."""

Box = tuple[float, float, float, float]


def draw(records: Records) -> Drawing:
    """Draw the flow on the left and the loop on the right."""
    figure = new_figure(2.9)
    axes = figure.add_subplot()
    axes.set_xlim(0, 27)
    axes.set_ylim(0, 11.6)
    axes.set_aspect("equal")
    axes.axis("off")
    _draw_flow(axes)
    _draw_loop(axes)
    return Drawing(figure, CAPTION)


def _box(axes: Any, box: Box, text: str, colour: str) -> None:
    x, y, width, height = box
    patch = FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.3",
        facecolor=f"{colour}33",
        edgecolor=colour,
        linewidth=1,
    )
    axes.add_patch(patch)
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=7, linespacing=1.35)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=8,
            linewidth=1,
            color="0.25",
            shrinkA=0,
            shrinkB=0,
            connectionstyle=f"arc3,rad={bend}",
        )
    )


def _draw_flow(axes: Any) -> None:
    grey, blue, green, orange = COLOURS["grey"], COLOURS["blue"], COLOURS["green"], COLOURS["orange"]
    axes.text(0, 11.0, "(a)", fontsize=9, fontweight="bold", va="center")
    _box(axes, (0.2, 6.6, 2.4, 2.0), "noise\n$z$", grey)
    _box(axes, (0.2, 2.6, 2.4, 2.0), "CVs\n$s$", grey)
    _box(axes, (4.0, 5.6, 3.4, 4.0), "conditional\nflow\n$y = f(z;\\ s)$", blue)
    _box(axes, (8.8, 6.6, 3.2, 2.0), "configuration\n$x(s, y)$", grey)
    _box(axes, (8.8, 3.2, 3.2, 2.0), "counted\nenergy $u(x)$", orange)
    _box(
        axes,
        (1.2, 0.1, 10.8, 1.7),
        r"$w = e^{-u(x)}\ |\partial x / \partial (s,y)|\ /\ q(y \mid s)$,   $A(s) = -\ln\,\langle w \rangle_z$",
        green,
    )
    _arrow(axes, (2.6, 7.6), (4.0, 7.6))
    _arrow(axes, (2.6, 4.2), (4.0, 6.2))
    _arrow(axes, (7.4, 7.6), (8.8, 7.6))
    _arrow(axes, (10.4, 6.6), (10.4, 5.2))
    _arrow(axes, (10.4, 3.2), (10.4, 1.8))
    _arrow(axes, (8.8, 4.2), (6.4, 5.6), -0.2)
    axes.text(7.0, 3.9, "gradient", fontsize=6.5, ha="center", color="0.25")


def _draw_loop(axes: Any) -> None:
    blue, green, purple, vermilion = (COLOURS[name] for name in ("blue", "green", "purple", "vermilion"))
    axes.text(13.2, 11.0, "(b)", fontsize=9, fontweight="bold", va="center")
    _box(axes, (14.2, 7.3, 4.6, 2.3), "train by energy\nat the new points", blue)
    _box(axes, (22.0, 7.3, 4.8, 2.3), "weights and their\nslopes give $A(s)$", green)
    _box(axes, (22.0, 2.6, 4.8, 2.3), "fit the PMF and its\nuncertainty $\\sigma(s)$", purple)
    _box(axes, (14.2, 2.6, 4.6, 2.3), "walk until\n$\\sigma(s)$ > threshold", vermilion)
    _arrow(axes, (18.8, 8.45), (22.0, 8.45))
    _arrow(axes, (24.4, 7.3), (24.4, 4.9))
    _arrow(axes, (22.0, 3.75), (18.8, 3.75))
    _arrow(axes, (16.5, 4.9), (16.5, 7.3))
    axes.text(16.8, 6.1, "new points", fontsize=6.5, va="center", color="0.25")
    _arrow(axes, (16.5, 2.6), (16.5, 1.5))
    axes.text(16.5, 0.9, "no uncertain point found: PMF", fontsize=6.5, ha="center", va="center", color="0.25")
    _arrow(axes, (16.5, 10.6), (16.5, 9.6))
    axes.text(16.5, 11.0, "start: one minimum", fontsize=6.5, ha="center", va="center", color="0.25")
