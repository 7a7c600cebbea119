"""Records of scored files: like those of runs, marked as external, with evaluations that a user has stated."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cgbench.contracts.system import System, maps_of
from cgbench.drawing import pmf as pictures
from cgbench.drawing.backend import attempt
from cgbench.errors import UserError
from cgbench.exchange.formats.writers import npz_content
from cgbench.exchange.score import Score
from cgbench.running import provenance
from cgbench.running.record import EXTERNAL_PRESET, Evaluations, Record, to_json
from cgbench.running.run_folder import RunFolder
from cgbench.scoring.referee import METRICS_VERSION

__all__ = ["prepare", "write_record"]

DEFAULT_METHOD = "external"
# facts about where it was scored, not made
MACHINE = ("cpu", "cores", "speed", "threads", "accelerator", "native", "platform")
SELF_REPORTED = "evaluations are self-reported: they were stated by a user, not counted"


def write_record(
    out: Path,
    system: System,
    scores: Sequence[tuple[int, Score]],
    *,
    method: str = DEFAULT_METHOD,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write the folder of an external result, ``<out>/<system>/<method>/self-reported/seed-<n>``.

    Parameters
    ----------
    out
        Parent folder of runs.
    system
        The system.
    scores
        Evaluations, as the user states them, and score of each file; several give a curve, and the last is the result.
    method
        Name of the method.
    seed
        Number of the result among several of the same method.
    overwrite
        Replace a result in the folder.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    UserError
        As for `prepare`, or if the PMF has no score or the folder cannot be written.
    """
    scores = sorted(scores, key=lambda one: one[0])
    folder = prepare(out, system, [n for n, _ in scores], method=method, seed=seed, overwrite=overwrite)
    total, last = scores[-1]
    if last.reference is None:
        raise UserError(f"{system.name} has no reference that can be read, so there is nothing to record")
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder.path}: {error.strerror}; choose another folder with --out") from error
    names = list(last.metrics)
    folder.clear_results()
    folder.write("pmf.npz", npz_content(last.pmf))
    rows: list[dict[str, Any]] = [
        {"evaluations": n, "wall_s": None, **{name: one.metrics.get(name) for name in names}} for n, one in scores
    ]
    folder.write_table("curve.csv", ["evaluations", "wall_s", *names], rows)
    record = _record(system, scores, method, seed)
    folder.write_record(record)
    _draw(folder.path / "pmf.png", last, method, total)
    return folder.path


def prepare(
    out: Path, system: System, evaluations: Sequence[int], *, method: str, seed: int, overwrite: bool
) -> RunFolder:
    """Check the request for a record before anything is scored, and return its folder; parameters as `write_record`.

    Raises
    ------
    UserError
        If the system has several maps, the name of the method cannot be that of a folder, the evaluations are not
        positive and different, or there is a result already.
    """
    if (count := len(maps_of(system))) > 1:
        raise UserError(f"a record holds all {count} maps of {system.name}, a file only one: leave out --out")
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,60}", method):
        raise UserError(f"--method {method!r} must be a name of letters, digits, '.', '_', '+' and '-'")
    if seed < 0:
        raise UserError(f"--seed must be at least 0, not {seed}")
    if min(evaluations) < 1 or len(set(evaluations)) < len(evaluations):
        raise UserError(f"--evaluations must be at least 1 and different for each file, not {list(evaluations)}")
    folder = RunFolder(out / system.name / method / EXTERNAL_PRESET / f"seed-{seed}")
    before = folder.read_record()
    if before is not None and before.origin != "external":
        raise UserError(f"{folder.path} holds a run of cgbench: give another --out or --method")
    if before is not None and not overwrite:
        raise UserError(f"{folder.path} holds a result already: give another --seed, or --overwrite")
    return folder


def _record(system: System, scores: Sequence[tuple[int, Score]], method: str, seed: int) -> Record:
    total, last = scores[-1]
    facts = provenance.collect("cpu", 1)
    config: dict[str, Any] = {"format": last.format, "unit": last.unit, "temperature": last.temperature}
    files = [{"name": s.path.name if s.path else "", "sha256": s.sha256, "evaluations": n} for n, s in scores]
    diagnostics: dict[str, Any] = {
        "files": files,
        "axes": last.axes,
        "assumed": list(last.assumed),
        "notes": list(last.notes),
        "warnings": [SELF_REPORTED, *last.warnings],
        "empty_bins": last.empty_bins,
    }
    if last.sampled is not None:
        diagnostics["statistical_inefficiency"] = last.sampled.inefficiency
        diagnostics["independent_samples"] = last.sampled.independent
        diagnostics["other_estimator"] = last.other_metrics
    return Record(
        origin="external",
        system=system.name,
        system_version=system.version,
        method=method,
        preset=EXTERNAL_PRESET,
        seed=seed,
        config=config,
        config_hash=hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        engine="external",
        device="cpu",
        threads=0,
        budget=None,
        status="finished",
        reason=None,
        evaluations=Evaluations(total=total, by_phase={"self_reported": total}, publication_convention=total),
        metrics=last.metrics,
        metrics_version=METRICS_VERSION,
        density=last.density,
        diagnostics=json.loads(to_json(diagnostics)),
        reference=last.reference,
        provenance={name: value for name, value in facts.items() if name not in MACHINE},
    )


def _draw(path: Path, score: Score, method: str, total: int) -> None:
    """Draw the PMF; without a picture the result is complete."""
    title = f"{method} on {score.system}, {score.format}\n{total:,} evaluations (self-reported), "
    title += f"forward KLD {score.forward_kld:.1e}"
    try:
        attempt(lambda: pictures.draw_pmf(path, score.pmf, title))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; only the picture is missing") from error
