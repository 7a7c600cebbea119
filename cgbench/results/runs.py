"""Finding published runs, and what is read off their curves."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cgbench.errors import UserError
from cgbench.running.record import Record
from cgbench.running.run_folder import RunFolder

__all__ = ["KEY", "TARGETS", "FoundRun", "Key", "evaluations_to", "find_runs", "grouped"]

TARGETS = {"evaluations_to_kld_1e-2": 1e-2, "evaluations_to_kld_1e-3": 1e-3}


KEY = ("system", "version", "method", "preset")


Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class FoundRun:
    """A record, its curve, its auxiliary estimates if there are any, and where it lies."""

    record: Record
    evaluations: np.ndarray
    forward_kld: np.ndarray
    auxiliary: pd.DataFrame | None = None
    path: Path | None = None

    @property
    def noise_floor(self) -> float:
        """Forward KLD that the reference's own noise causes."""
        return float((self.record.reference or {}).get("noise_floor", 0.0))

    @property
    def final_kld(self) -> float:
        """Forward KLD of the final PMF; nan if it was not scored."""
        kld = self.record.metrics.get("forward_kld")
        return math.nan if kld is None else kld


def find_runs(folders: Sequence[Path]) -> list[FoundRun]:
    """Read all records that ended ("finished" or "budget") below the folders, each file once.

    Raises
    ------
    UserError
        If a folder is missing, or a record or curve cannot be read.
    """
    paths: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no folder of runs {str(folder)!r} (--runs)")
        for path in sorted(folder.rglob("record.json")):
            paths.setdefault(path.resolve(), path.parent)
    found = []
    for path in paths.values():
        record = RunFolder(path).read_record()
        if record is None or record.status not in ("finished", "budget"):
            continue
        try:
            columns = _read_curve(path / "curve.csv")
            file = path / "side_estimates.csv"
            auxiliary = pd.read_csv(file) if file.exists() else None
        except (OSError, LookupError, ValueError) as error:
            raise UserError(f"curve {path / 'curve.csv'} cannot be read: {error}") from error
        found.append(FoundRun(record, *columns, auxiliary, path))
    return found


def _read_curve(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Evaluations and forward KLD; a thousand of these files are read ten times as fast as by pandas."""
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    places = [header.index(name) for name in ("evaluations", "forward_kld")]
    evaluations, kld = (np.array([float(row[at] or "nan") for row in rows]) for at in places)
    return evaluations, kld


def evaluations_to(run: FoundRun, target: float) -> float:
    """Evaluations from which on the forward KLD stays at or below the target; infinite for a miss."""
    above = ~(run.forward_kld <= target)
    if len(above) == 0 or above[-1]:
        return math.inf
    return (
        float(run.evaluations[len(above) - int(np.argmax(above[::-1]))]) if above.any() else float(run.evaluations[0])
    )


def grouped(runs: Sequence[FoundRun]) -> dict[Key, list[FoundRun]]:
    """Runs by system, version, method and preset, sorted, seeds in order.

    A preset that was run with several configurations or engines becomes several, told apart by the hash of the
    configuration or by the engine: they are never averaged. The same run found twice counts once.

    Raises
    ------
    UserError
        If two different runs have the same seed.
    """
    presets: dict[Key, list[FoundRun]] = defaultdict(list)
    for run in runs:
        r = run.record
        presets[r.system, r.system_version, r.method, r.preset].append(run)
    groups: dict[Key, dict[int, FoundRun]] = defaultdict(dict)
    for (*names, preset), members in presets.items():
        configs, engines = {m.record.config_hash for m in members}, {m.record.engine for m in members}
        for run in members:
            r = run.record
            label = preset + f"-{r.config_hash[:8]}" * (len(configs) > 1) + f"-{r.engine}" * (len(engines) > 1)
            same = groups[names[0], names[1], names[2], label].setdefault(r.seed, run)
            if (same.record.evaluations, str(same.record.metrics)) != (r.evaluations, str(r.metrics)):  # nan is not nan
                raise UserError(
                    f"two different runs of {r.method} on {r.system}, preset {preset}, seed {r.seed}: "
                    f"{same.path} and {run.path}; give one of them"
                )
    return {key: [seeds[seed] for seed in sorted(seeds)] for key, seeds in sorted(groups.items())}
