"""One stage of active learning on the Müller-Brown potential: configurations above, PMF below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from cgbench.contracts.system import System
from cgbench.drawing.pmf import COLOUR_MAP
from cgbench.drawing.style import COLOURS
from cgbench.results.runs import FoundRun
from cgbench_paper.figures.stages import Stage, stages_of
from cgbench_paper.records import Records, arrays_of

__all__ = [
    "ENERGIES",
    "PANELS",
    "aligned",
    "draw_configurations",
    "draw_pmf",
    "energies",
    "panel_text",
    "run_with_stages",
]

Array = NDArray[np.float64]
ENERGY_CUT = 15.0  # kT above the minimum
ENERGIES = ScalarMappable(Normalize(0.0, ENERGY_CUT), COLOUR_MAP)
CV_LABEL = "s = x \N{MINUS SIGN} y"
OTHER = (-0.7, 2.3)  # x + y shown
PMF_SHOWN = (-2.0, 15.0)  # kT
PANELS = """\
Top: configurations drawn from the flow, four for each bin of s = x \N{MINUS SIGN} y, coloured by their energy above
the minimum (cut at {cut:g} kT); configurations outside the frame are not shown. Grey: contours of the potential every
3 kT. Bottom: the model PMF with a band of one standard deviation, the exact PMF, the points chosen at this stage
(circles), and along the axis the points chosen earlier (orange) and those of the starting trajectory (black). The
additive constant of the model PMF is the least-squares fit to the exact PMF, weighted by its probability, where the
standard deviation is below the threshold of {threshold:g} kT."""


def panel_text(stages: Sequence[Stage]) -> str:
    """Return the part of the caption that describes the panels."""
    return PANELS.format(cut=ENERGY_CUT, threshold=stages[0].threshold)


def run_with_stages(records: Records) -> tuple[FoundRun, list[Stage]]:
    """Return the run of lowest seed that stores configurations of its stages, preset "paper" first, and its stages."""
    run = records.first_with("muller_brown", "cgflow_al", "stage_configurations", ("paper", "default"))
    return run, [stage for stage in stages_of(run) if len(stage.configurations)]


def energies(system: System, stage: Stage) -> tuple[Array, Array, Array]:
    """Return s, x + y and reduced energy above the minimum of the stage's configurations."""
    x = torch.from_numpy(stage.configurations)
    energy = system.reduced_energy(x) - system.reduced_energy(system.initial_configuration()[None])
    s = system.collective_variables(x)[:, 0]
    return s.numpy(), x.sum(1).numpy(), energy.detach().numpy()


def aligned(stage: Stage, reference: Array, probability: Array) -> Array:
    """Return the stage's PMF, shifted to the reference where the standard deviation is below the threshold."""
    weight = probability * (stage.std < stage.threshold)
    if weight.sum() == 0:
        weight = probability
    return np.asarray(stage.free_energy + (weight * (reference - stage.free_energy)).sum() / weight.sum())


def draw_configurations(axes: Any, system: System, stage: Stage) -> None:
    """Draw the configurations of a stage, coloured by energy, over contours of the potential."""
    low, high = system.cvs.lower[0], system.cvs.upper[0]
    s, other = np.linspace(low, high, 181), np.linspace(*OTHER, 151)
    plane = np.stack(np.meshgrid(s, other, indexing="ij"), axis=-1).reshape(-1, 2)
    x = torch.from_numpy(np.stack([0.5 * (plane[:, 1] + plane[:, 0]), 0.5 * (plane[:, 1] - plane[:, 0])], axis=1))
    energy = system.reduced_energy(torch.cat([x, system.initial_configuration()[None]])).numpy()
    height = (energy[:-1] - energy[-1]).reshape(len(s), len(other))
    axes.contour(s, other, height.T, levels=np.arange(1.5, ENERGY_CUT + 1, 3.0), colors="0.65", linewidths=0.5)
    at, across, above = energies(system, stage)
    seaborn.scatterplot(
        x=at,
        y=across,
        hue=above,
        hue_norm=ENERGIES.norm,
        palette=ENERGIES.get_cmap(),
        s=4,
        linewidth=0,
        legend=False,
        ax=axes,
        gid="configurations",
    )
    axes.set_xlim(low, high)
    axes.set_ylim(*OTHER)
    axes.set(xlabel=CV_LABEL, ylabel="x + y")


def draw_pmf(axes: Any, records: Records, stage: Stage, earlier: Sequence[Stage], run: FoundRun) -> None:
    """Draw the model PMF of a stage with its standard deviation, the exact PMF, and the points."""
    reference = records.reference("muller_brown").pmf
    s = reference.centers(0)
    mean = aligned(stage, reference.free_energy, reference.probability)
    axes.fill_between(s, mean - stage.std, mean + stage.std, color=COLOURS["sky"], alpha=0.5, linewidth=0)
    axes.plot(s, reference.free_energy, color=COLOURS["black"], linewidth=0.9, label="exact")
    axes.plot(
        s, mean, "--", color=COLOURS["blue"], label="model \N{PLUS-MINUS SIGN} one standard deviation", gid="model"
    )
    seeds = arrays_of(run).get("seed_points", np.zeros((0, 1)))[:, 0]
    before = np.concatenate([np.zeros(0), *(e.points[:, 0] for e in earlier)])
    for points, colour, width, name in ((seeds, "black", 0.4, "start"), (before, "vermilion", 1.2, "before")):
        if len(points):
            seaborn.rugplot(x=points, height=0.06, color=COLOURS[colour], linewidth=width, ax=axes, gid=name)
    axes.plot(
        stage.points[:, 0],
        np.clip(np.interp(stage.points[:, 0], s, mean), *PMF_SHOWN),
        "o",
        color=COLOURS["vermilion"],
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.5,
        label="points chosen",
        gid="new",
    )
    axes.set_xlim(reference.cvs.lower[0], reference.cvs.upper[0])
    axes.set_ylim(*PMF_SHOWN)
    axes.set(xlabel=CV_LABEL, ylabel="PMF (kT)")
