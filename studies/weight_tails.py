"""Weight tails: whether a trained flow covers the whole conditional distribution p(y|s).

Makes a run, moves walkers under a bias that flattens its PMF, and writes a CSV table. Takes about ten minutes on
alanine dipeptide, and starts over each time.

At a given height of the PMF, the configurations of the walkers are distributed as p(y|s). The share of them with an
importance weight p/q above a limit is the probability that the flow's samples miss: if the weights are truncated at the
limit, or if the flow generates such configurations so rarely that a run has none.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch

from cgbench.contracts.coordinates import free_torsions
from cgbench.errors import UserError
from cgbench.storage.files import csv_bytes, write_atomically
from cgbench_methods.cgflow.harmonic.recipe import HarmonicRecipe
from cgbench_methods.lib.sampling.bias import FourierBias
from cgbench_methods.lib.sampling.walkers import BLOCK, end_block, make_walkers

if TYPE_CHECKING:
    from cgbench.counting.streams import Streams

__all__ = ["command", "table_of", "weights_under_dynamics"]

CEILING = 11.0  # kT; the bias flattens the PMF below
LEVELS = (0.0, 2.0, 4.0, 6.0, 8.0, 10.0)  # kT; lower bounds of the table's intervals
LEAST_CONFIGURATIONS = 100  # in an interval of the table
LIMITS = (5, 50, 200, 1000)  # of weights, relative to their mean
TRIES = 20  # samples of the flow for the start of each walker
EQUILIBRATION = 0.2  # share of the steps before the first configuration is kept
FRICTION, TIME_STEP = 5.0, 0.001  # 1/ps, ps
STEP_SIZE = 0.1  # of Metropolis proposals
AT_ONCE = 2000


def weights_under_dynamics(
    recipe: HarmonicRecipe, streams: Streams, *, walkers: int, steps: int, stride: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute weights of configurations from biased dynamics, and of one sample of the flow at the same CVs for each.

    Parameters
    ----------
    recipe
        Recipe of a finished run. Its model of the PMF gives the mean of the weights, ``exp(-A(s))``.
    streams
        Source of all random numbers.
    walkers, steps, stride
        Number of walkers, steps of each, and steps between configurations.

    Returns
    -------
    height, dynamics, flow
        PMF at the configurations' CVs above its minimum, in kT, and the logarithms of both weights relative to their
        mean, each ``[configurations]``.
    """
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
    parts = []
    for done in range(stride, steps + 1, stride):
        for block in range(0, stride, BLOCK):
            dynamics.step(min(BLOCK, stride - block))
            diverged = end_block(problem, dynamics)
        if done >= EQUILIBRATION * steps:
            parts.append(_weights(recipe, dynamics.positions[~diverged].double(), generator))
    height, of_dynamics, of_flow = torch.cat(parts, dim=1)
    return height - lowest, of_dynamics, of_flow


@torch.no_grad()
def _start(recipe: HarmonicRecipe, walkers: int, generator: torch.Generator) -> torch.Tensor:
    """Return one configuration per walker, s uniform below the ceiling, each the sample of largest weight of many."""
    mean, _ = recipe.surrogate.on_grid()
    low = torch.from_numpy(recipe.cvs.grid())[mean - mean.min() < CEILING]
    s = low[torch.randint(len(low), (TRIES * walkers,), generator=generator)]
    y, log_weights = _draw(recipe, s, generator)
    best = log_weights.reshape(walkers, TRIES).argmax(dim=1) + TRIES * torch.arange(walkers)
    return recipe.coordinates.to_cartesian(s[best], y[best])[0]


def _draw(recipe: HarmonicRecipe, s: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one sample of the flow at each s; return it with the logarithm of its weight relative to the mean."""
    assert recipe.flow is not None
    y, log_q = recipe.flow.sample_with_log_prob(recipe.basis(s), generator)
    return y, recipe.surrogate.mean(s) - recipe.target.energy(s, y) - log_q


@torch.no_grad()
def _weights(recipe: HarmonicRecipe, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the PMF at configurations, their log-weights and those of the flow's samples, ``[3, batch]``."""
    assert recipe.flow is not None
    parts = []
    for part in x.split(AT_ONCE):
        s, y, _ = recipe.coordinates.to_internal(part)
        height = recipe.surrogate.mean(s)
        log_q = recipe.flow.log_prob(y, recipe.basis(s))
        parts.append(torch.stack([height, height - recipe.target.energy(s, y) - log_q, _draw(recipe, s, generator)[1]]))
    return torch.cat(parts, dim=1)


def table_of(height: torch.Tensor, dynamics: torch.Tensor, flow: torch.Tensor) -> list[dict[str, Any]]:
    """Return the table: one row for each interval of heights with at least 100 configurations.

    Parameters
    ----------
    height, dynamics, flow
        As from `weights_under_dynamics`.

    Returns
    -------
    rows
        ``mean_weight``, mean weight of the flow's samples over ``exp(-A)``, and its standard error ``mean_weight_se``:
        above 1, the fitted PMF is too high. ``dynamics_above_L``, share of the dynamics' configurations whose weight is
        above L. ``flow_above_L``, share of the flow's samples with such weights in the sum of all weights.
    """
    rows = []
    for low, high in zip(LEVELS, (*LEVELS[1:], LEVELS[-1] + 2), strict=True):
        inside = (height >= low) & (height < high)
        count = int(inside.sum())
        if count < LEAST_CONFIGURATIONS:
            continue
        p, q = dynamics[inside].exp(), flow[inside].exp()
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
@click.option("--walkers", type=click.IntRange(1), default=128, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=120_000, show_default=True)
@click.option("--stride", type=click.IntRange(1), default=100, show_default=True, help="Steps between configurations.")
@click.option("--out", default="weight_tails", show_default=True, help="Folder of the run.")
@click.option("--table", type=click.Path(dir_okay=False), help="CSV table; by default weight_tails.csv in OUT.")
def command(method: str, system: str, preset: str, seed: int, out: str, table: str | None, **sizes: int) -> None:
    """Make the run and write the table."""
    from cgbench.running.run import prepare

    if sizes["stride"] > sizes["steps"]:
        raise UserError(f"--stride {sizes['stride']} must not exceed --steps {sizes['steps']}")
    job = prepare(system, method, preset=preset, seed=seed, out=out, threads=1, restart=True)
    recipe = getattr(job.method, "recipe", None)
    if not isinstance(recipe, HarmonicRecipe):
        job.folder.release()
        raise UserError(f"preset {preset!r} of {method} has no recipe of kind harmonic")
    if len(free_torsions(recipe.coordinates)):
        job.folder.release()
        raise UserError(
            f"{system} has free torsions: weights of a flow with wells are not served, choose another system"
        )
    record = job.execute()
    if record.status == "failed":
        raise UserError(f"the run in {job.folder.path} failed: {record.reason}")
    rows = table_of(*weights_under_dynamics(recipe, job.streams, **sizes))
    if not rows:
        raise UserError("too few configurations for any row of the table: increase --walkers or --steps")
    for row in rows:
        click.echo(", ".join(f"{name} {value:.4g}" for name, value in row.items()))
    content = csv_bytes(list(rows[0]), ({name: f"{value:.6g}" for name, value in row.items()} for row in rows))
    target = Path(table) if table else Path(out) / "weight_tails.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)


if __name__ == "__main__":
    from cgbench.cli.main import guarded

    sys.exit(guarded(command, "weight_tails", after_interrupt="the same command starts over"))
