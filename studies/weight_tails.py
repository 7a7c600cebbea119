"""Whether the trained flow reaches all of the conditional distribution: its weights against those of dynamics.

``python -m studies.weight_tails`` makes a run, lets walkers go under a bias that flattens its PMF, and writes a table,
which takes about ten minutes on alanine dipeptide; it starts over each time.
Of the configurations at one height of the PMF, those that the dynamics reaches are distributed as ``p(y|s)``, and the
share of them that has a weight ``p / q`` above some limit is the mass that labels lose when weights are cut there, or
when the flow draws such configurations so seldom that a run meets none.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch

from cgbench.errors import UserError
from cgbench.storage.files import csv_bytes, write_atomically
from cgbench_methods.cgflow.harmonic.recipe import HarmonicRecipe
from cgbench_methods.lib.sampling.bias import FourierBias
from cgbench_methods.lib.sampling.walkers import BLOCK, end_block, make_walkers

if TYPE_CHECKING:
    from cgbench.counting.streams import Streams

__all__ = ["command", "table_of", "weights_under_dynamics"]

CEILING = 11.0  # kT; the bias flattens the PMF below
LEVELS = (0.0, 2.0, 4.0, 6.0, 8.0, 10.0)  # kT
LIMITS = (5, 50, 200, 1000)  # of weights, in units of their mean
TRIES = 20  # samples of the flow for each walker's start
EQUILIBRATION = 0.2  # of the steps, before the first configuration is kept
FRICTION, TIME_STEP, STEP_SIZE = 5.0, 0.001, 0.1  # 1/ps, ps; of Metropolis proposals
AT_ONCE = 2000


def weights_under_dynamics(
    recipe: HarmonicRecipe, streams: Streams, *, walkers: int, steps: int, stride: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights of configurations that dynamics reaches, and of as many samples of the flow at the same CVs.

    Parameters
    ----------
    recipe
        Of a run that is through; its surrogate says what the weights' mean is, ``exp(-A(s))``.
    streams
        Source of all randomness.
    walkers, steps, stride
        Walkers, their steps, and steps between the configurations that are kept.

    Returns
    -------
    height, dynamics, flow
        PMF at the configurations' CVs above its lowest, in kT, and logarithms of both weights over their mean, each
        ``[configurations]``.
    """
    assert recipe.flow is not None
    problem, cvs, generator = recipe.problem, recipe.cvs, streams.torch("tails")
    mean, _ = recipe.surrogate.on_grid()
    lowest = mean.min()
    bias = FourierBias.from_grid(cvs, -(mean - lowest).clamp(max=CEILING).numpy().reshape(cvs.bins))
    start = _start(recipe, walkers, generator)
    dynamics = make_walkers(
        problem,
        start,
        generator,
        time_step=TIME_STEP,
        friction=FRICTION,
        step_size=STEP_SIZE,
        bias=bias,
    )
    found = []
    for done in range(stride, steps + 1, stride):
        for block in range(0, stride, BLOCK):
            dynamics.step(min(BLOCK, stride - block))
            lost = end_block(problem, dynamics)
        if done >= EQUILIBRATION * steps:
            found += [_weights(recipe, dynamics.positions[~lost].double(), generator)]
    height, of_dynamics, of_flow = torch.cat(found, dim=1)
    return height - lowest, of_dynamics, of_flow


@torch.no_grad()
def _start(recipe: HarmonicRecipe, walkers: int, generator: torch.Generator) -> torch.Tensor:
    """Samples of the flow, those of the largest weights of many, all over the CVs below the ceiling."""
    mean, _ = recipe.surrogate.on_grid()
    low = torch.from_numpy(recipe.cvs.grid())[mean - mean.min() < CEILING]
    s = low[torch.randint(len(low), (TRIES * walkers,), generator=generator)]
    y, log_weights = _drawn(recipe, s, generator)
    best = log_weights.reshape(walkers, TRIES).argmax(dim=1) + TRIES * torch.arange(walkers)
    return recipe.coordinates.to_cartesian(s[best], y[best])[0]


def _drawn(recipe: HarmonicRecipe, s: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """One sample of the flow at each s, and the logarithm of its weight over the mean."""
    assert recipe.flow is not None
    y, log_q = recipe.flow.sample_with_log_prob(recipe.basis(s), generator)
    return y, recipe.surrogate.mean(s) - recipe.target.energy(s, y) - log_q


@torch.no_grad()
def _weights(recipe: HarmonicRecipe, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Height of the PMF and both logarithms of weights, ``[3, batch]``."""
    assert recipe.flow is not None
    parts = []
    for part in x.split(AT_ONCE):
        s, y, _ = recipe.coordinates.to_internal(part)
        height = recipe.surrogate.mean(s)
        log_q = recipe.flow.log_prob(y, recipe.basis(s))
        parts.append(
            torch.stack([height, height - recipe.target.energy(s, y) - log_q, _drawn(recipe, s, generator)[1]])
        )
    return torch.cat(parts, dim=1)


def table_of(height: torch.Tensor, dynamics: torch.Tensor, flow: torch.Tensor) -> list[dict[str, Any]]:
    """One row for each interval of heights that has a hundred configurations at least.

    Parameters
    ----------
    height, dynamics, flow
        As `weights_under_dynamics` returns them.

    Returns
    -------
    rows
        ``mean_weight`` of the flow's samples over ``exp(-A)``, with its standard error: above 1, the fit of the PMF is
        too high; ``dynamics_above_L``, share of the dynamics' configurations whose weight is above L, and
        ``flow_above_L``, share that the flow's samples of such weights have in the sum of all.
    """
    rows = []
    for low, high in zip(LEVELS, (*LEVELS[1:], LEVELS[-1] + 2), strict=True):
        here = (height >= low) & (height < high)
        count = int(here.sum())
        if count < 100:
            continue
        p, q = dynamics[here].exp(), flow[here].exp()
        row: dict[str, Any] = {"height_from": low, "height_to": high, "configurations": count}
        row |= {"mean_weight": float(q.mean()), "mean_weight_se": float(q.std() / np.sqrt(count))}
        row |= {f"dynamics_above_{limit}": float((p > limit).double().mean()) for limit in LIMITS}
        row |= {f"flow_above_{limit}": float(q[q > limit].sum() / q.sum()) for limit in LIMITS}
        rows.append(row)
    return rows


@click.command(help=__doc__)
@click.option("--method", default="cgflow_al", show_default=True)
@click.option("--system", default="aldp", show_default=True)
@click.option("--preset", default="default", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--walkers", default=128, show_default=True)
@click.option("--steps", default=120_000, show_default=True)
@click.option("--stride", default=100, show_default=True, help="Steps between configurations.")
@click.option("--out", default="tails", show_default=True, help="Folder of the run.")
@click.option("--table", type=click.Path(dir_okay=False), help="CSV table to write; by default tails.csv in OUT.")
def command(method: str, system: str, preset: str, seed: int, out: str, table: str | None, **sizes: int) -> None:
    """Make the run and the table."""
    from cgbench.running.run import prepare

    job = prepare(system, method, preset=preset, seed=seed, out=out, threads=1, restart=True)
    recipe = getattr(job.method, "recipe", None)
    if not isinstance(recipe, HarmonicRecipe):
        job.folder.release()
        raise UserError(f"preset {preset!r} of {method} has no recipe of kind harmonic")
    job.execute()
    rows = table_of(*weights_under_dynamics(recipe, job.streams, **sizes))
    if not rows:
        raise UserError("too few configurations for any row of the table: give more --walkers or --steps")
    for row in rows:
        click.echo(", ".join(f"{name} {value:.4g}" for name, value in row.items()))
    content = csv_bytes(list(rows[0]), ({name: f"{value:.6g}" for name, value in row.items()} for row in rows))
    target = Path(table) if table else Path(out) / "tails.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)


if __name__ == "__main__":
    from cgbench.cli.main import guarded

    sys.exit(guarded(command, "tails", after_interrupt="the same command starts over"))
