"""``cgbench reference``: build, show and verify ground truths, and the curve of plain dynamics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

__all__ = ["command"]


@click.group("reference", help="Build, show and verify the ground truth of a system.")
def command() -> None:
    """Group of the verbs on references."""


def _reference(system: Any) -> Any:
    """The reference, by way of the referee, who alone may ask for it."""
    from cgbench.errors import UserError
    from cgbench.scoring.referee import Referee

    referee = Referee(system)
    if referee.reference is None:
        raise UserError(str(referee.problem))
    return referee.reference


def _system(name: str, device: str = "cpu", threads: int | None = None) -> Any:
    import torch

    from cgbench.errors import UserError
    from cgbench.running.provenance import physical_cores
    from cgbench.running.registry import load

    if threads is not None and threads < 1:
        raise UserError(f"--threads must be at least 1, not {threads}")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    torch.set_num_threads(threads or physical_cores())
    return load("system", name)(device=device)


@command.command("build")
@click.argument("system")
@click.option("--out", required=True, help="Folder of the checkpoints; the same command goes on from them.")
@click.option("--route", "chosen", multiple=True, help="Route to take; all by default. May be repeated.")
@click.option("--blocks", type=int, help="Blocks of sampling of each chosen route.")
@click.option("--certify", is_flag=True, help="Write the certified files from the first route.")
@click.option("--compare", is_flag=True, help="Compare the other chosen routes with the certified files.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=int, help="CPU threads; all cores by default.")
def build(system: str, out: str, chosen: tuple[str, ...], blocks: int | None, **options: Any) -> int:
    """Make the reference of SYSTEM by independent routes, resumable."""
    from cgbench.errors import UserError, choices

    built = _system(system, options["device"], options["threads"])
    builder = built.reference_builder(Path(out))
    if builder is None:
        raise UserError(f"the reference of {built.name} is exact: there is nothing to build")
    for name in chosen:
        if name not in builder.routes:
            raise UserError(f"unknown route {name!r} (--route): choose from {choices(builder.routes)}")
    if blocks is not None and blocks < 1:
        raise UserError(f"--blocks must be at least 1, not {blocks}")
    routes = [name for name in builder.routes if not chosen or name in chosen]
    first = next(iter(builder.routes))
    if options["certify"] and first not in routes:
        raise UserError(f"--certify writes the reference from route {first}: add --route {first}")
    if options["compare"] and not options["certify"]:
        _reference(built)  # report a missing reference before hours of sampling, not after them
    for name in routes:
        builder.build(name, blocks or builder.routes[name])
        if options["certify"] and name == first:
            builder.certify()
        if options["compare"]:
            builder.compare(name)
    return 0


@command.command("samples")
@click.argument("system")
@click.option("--threads", type=int, help="CPU threads; all cores by default.")
def samples(system: str, threads: int | None) -> int:
    """Write new equilibrium configurations of SYSTEM, on which full densities are scored, beside its reference."""
    from cgbench.errors import UserError

    built = _system(system, "cpu", threads)
    builder = built.reference_builder(Path())
    if builder is None:
        raise UserError(f"{built.name} draws its samples exactly, whenever they are needed: there is nothing to write")
    builder.samples()
    return 0


@command.command("show")
@click.argument("system")
@click.option("--out", help="Draw the reference to this file (png or pdf).")
def show(system: str, out: str | None) -> int:
    """Print what is known of the reference of SYSTEM, and draw it."""
    from cgbench.drawing.pmf import draw_reference
    from cgbench.errors import UserError

    if out is not None and Path(out).suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--out {out}: the suffix must be .png, .pdf or .svg")
    built = _system(system)
    reference = _reference(built)
    print(f"{built.name}, version {built.version}: {reference.source}")
    print(f"  sha256        {reference.sha256}")
    print(f"  noise floor   {reference.noise_floor:.1e} (forward KLD)")
    details = reference.details
    for name, basin in details.get("basins", {}).items():
        print(
            f"  basin {name:<12} population {basin['population']:.5f} +- {basin['population_standard_error']:.5f}, "
            f"free energy {basin['free_energy_kT']:.3f} +- {basin['free_energy_standard_error_kT']:.3f} kT"
        )
    for key in ("force_field", "temperature_K", "engine", "dynamics", "walkers", "production_steps", "seed", "date"):
        if key in details:
            print(f"  {key:<24} {details[key]}")
    for name, value in details.get("relaxation_time_ps", {}).items():
        print(f"  relaxation of {name:<10} {value:.1f} ps")
    for key, value in details.get("discretisation", {}).items():
        if not isinstance(value, dict):
            print(f"  {key}: {value:.2e}" if isinstance(value, float) else f"  {key}: {value}")
    for check in details.get("checks", []):
        print(f"  {'passed' if check['passed'] else 'FAILED'}  {check['name']}: {check['detail']}")
    if out is not None:
        draw_reference(Path(out), built.name, reference)
        print(f"  picture       {out}")
    return 0


@command.command("verify")
@click.argument("system")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=int, help="CPU threads; all cores by default.")
def verify(system: str, device: str, threads: int | None) -> int:
    """Check the hash of the reference of SYSTEM, and sample anew for at most five minutes."""
    built = _system(system, device, threads)
    reference = _reference(built)
    print(f"{built.name}: sha256 {reference.sha256[:16]}... is that of the certificate")
    failed = 0
    for check in built.verify_reference(reference):
        print(f"{'passed' if check.passed else 'FAILED'}  {check.name}: {check.detail}")
        failed += not check.passed
    print("verified" if not failed else f"{failed} checks failed")
    return 1 if failed else 0


@command.command("curve")
@click.argument("system")
@click.option("--runs", default="runs", show_default=True, help="Folder of runs; those of method md are used.")
@click.option("--out", help="Folder for md_curve.csv, md_curve.json and md_curve.png.")
def curve(system: str, runs: str, out: str | None) -> int:
    """Fit and draw what plain dynamics is worth on SYSTEM: forward KLD against evaluations."""
    from cgbench.errors import UserError
    from cgbench.results.md_baseline import md_curves
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
        print(
            f"{name:<10} KLD = {a:.3g} N^{b:.3f}; at {last['evaluations']:.2e} evaluations {last['forward_kld']:.2e} "
            f"({last['lower']:.2e} to {last['upper']:.2e}); to 1e-2 {found.evaluations_to(1e-2)[0]:.2e}, "
            f"to 1e-3 {found.evaluations_to(1e-3)[0]:.2e} evaluations"
        )
    if out is not None:
        _write_curve(Path(out), cls.name, curves)
    return 0


def _write_curve(folder: Path, system: str, curves: dict[str, Any]) -> None:
    import pandas as pd

    from cgbench.errors import UserError
    from cgbench.results.plots import draw_md_curve
    from cgbench.storage.files import write_atomically

    table = pd.concat([found.table.assign(estimator=name) for name, found in curves.items()])
    fits = {name: dict(zip(("a", "b"), found.power_law, strict=True)) for name, found in curves.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
        write_atomically(folder / "md_curve.csv", text.encode())
        facts = {"system": system, "law": "forward KLD = a N^b", "fits": fits}
        write_atomically(folder / "md_curve.json", (json.dumps(facts, indent=2) + "\n").encode())
        draw_md_curve(folder / "md_curve.png", system, curves)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
