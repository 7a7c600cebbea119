"""Rows of a table: which runs belong together, and what differs between them although it may matter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from cgbench.errors import UserError
from cgbench.results.runs import FoundRun
from cgbench.running.record import Record

__all__ = ["KEY", "Key", "differences", "grouped", "of_row", "same_speed"]

KEY = ("system", "version", "method", "preset")
SAME_SPEED = 1.25  # largest ratio of the measured speeds of machines that count as the same
Key = tuple[str, str, str, str]


def grouped(runs: Sequence[FoundRun]) -> dict[Key, list[FoundRun]]:
    """Group runs by system, version, method and preset; groups are sorted, and seeds within a group.

    Runs of a preset with different configurations or engines are never averaged: they form separate groups, named by
    the hash of the configuration or by the engine. Copies of one run count once.

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
            if not _is_copy(same.record, r):
                raise UserError(
                    f"two different runs of {r.method} on {r.system}, preset {preset}, seed {r.seed}: "
                    f"{same.path} and {run.path}; give one of them"
                )
    return {key: [seeds[seed] for seed in sorted(seeds)] for key, seeds in sorted(groups.items())}


def _is_copy(a: Record, b: Record) -> bool:
    """Return whether the records of one seed are of one run.

    Without a reference all scores are None, so results alone do not tell runs apart. No two runs take the same
    seconds. The provenance counts as far as both records state it, because ``studies/code.py`` adds to it later. That
    of an external result is where it was scored, so its files count instead.
    """
    if (a.origin, a.evaluations, str(a.metrics)) != (b.origin, b.evaluations, str(b.metrics)):  # nan != nan
        return False
    if a.origin == "external":
        return bool(a.diagnostics.get("files") == b.diagnostics.get("files"))
    stated = a.provenance.keys() & b.provenance.keys()
    return a.seconds == b.seconds and all(a.provenance[name] == b.provenance[name] for name in stated)


def of_row(members: Sequence[FoundRun], records: Iterable[Record]) -> list[Record]:
    """Return the records of further runs that would be in the row of some runs."""
    return [record for record in records if any(_kind(record) == _kind(member.record) for member in members)]


def _kind(record: Record) -> tuple[str, ...]:
    names = (record.system, record.system_version, record.method, record.preset)
    return (*names, record.config_hash, record.engine)


def same_speed(runs: Sequence[FoundRun]) -> bool:
    """Return whether the measured speeds of the machines of some runs agree, as far as they were measured."""
    speeds = [run.speed for run in runs if run.speed is not None]
    return not speeds or max(speeds) <= SAME_SPEED * min(speeds)


def differences(members: Sequence[FoundRun]) -> dict[str, list[str]]:
    """Return what differs between the seeds of a row although it may change a score or a time, with the values.

    Compared are the code, the reference, the version of the metrics, the hardware and its measured speed, threads and
    kernels (compiled or not). The code is compared by its fingerprint; by the commit if a record has none. Speeds
    differ if their ratio is above `SAME_SPEED`.
    """
    codes = [str(m.record.provenance.get("code") or "") for m in members]
    found = {
        **({"code": codes} if all(codes) else {"commit": [_commit(m.record) for m in members]}),
        "reference": [str((m.record.reference or {}).get("sha256") or "none")[:16] for m in members],
        "metrics version": [str(m.record.metrics_version or "unknown") for m in members],
        "hardware": [m.hardware for m in members],
        "speed": [] if same_speed(members) else [f"{m.speed:.0f}" for m in members if m.speed is not None],
        "threads": [str(m.record.threads) for m in members],
        "kernels": ["compiled" if m.record.provenance.get("native") else "none" for m in members],
    }
    return {name: sorted(set(values)) for name, values in found.items() if len(set(values)) > 1}


def _commit(record: Record) -> str:
    git = record.provenance.get("git") or {}
    return str(git.get("commit") or "unknown")[:8] + "-dirty" * bool(git.get("dirty"))
