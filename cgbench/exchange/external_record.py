"""Records of scored files: like those of runs, marked as external, with evaluations that a user has stated."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgbench.contracts.system import System, maps_of
from cgbench.drawing import pmf as pictures
from cgbench.drawing.backend import attempt
from cgbench.errors import StorageError, UserError
from cgbench.exchange.formats.writers import npz_content
from cgbench.exchange.score import Score
from cgbench.running import provenance
from cgbench.running.plan import LARGEST
from cgbench.running.record import EXTERNAL_PRESET, Evaluations, Record, record_bytes, to_json
from cgbench.running.run_folder import RESULTS, RunFolder
from cgbench.scoring.referee import METRICS_VERSION
from cgbench.storage.files import csv_bytes

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
        As for `prepare`, or if the PMF has no score, the folder cannot be written, or another process is writing there.
    """
    scores = sorted(scores, key=lambda one: one[0])
    folder = prepare(out, system, [n for n, _ in scores], method=method, seed=seed, overwrite=overwrite)
    total, last = scores[-1]
    if last.reference is None:
        raise UserError(f"{system.name} has no reference that can be read, so there is nothing to record")
    names = list(last.metrics)
    rows: list[dict[str, Any]] = [
        {"evaluations": n, "wall_s": None, **{name: one.metrics.get(name) for name in names}} for n, one in scores
    ]
    record = record_bytes(_record(system, scores, method, seed))
    content = {
        "pmf.npz": npz_content(last.pmf),
        "curve.csv": csv_bytes(["evaluations", "wall_s", *names], rows),
        "checkpoint/record.copy": record,
        "record.json": record,
    }
    folder.create()
    try:
        _check_earlier(folder, overwrite)  # again, as another process may have written since
        _replace(folder, content)
        folder.clear_results([name for name in RESULTS if name not in content])
        _draw(folder.path / "pmf.png", last, method, total)
    finally:
        folder.release()
    return folder.path


def _replace(folder: RunFolder, content: Mapping[str, bytes]) -> None:
    """Write all files of a result, then move them over those of an earlier one, the record last.

    A full disk, or a kill while they are written, leaves the earlier result as it was.

    Raises
    ------
    StorageError
        If a file cannot be written.
    """
    new = {name: f"checkpoint/{Path(name).name}.new" for name in content}
    for name, temporary in new.items():
        folder.write(temporary, content[name])
    for name, temporary in new.items():
        try:
            os.replace(folder.path / temporary, folder.path / name)
        except OSError as error:
            raise StorageError(f"cannot write {folder.path / name}: {error.strerror or error}") from error


def prepare(
    out: Path, system: System, evaluations: Sequence[int], *, method: str, seed: int, overwrite: bool
) -> RunFolder:
    """Check the request for a record before anything is scored, and return its folder; parameters as `write_record`.

    Raises
    ------
    UserError
        If the system has several maps, the name of the method cannot be that of a folder, the seed is negative, the
        evaluations are not positive and different, a number is too large for tables, or there is a result already.
    """
    if (count := len(maps_of(system))) > 1:
        raise UserError(f"a record holds all {count} maps of {system.name}, a file only one: leave out --out")
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,60}", method):
        raise UserError(f"--method {method!r} must be a name of letters, digits, '.', '_', '+' and '-'")
    if not 0 <= seed <= LARGEST:
        raise UserError(f"--seed must be from 0 to {LARGEST}, not {seed}")
    if not 1 <= min(evaluations) <= max(evaluations) <= LARGEST or len(set(evaluations)) < len(evaluations):
        raise UserError(
            f"--evaluations must be from 1 to {LARGEST} and different for each file, not {list(evaluations)}"
        )
    folder = RunFolder(out / system.name / method / EXTERNAL_PRESET / f"seed-{seed}")
    _check_earlier(folder, overwrite)
    return folder


def _check_earlier(folder: RunFolder, overwrite: bool) -> None:
    """Refuse a folder with a run, or with an earlier result that must not be replaced."""
    before = folder.read_record()
    if before is not None and before.origin != "external":
        raise UserError(f"{folder.path} holds a run of cgbench: give another --out or --method")
    if before is not None and not overwrite:
        raise UserError(f"{folder.path} holds a result already: give another --seed, or --overwrite")


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
        attempt(lambda: pictures.draw_pmf(path, score.pmf, title, score.true))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; only the picture is missing") from error
