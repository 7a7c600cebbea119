"""One stage of active learning on the Müller-Brown potential: backmapped energies above, PMF below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.system import System
from cgbench.results.runs import FoundRun
from cgbench_paper.figures.stages import Stage, stages_of
from cgbench_paper.records import Records, arrays_of
from cgbench_paper.style import OKABE_ITO

__all__ = ["ENERGY_CUT", "PANELS", "aligned", "backmapped", "draw_backmapped", "draw_pmf", "run_with_stages"]

Array = NDArray[np.float64]
ENERGY_CUT = 15.0  # kT above the minimum
OTHER = (-0.7, 2.3)  # x + y shown
PMF_SHOWN = (-2.0, 15.0)  # kT
PANELS = """\
Above: four configurations at each bin of s that the flow maps back at this stage, in the plane of s = x - y and
x + y, coloured by their energy above the minimum; those outside the frame are not shown, and energies are cut
at {cut:.0f} kT. Grey contours: the potential every 3 kT. Below: the model PMF with its spread (one standard
deviation), the exact PMF, the points that were added before (ticks; black: of the starting trajectory), and the
points chosen at this stage (circles). The constant of the model is that of least squares to the exact PMF,
weighted by its probability, where the spread is below the threshold of {threshold:g} kT."""


def run_with_stages(records: Records) -> tuple[FoundRun, list[Stage]]:
    """The run of lowest seed that keeps stages with backmapped configurations, the paper's preset first."""
    run = records.first_with("muller_brown", "cgflow_al", "stage_configurations", ("paper", "default"))
    return run, [stage for stage in stages_of(run) if len(stage.configurations)]


def backmapped(system: System, stage: Stage) -> tuple[Array, Array, Array]:
    """s, x + y and reduced energy above the minimum of the stage's configurations."""
    x = torch.from_numpy(stage.configurations)
    energy = system.reduced_energy(x) - system.reduced_energy(system.initial_configuration()[None])
    s = system.collective_variables(x)[:, 0]
    return s.numpy(), x.sum(1).numpy(), energy.detach().numpy()


def aligned(stage: Stage, reference: Array, probability: Array) -> Array:
    """The stage's PMF with the constant that suits the reference where the spread is below the threshold."""
    weight = probability * (stage.std < stage.threshold)
    if weight.sum() == 0:
        weight = probability
    return np.asarray(stage.free_energy + (weight * (reference - stage.free_energy)).sum() / weight.sum())


def draw_backmapped(axes: Any, system: System, stage: Stage) -> Any:
    """Draw configurations by energy over contours of the potential."""
    low, high = system.cvs.lower[0], system.cvs.upper[0]
    s, other = np.linspace(low, high, 181), np.linspace(*OTHER, 151)
    plane = np.stack(np.meshgrid(s, other, indexing="ij"), axis=-1).reshape(-1, 2)
    x = torch.from_numpy(np.stack([0.5 * (plane[:, 1] + plane[:, 0]), 0.5 * (plane[:, 1] - plane[:, 0])], axis=1))
    energy = system.reduced_energy(torch.cat([x, system.initial_configuration()[None]])).numpy()
    height = (energy[:-1] - energy[-1]).reshape(len(s), len(other))
    axes.contour(s, other, height.T, levels=np.arange(1.5, ENERGY_CUT + 1, 3.0), colors="0.65", linewidths=0.5)
    at, across, colour = backmapped(system, stage)
    points = axes.scatter(at, across, c=colour, s=3, vmin=0.0, vmax=ENERGY_CUT, linewidths=0, cmap="viridis")
    axes.set_xlim(low, high)
    axes.set_ylim(*OTHER)
    return points


def draw_pmf(axes: Any, records: Records, stage: Stage, earlier: Sequence[Stage], run: FoundRun) -> None:
    """Draw the model PMF with its spread, the exact one, and points."""
    reference = records.reference("muller_brown").pmf
    s = reference.centers(0)
    mean = aligned(stage, reference.free_energy, reference.probability)
    axes.fill_between(s, mean - stage.std, mean + stage.std, color=OKABE_ITO["sky"], alpha=0.5, linewidth=0)
    axes.plot(s, reference.free_energy, color="black", linewidth=0.9, label="exact")
    axes.plot(s, mean, "--", color=OKABE_ITO["blue"], label="model, one standard deviation", gid="model")
    across = axes.get_xaxis_transform()
    seeds = arrays_of(run).get("seed_points", np.zeros((0, 1)))[:, 0]
    axes.plot(seeds, np.full(len(seeds), 0.03), "|", color="black", markersize=4, markeredgewidth=0.4, transform=across)
    before = np.concatenate([np.zeros(0), *(e.points[:, 0] for e in earlier)])
    axes.plot(
        before,
        np.full(len(before), 0.03),
        "|",
        color=OKABE_ITO["vermilion"],
        markersize=7,
        transform=across,
        gid="before",
    )
    height = np.interp(stage.points[:, 0], s, mean)
    axes.plot(
        stage.points[:, 0],
        np.clip(height, *PMF_SHOWN),
        "o",
        color=OKABE_ITO["vermilion"],
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.5,
        label="new points",
        gid="new",
    )
    axes.set_xlim(system_bounds(records))
    axes.set_ylim(*PMF_SHOWN)


def system_bounds(records: Records) -> tuple[float, float]:
    """Domain of s."""
    cvs = records.system("muller_brown").cvs
    return cvs.lower[0], cvs.upper[0]
