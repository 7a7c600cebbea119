"""More samples of the flow of a run: how far the estimate is from what its own flow says, without a reference.

Makes a run, draws many more weighted samples of its trained flow, and compares the PMF of the run with them: for each
basin and for the rest of the domain the free energy relative to the whole domain, then the forward KLD on blocks of
bins and the share of blocks within the claimed 95 % intervals. Whole weights of independent samples have no bias, so a
difference beyond their errors is a fault of the estimator, not of the flow. Serves presets of our recipe, and systems
with one map over at most two CVs. Starts over each time.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.pmf import PMF, basin_mask
from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench.storage.files import csv_bytes, write_atomically
from cgbench_methods.cgflow.harmonic.recipe import HarmonicRecipe

__all__ = ["command", "table_of"]

Array = NDArray[np.float64]

AT_ONCE = 20_000
PARTS = 20  # of the samples, for their standard errors
LARGEST_BLOCKS = 25  # along each CV
LOW = 8.0  # kT; blocks with a higher mean are not compared
ELSEWHERE = "elsewhere"


def _free_energies(masses: Array) -> Array:
    """Return free energies in kT of places relative to the whole ``[places]``, for masses ``[places]``."""
    with np.errstate(divide="ignore"):
        found: Array = -np.log(masses / masses.sum())
    return found


def _blocks(pmf_bins: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many bins along each CV make a block: the fewest that leave at most `LARGEST_BLOCKS` equal ones."""
    return tuple(
        next(size for size in range(1, bins + 1) if bins % size == 0 and bins // size <= LARGEST_BLOCKS)
        for bins in pmf_bins
    )


def _on_blocks(values: Array, sizes: tuple[int, ...]) -> Array:
    """Sum values on a grid over blocks; flat."""
    for axis, size in enumerate(sizes):
        values = np.add.reduceat(values, np.arange(0, values.shape[axis], size), axis=axis)
    return values.reshape(-1)


def table_of(pmf: PMF, system: System, parts: Array) -> list[dict[str, Any]]:
    """Compare a PMF with weighted samples.

    Parameters
    ----------
    pmf
        Estimate of the run, with standard errors or without.
    system
        Gives the basins.
    parts
        Sums of weights in the bins of the grid, for each of several equal parts of the samples ``[parts, *bins]``.

    Returns
    -------
    rows
        For each basin, and ``elsewhere`` if bins are in no basin: free energies of the run and of the samples relative
        to the whole domain, their difference ``run_minus_samples``, and the standard error of the samples, all in kT.
        The last row, ``blocks``, has the ``forward_kld`` of the PMF from the samples, the ``noise`` of the samples in
        it (half the mean square of their errors), and the share ``coverage_95`` of blocks below 8 kT within 1.96
        standard errors of both; empty without claimed errors.
    """
    masks = {basin.name: basin_mask(pmf.cvs, basin.contains) for basin in system.basins}
    rest = ~np.any(list(masks.values()), axis=0) if masks else np.ones(pmf.cvs.bins, dtype=bool)
    places = masks | ({ELSEWHERE: rest} if rest.any() else {})
    own = _free_energies(np.array([pmf.probability[mask].sum() for mask in places.values()]))
    whole = np.array([parts[:, mask].sum() for mask in places.values()])
    leave_one_out = np.array(
        [[parts[:, mask].sum() - part[mask].sum() for mask in places.values()] for part in parts], dtype=np.float64
    )
    found = _free_energies(whole)
    count = len(parts)
    of_parts = np.array([_free_energies(row) for row in leave_one_out])
    with np.errstate(invalid="ignore"):
        errors = np.sqrt((count - 1) * of_parts.var(axis=0))
    rows: list[dict[str, Any]] = [
        {"place": name, "run": a, "samples": b, "run_minus_samples": a - b, "samples_se": e}
        for name, a, b, e in zip(places, own, found, errors, strict=True)
    ]
    return [*rows, {"place": "blocks", **_compare_blocks(pmf, parts)}]


def _compare_blocks(pmf: PMF, parts: Array) -> dict[str, float]:
    sizes = _blocks(pmf.cvs.bins)
    p = _on_blocks(parts.sum(axis=0), sizes)
    p, q = p / p.sum(), _on_blocks(np.asarray(pmf.probability, dtype=np.float64), sizes)
    q = q / q.sum()
    of_parts = np.array([_on_blocks(part, sizes) for part in parts])
    total = of_parts.sum(axis=0)
    left_out = total - of_parts
    left_out = left_out / left_out.sum(axis=1, keepdims=True)
    variance = (len(parts) - 1) * left_out.var(axis=0)  # jackknife, of p
    filled = p > 0
    found = {
        "forward_kld": float((p[filled] * np.log(p[filled] / np.maximum(q[filled], 1e-300))).sum()),
        "noise": float(0.5 * (variance[filled] / p[filled]).sum()),
    }
    if pmf.free_energy_std is None:
        return found
    heights = -np.log(np.maximum(p, 1e-300)) + math.log(p.max())
    low = filled & (heights < LOW)
    # a block's error: that of its bins, which have it in common
    claimed = _on_blocks(pmf.probability * np.nan_to_num(pmf.free_energy_std), sizes) / np.maximum(q, 1e-300)
    difference = np.log(p[low] / q[low])
    difference -= (p[low] * difference).sum() / p[low].sum()
    error = np.sqrt(claimed[low] ** 2 + variance[low] / p[low] ** 2)
    return {**found, "coverage_95": float((np.abs(difference) < 1.96 * error).mean())}


@click.command(help=__doc__)
@click.option("--method", default="cgflow_al", show_default=True)
@click.option("--system", default="aldp", show_default=True)
@click.option("--preset", default="default", show_default=True)
@click.option("--seed", default=100, show_default=True)
@click.option("--samples", default=500_000, show_default=True, help="Number of further samples of the flow.")
@click.option("--set", "overrides", multiple=True, help="KEY=VALUE, as for cgbench run; may be repeated.")
@click.option("--out", default="more_samples", show_default=True, help="Folder of the run and of the table.")
def command(
    method: str, system: str, preset: str, seed: int, samples: int, overrides: tuple[str, ...], out: str
) -> None:
    """Make the run, draw the samples, and write the table."""
    from cgbench.results.rescore import stored_estimate
    from cgbench.running.run import prepare

    if samples < PARTS:
        raise UserError(f"--samples {samples}: at least {PARTS} are needed")
    job = prepare(system, method, preset=preset, seed=seed, overrides=overrides, out=out, threads=1, restart=True)
    recipe = getattr(job.method, "recipe", None)
    if not isinstance(recipe, HarmonicRecipe) or len(recipe.problem.cvs) > 2:
        job.folder.release()
        raise UserError(
            f"preset {preset!r} of {method} on {system}: only our recipe is served, on systems with at most two CVs"
        )
    record = job.execute()
    if record.status == "failed":
        raise UserError(f"the run in {job.folder.path} failed: {record.reason}")
    (pmf,) = stored_estimate(job.folder.path / "pmf.npz", job.system).pmfs
    rows = table_of(pmf, job.system, _draw(recipe, job.streams.torch("more samples"), samples))
    for row in rows:
        click.echo(", ".join(f"{k} {v}" if isinstance(v, str) else f"{k} {v:.4g}" for k, v in row.items()))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    content = csv_bytes(columns, ({k: v if isinstance(v, str) else f"{v:.6g}" for k, v in r.items()} for r in rows))
    write_atomically(Path(out) / "more_samples.csv", content)


def _draw(recipe: HarmonicRecipe, generator: torch.Generator, samples: int) -> Array:
    """Draw weighted samples; return sums of their weights in the bins, for each part ``[parts, *bins]``."""
    cvs = recipe.cvs
    total = math.prod(cvs.bins)
    parts = np.zeros((PARTS, total))
    shift = torch.logsumexp(-recipe.surrogate.on_grid()[0], 0)  # brings weights into the range of numbers
    for number in range(PARTS):
        left = samples * (number + 1) // PARTS - samples * number // PARTS
        while left:
            found = recipe.weighted_samples(min(left, AT_ONCE), generator)
            if found is None:
                raise UserError("the run has no flow: its budget ended before the training")
            s, log_weights = found
            left -= len(s)
            weights = (log_weights - shift).exp().nan_to_num(nan=0.0, posinf=0.0)
            parts[number] += np.bincount(cvs.bin_index(s, nearest=True).numpy(), weights.numpy(), total)
    return parts.reshape(PARTS, *cvs.bins)


if __name__ == "__main__":
    from cgbench.cli.main import guarded

    sys.exit(guarded(command, "more_samples", after_interrupt="the same command starts over"))
