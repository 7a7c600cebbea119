"""Published records, as figures and tables need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from cgbench import load_system
from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import MapReference, Reference
from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench.results.baseline.curve import MDCurve, md_curves
from cgbench.results.leaderboard import leaderboard
from cgbench.results.rescore import stored_estimate
from cgbench.results.rows import grouped
from cgbench.results.runs import FoundRun, find_runs
from cgbench.running.registry import load
from cgbench.scoring.referee import Referee
from cgbench.storage.files import read_npz

__all__ = ["MissingData", "Records", "arrays_of", "commands"]

Array = NDArray[Any]
Group = tuple[str, str]


class MissingData(Exception):
    """The records lack the data of a figure; the message gives the command that makes them."""


def arrays_of(run: FoundRun) -> Mapping[str, Array]:
    """Return the named arrays of a run's ``pmf.npz``.

    Raises
    ------
    UserError
        If the file is missing or damaged.
    """
    assert run.path is not None
    try:
        return read_npz(run.path / "pmf.npz")
    except ValueError as error:
        raise UserError(str(error)) from error


class Records:
    """Finished runs in ``<folder>/<system>/<method>/<preset>/seed-<n>`` of the systems' current versions.

    Runs elsewhere below the folder, such as those of an ablation, are ignored. Runs of another version of a system, or
    of a system that is not installed, are left out, with a line in `skipped`.

    Parameters
    ----------
    folder
        Folder of runs.

    Raises
    ------
    UserError
        If the folder is missing, a record cannot be read, or two runs contradict each other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.skipped: list[str] = []
        placed = [run for run in find_runs([folder]) if self._in_place(run)]
        versions = {name: self._version(name) for name in sorted({run.record.system for run in placed})}
        self.runs = [run for run in placed if versions[run.record.system] == run.record.system_version]
        for run in placed:
            known = versions[run.record.system]
            if known not in (None, run.record.system_version):
                where = f"{run.record.system}, not its current version {known}"
                self.skipped.append(f"{run.path}: of version {run.record.system_version} of {where}")
        self._groups = {(key[0], key[2], key[3]): members for key, members in grouped(self.runs).items()}
        self._systems: dict[str, System] = {}
        self._references: dict[str, Reference] = {}

    def _in_place(self, run: FoundRun) -> bool:
        assert run.path is not None
        r = run.record
        return run.path.relative_to(self.folder).parts == (r.system, r.method, r.preset, f"seed-{r.seed}")

    def _version(self, system: str) -> str | None:
        try:
            return str(load("system", system).version)
        except UserError as error:
            self.skipped.append(f"runs of {system}: {error}")
            return None

    @property
    def systems(self) -> list[str]:
        """Names of the systems that have runs."""
        return sorted({system for system, _, _ in self._groups})

    @property
    def methods(self) -> list[str]:
        """Names of the methods that have runs."""
        return sorted({method for _, method, _ in self._groups})

    def groups(self, system: str, methods: Iterable[str] | None = None) -> dict[Group, list[FoundRun]]:
        """Return the runs of a system by method and preset, seeds in order; of these methods, or of all."""
        wanted = None if methods is None else set(methods)
        return {
            (method, preset): members
            for (name, method, preset), members in self._groups.items()
            if name == system and (wanted is None or method in wanted)
        }

    def counted(self, system: str) -> dict[Group, list[FoundRun]]:
        """Return `groups` without results of other programs, whose cost nobody counted."""
        groups = self.groups(system).items()
        return {group: members for group, members in groups if members[0].record.origin == "run"}

    def system(self, name: str) -> System:
        """Return a system, built once."""
        if name not in self._systems:
            self._systems[name] = load_system(name)
        return self._systems[name]

    def reference(self, system: str) -> Reference:
        """Return the reference of a system, from the referee.

        Raises
        ------
        UserError
            If the system has none that can be read.
        """
        if system not in self._references:
            referee = Referee(self.system(system))
            if referee.reference is None:
                raise UserError(f"reference of {system}: {referee.problem}")
            self._references[system] = referee.reference
        return self._references[system]

    def maps(self, run: FoundRun) -> list[tuple[MapReference, PMF]]:
        """Return the reference and the final PMF of each map of a run's system.

        Raises
        ------
        UserError
            If one of them is missing or damaged.
        """
        name = run.record.system
        assert run.path is not None
        try:
            found = stored_estimate(run.path / "pmf.npz", self.system(name)).pmfs
        except (ValueError, KeyError) as error:
            raise UserError(f"PMFs in {run.path}: {' '.join(str(error).split())}") from error
        return list(zip(self.reference(name).maps, found, strict=True))

    def md_curves(self, system: str) -> dict[str, MDCurve]:
        """Return the curves of plain MD by estimator."""
        return md_curves([run for members in self.groups(system, ["md"]).values() for run in members])

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """The leaderboard of these runs."""
        return leaderboard(self.runs)

    def first_with(self, system: str, method: str, array: str, presets: Iterable[str] = ()) -> FoundRun:
        """Return the run of lowest seed that has an array of this name.

        Parameters
        ----------
        presets
            Searched in this order, before all others; the message suggests to run the last.

        Raises
        ------
        MissingData
            If no run has it.
        """
        groups = self.groups(system, [method])
        order = list(presets)
        ranked = sorted(groups, key=lambda key: (order.index(key[1]) if key[1] in order else len(order), key[1]))
        for key in ranked:
            for run in groups[key]:
                if array in arrays_of(run):
                    return run
        preset = order[-1] if order else "default"
        again = " --restart" if (method, preset) in groups else ""  # an older run, without the array
        raise MissingData(
            f"no run of {method} on {system} has the array {array!r}; `cgbench run --system {system} --method {method} "
            f"--preset {preset} --out {self.folder}{again}` makes one"
        )


def commands(runs: Iterable[FoundRun]) -> str:
    """Return a Markdown list of the commands that make the runs, with their seeds and evaluations."""
    groups: dict[tuple[str, str, str], list[FoundRun]] = {}
    for run in runs:
        r = run.record
        options = f" --engine {r.engine}" if r.engine != "torch" else ""
        options += f" --device {r.device}" if r.device != "cpu" else ""
        options += f" --budget {r.budget}" if r.budget is not None else ""
        groups.setdefault((r.system, r.method, r.preset + options), []).append(run)
    lines = []
    for (system, method, preset), members in sorted(groups.items()):
        seeds = sorted({m.record.seed for m in members})
        contiguous = seeds == list(range(seeds[0], seeds[-1] + 1))
        shown = f"{seeds[0]} to {seeds[-1]}" if contiguous and len(seeds) > 1 else ", ".join(map(str, seeds))
        seed = "N" if len(seeds) > 1 else str(seeds[0])
        totals = [m.record.evaluations.total for m in members]
        spread = f"{min(totals):,}" if min(totals) == max(totals) else f"{min(totals):,} to {max(totals):,}"
        command = f"cgbench run --system {system} --method {method} --preset {preset} --seed {seed}"
        if all(m.record.origin == "external" for m in members):  # of another program
            command = f"cgbench score FILE --system {system} --method {method} --seed {seed} --evaluations N --out runs"
        lines.append(f"- `{command}`: seed{'s N =' if len(seeds) > 1 else ''} {shown}; {spread} energy evaluations")
    return "\n".join(lines)
