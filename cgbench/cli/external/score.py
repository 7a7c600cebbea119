"""``cgbench score``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cgbench.cli.numbers import EVALUATIONS

__all__ = ["command"]

LARGEST_GRID = 100_000_000  # bins


@click.command("score")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--system", required=True, metavar="NAME", help="Name, path/to/file.py:Class, or a molecule's YAML file.")
@click.option(
    "--evaluations",
    multiple=True,
    type=EVALUATIONS,
    metavar="N",
    help="Energy evaluations that the result cost. With several files, once for each: they give a curve.",
)
@click.option("--method", default="external", show_default=True, metavar="NAME", help="Name in the record.")
@click.option("--temperature", type=float, metavar="KELVIN", help="Temperature of the PMF or of the samples.")
@click.option("--unit", type=click.Choice(["kJ/mol", "kcal/mol", "kT"]), help="Unit of energy of the PMF or bias.")
@click.option("--format", "form", metavar="F", help="Format of the files; by default it is found out.")
@click.option(
    "--axes", metavar="A,B", help="For each CV of the system the name or number of its axis or column in the file."
)
@click.option("--map", metavar="NAME", help='Map of the file, such as "phi and psi", if the system has several.')
@click.option(
    "--range",
    "ranges",
    multiple=True,
    metavar="LOWER:UPPER:BINS",
    help="Axis of a file without coordinates, in the file's order. Repeatable.",
)
@click.option("--topology", metavar="FILE", help="Topology of a trajectory; by default that of the system.")
@click.option("--weights", metavar="FILE", help="One weight for each sample, as .npy or text.")
@click.option("--bias", metavar="COLUMN", help="Bias column of a COLVAR file, or none.")
@click.option("--bias-factor", type=float, metavar="G", help="Bias factor, for raw biases of OpenMM (openmm-bias).")
@click.option(
    "--estimator",
    type=click.Choice(["histogram", "smoothed"]),
    default="histogram",
    show_default=True,
    help="PMF of samples that is scored.",
)
@click.option("--out", metavar="FOLDER", help="Write a record below this folder of runs; needs --evaluations.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Number of the record's seed.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier record.")
def command(files: tuple[str, ...], system: str, evaluations: tuple[int, ...], **options: Any) -> int:
    """Score a PMF, samples or a trajectory of another program against the reference of a system."""
    from cgbench.errors import UserError
    from cgbench.exchange.describe import describe
    from cgbench.exchange.external_record import prepare, write_record
    from cgbench.exchange.landscape import Options
    from cgbench.exchange.score import score_file
    from cgbench.running.registry import build_system

    paths = [Path(name) for name in files]
    joined = options["form"] == "openmm-bias"
    results = 1 if joined else len(paths)
    if len(evaluations) != results and (evaluations or results > 1):
        raise UserError(f"{results} results need --evaluations {results} times, once for each file, in the same order")
    out = options["out"]
    if out is not None and not evaluations:
        raise UserError("a record needs the number of energy evaluations: give --evaluations with --out")
    source = click.get_current_context().get_parameter_source
    unused = [f"--{name}" for name in ("method", "seed", "overwrite") if source(name) is not ParameterSource.DEFAULT]
    if out is None and unused:
        raise UserError(f"without --out there is no record: give --out, or leave out {' and '.join(unused)}")
    kelvin = options["temperature"]
    if kelvin is not None and not 0 < kelvin < 1e5:
        raise UserError(f"--temperature must be in kelvin and above 0, not {kelvin:g}")
    factor = options["bias_factor"]
    if factor is not None and not 1 < factor < math.inf:
        raise UserError(f"--bias-factor must be finite and larger than 1, not {factor:g}")
    said = Options(
        unit=options["unit"],
        temperature=kelvin,
        axes=tuple(name.strip() for name in (options["axes"] or "").split(",") if name.strip()),
        ranges=_ranges(options["ranges"]),
        bias=options["bias"],
        bias_factor=factor,
        format=options["form"],
        topology=None if options["topology"] is None else Path(options["topology"]),
        weights=None if options["weights"] is None else Path(options["weights"]),
        estimator=options["estimator"],
        map=options["map"],
    )
    built = build_system(system)
    names = {name: options[name] for name in ("method", "seed", "overwrite")}
    if out is not None:
        prepare(Path(out), built, evaluations, **names)
    scores = []
    for group in [paths] if joined else [[path] for path in paths]:
        scores.append(score_file(group, built, said))
        print(describe(scores[-1], evaluations[len(scores) - 1] if evaluations else None))
    if out is not None:
        pairs = list(zip(evaluations, scores, strict=True))
        print(f"  {'record':<16}  {write_record(Path(out), built, pairs, **names)}")
    return 0


def _ranges(texts: Sequence[str]) -> tuple[tuple[float, float, int], ...]:
    from cgbench.errors import UserError

    found = tuple(_range(text) for text in texts)
    if (size := math.prod(bins for _, _, bins in found)) > LARGEST_GRID:
        raise UserError(f"--range gives a grid of {size:,} bins: at most {LARGEST_GRID:,} are read")
    return found


def _range(text: str) -> tuple[float, float, int]:
    """Parse LOWER:UPPER:BINS."""
    from cgbench.errors import UserError

    try:
        lower, upper, bins = text.split(":")
        found = float(lower), float(upper), int(bins)
    except ValueError:
        found = 0.0, 0.0, 0
    low, high, count = found
    width = (high - low) / count if 1 < count <= LARGEST_GRID else math.inf
    if not (width < math.inf and low < low + width and high - width < high):  # finite, and bins that float64 separates
        raise UserError(f"--range {text} must be LOWER:UPPER:BINS with finite ends, such as -180:180:36")
    return found
