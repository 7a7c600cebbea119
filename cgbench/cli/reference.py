"""``cgbench reference``: build, show and verify reference PMFs, and the convergence curve of plain MD."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

__all__ = ["command"]


@click.group("reference")
def command() -> None:
    """Build, show and verify reference PMFs."""


def _reference(system: Any) -> Any:
    """Return the reference from the referee, which alone may read it."""
    from cgbench.errors import UserError
    from cgbench.scoring.referee import Referee

    referee = Referee(system)
    if referee.reference is None:
        raise UserError(str(referee.problem))
    return referee.reference


def _system(
    name: str, device: str = "cpu", threads: int | None = None, sampled: bool = False, engine: str | None = None
) -> Any:
    """Build a system; if it is to be sampled, check that it starts in its state space."""
    from cgbench.running.plugins import check_start
    from cgbench.running.registry import build_system
    from cgbench.running.run import use_hardware

    use_hardware(device, threads)
    system = build_system(name, engine=engine, device=device)
    if sampled:
        check_start(system)
    return system


@command.command("build")
@click.argument("system")
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the checkpoints.")
@click.option(
    "--route",
    "chosen",
    multiple=True,
    metavar="NAME",
    help="Route to sample. Repeatable.  [default: all that need no certified reference]",
)
@click.option("--from", "trained", metavar="FOLDER", help="Run folder of the flow that route importance draws from.")
@click.option("--blocks", type=int, metavar="N", help="Blocks of sampling per route.  [default: that of the route]")
@click.option("--certify", is_flag=True, help="Write the certified files from the first route.")
@click.option("--compare", is_flag=True, help="Compare the chosen routes with the certified files.")
@click.option("--engine", metavar="ENGINE", help="Engine for the energies; openmm is slow.  [default: that of runs]")
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE", help="Torch device, such as cuda:0.")
@click.option("--threads", type=int, metavar="N", help="CPU threads.  [default: OMP_NUM_THREADS, or all cores]")
def build(system: str, out: str, chosen: tuple[str, ...], blocks: int | None, **options: Any) -> int:
    """Build the reference PMF of SYSTEM by independent routes.

    Run the same command again to resume an interrupted build.
    """
    from cgbench.errors import UserError, choices

    built = _system(system, options["device"], options["threads"], sampled=True, engine=options["engine"])
    builder = built.reference_builder(Path(out))
    if builder is None:
        raise UserError(f"the reference of {built.name} is exact: there is nothing to build")
    for name in chosen:
        if name not in builder.routes:
            raise UserError(f"unknown route {name!r} (--route): choose from {choices(builder.routes)}")
    if options["trained"] is not None:
        from cgbench.running.run import trained_method

        if "importance" not in chosen:
            raise UserError("--from is for route importance: add --route importance")
        builder.sampler = trained_method(Path(options["trained"]), built)
    if blocks is not None and blocks < 1:
        raise UserError(f"--blocks must be at least 1, not {blocks}")
    routes = [name for name in builder.routes if name in (chosen or set(builder.routes) - builder.confirming)]
    first = next(iter(builder.routes))
    if options["certify"] and first not in routes:
        raise UserError(f"--certify writes the reference from route {first}: add --route {first}")
    if options["compare"] and not options["certify"]:
        _reference(built)  # report a missing reference before hours of sampling, not after them
    sizes = {name: blocks or builder.routes[name] for name in routes}
    with _locked(Path(out)):
        if options["certify"]:
            builder.check_certifiable(sizes[first])
        for name, size in sizes.items():
            builder.build(name, size)
            if options["certify"] and name == first:
                builder.certify()
            if options["compare"]:
                builder.compare(name)
    return 0


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder of checkpoints."""
    from cgbench.errors import StorageError
    from cgbench.storage.lock import FolderLock

    lock = FolderLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


@command.command("samples")
@click.argument("system")
@click.option("--threads", type=int, metavar="N", help="CPU threads.  [default: OMP_NUM_THREADS, or all cores]")
def samples(system: str, threads: int | None) -> int:
    """Write equilibrium configurations of SYSTEM.

    The densities of generative methods are scored on these configurations; they are stored with the reference.
    """
    from cgbench.errors import UserError

    built = _system(system, "cpu", threads, sampled=True)
    builder = built.reference_builder(Path())
    if builder is None:
        raise UserError(f"{built.name} draws exact samples on demand: there is nothing to write")
    builder.samples()
    return 0


@command.command("show")
@click.argument("system")
@click.option("--out", metavar="FILE", help="Also draw the reference to FILE (.png, .pdf or .svg).")
def show(system: str, out: str | None) -> int:
    """Print the facts about the reference PMF of SYSTEM."""
    from cgbench.drawing.backend import attempt
    from cgbench.drawing.pmf import draw_reference
    from cgbench.errors import UserError
    from cgbench.results.numbers import rounded

    if out is not None and Path(out).suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--out {out}: the suffix must be .png, .pdf or .svg")
    built = _system(system)
    reference = _reference(built)
    print(f"{built.name}, version {built.version}: {reference.source}")
    print(f"  sha256        {reference.sha256}")
    print(f"  noise floor   {rounded(reference.noise_floor, 2)} (forward KLD)")
    details = reference.details
    for name, basin in details.get("basins", {}).items():
        print(
            f"  basin {name:<12} population {basin['population']:.5f} +- {basin['population_standard_error']:.5f}, "
            f"free energy {basin['free_energy_kT']:.3f} +- {basin['free_energy_standard_error_kT']:.3f} kT"
        )
    for name, one in details.get("uncertainty", {}).items():
        if "bias_kT" in one:
            print(
                f"  uncertainty of {name:<10} {one['standard_error_kT']:.4f} kT of noise; bias {one['bias_kT']:+.4f} "
                f"+- {one['bias_standard_error_kT']:.4f} kT by {one['by_route']}, at most {one['bias_bound_kT']:.4f} kT"
            )
    for key in ("force_field", "temperature_K", "engine", "dynamics", "walkers", "production_steps", "seed", "date"):
        if key in details:
            print(f"  {key:<24} {details[key]}")
    for name, value in details.get("relaxation_time_ps", {}).items():
        print(f"  relaxation of {name:<10} {value:.1f} ps")
    for key, value in details.get("discretisation", {}).items():
        if not isinstance(value, dict):
            print(f"  {key}: {rounded(value) if isinstance(value, float) else value}")
    for check in details.get("checks", []):
        print(f"  {'passed' if check['passed'] else 'FAILED'}  {check['name']}: {check['detail']}")
    if out is not None:
        problem = attempt(lambda: draw_reference(Path(out), built.name, reference))
        if problem is not None:
            print(f"cgbench: {out} cannot be drawn: {problem}", file=sys.stderr)
            return 1
        print(f"  picture       {out}")
    return 0


@command.command("verify")
@click.argument("system")
@click.option("--engine", metavar="ENGINE", help="Engine for the energies.  [default: that of runs]")
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE", help="Torch device, such as cuda:0.")
@click.option("--threads", type=int, metavar="N", help="CPU threads.  [default: OMP_NUM_THREADS, or all cores]")
def verify(system: str, engine: str | None, device: str, threads: int | None) -> int:
    """Verify the reference PMF of SYSTEM in at most five minutes.

    Checks the hash of the certified files, and compares the reference with new samples. The exit code is 1 if a check
    fails.
    """
    built = _system(system, device, threads, sampled=True, engine=engine)
    reference = _reference(built)
    print(f"{built.name}: sha256 {reference.sha256[:16]}... agrees with the certificate")
    print("checking the reference itself, for up to five minutes", flush=True)
    failed = 0
    for check in built.verify_reference(reference):
        print(f"{'passed' if check.passed else 'FAILED'}  {check.name}: {check.detail}")
        failed += not check.passed
    print("verified" if not failed else f"{failed} checks failed")
    return 1 if failed else 0


@command.command("curve")
@click.argument("system")
@click.option("--runs", default="runs", show_default=True, metavar="FOLDER", help="Folder of runs of method md.")
@click.option("--out", metavar="FOLDER", help="Also write md_curve.csv, md_curve.json and md_curve.png to FOLDER.")
def curve(system: str, runs: str, out: str | None) -> int:
    """Fit the convergence curve of plain MD on SYSTEM.

    The curve is the forward KLD against evaluations. Speedups over MD are read off it.
    """
    from cgbench.errors import UserError
    from cgbench.results.baseline.curve import md_curves
    from cgbench.results.numbers import rounded, show_evaluations, show_range
    from cgbench.results.runs import find_runs
    from cgbench.running.registry import load

    cls = load("system", system)
    mine = [
        run
        for run in find_runs([Path(runs)])
        if (run.record.system, run.record.system_version, run.record.method) == (cls.name, cls.version, "md")
    ]
    curves = md_curves(mine)
    if not curves:
        raise UserError(f"no finished run of method md on {cls.name}, version {cls.version}, in {runs} (--runs)")
    for name, found in curves.items():
        a, b = found.power_law
        last = found.table.iloc[-1]
        costs = [_bounds(found.to_target(target)[0]) for target in (1e-1, 1e-2, 1e-3)]
        print(
            f"{name:<10} KLD {rounded(last['forward_kld'])} ({show_range(last['lower'], last['upper'])}) after "
            f"{show_evaluations(last['evaluations'])} evaluations; evaluations to KLD 1e-1: {costs[0]}, to 1e-2: "
            f"{costs[1]}, to 1e-3: {costs[2]}; KLD about {rounded(a)} N^{b:.2f}"
        )
    first = next(iter(curves.values()))
    if first.runs == 1:
        print(
            "one long run: where the curve rests on fewer than eight simulations, its band comes from the typical "
            f"spread between simulations ({first.spread:.2f} in ln KLD)"
        )
    if out is not None:
        return _write_curve(Path(out), cls.name, curves)
    return 0


def _bounds(ends: Any) -> str:
    """Format the smallest and largest number of evaluations that a curve allows."""
    from cgbench.results.numbers import show_evaluations

    if ends[1] == float("inf"):
        return f"at least {show_evaluations(ends[0])}"
    return f"{'at most ' if ends[0] == 0 else ''}{show_evaluations(ends[1])}"


def _write_curve(folder: Path, system: str, curves: dict[str, Any]) -> int:
    import pandas as pd

    from cgbench.drawing.backend import attempt
    from cgbench.errors import UserError
    from cgbench.results.plots import draw_md_curve
    from cgbench.running.record import to_json
    from cgbench.storage.files import write_atomically

    table = pd.concat([found.table.assign(estimator=name) for name, found in curves.items()])
    fits = {
        name: dict(zip(("a", "b"), found.power_law, strict=True)) | {"runs": found.runs, "spread": found.spread}
        for name, found in curves.items()
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
        write_atomically(folder / "md_curve.csv", text.encode())
        facts = {"system": system, "law": "forward KLD = a N^b, not extrapolated", "fits": fits}
        write_atomically(folder / "md_curve.json", to_json(facts).encode())
        problem = attempt(lambda: draw_md_curve(folder / "md_curve.png", system, curves))
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    if problem is not None:
        print(f"cgbench: {folder / 'md_curve.png'} cannot be drawn: {problem}", file=sys.stderr)
        return 1
    return 0
