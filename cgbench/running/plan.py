"""The plan of a run: the request, checked before anything is started."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cgbench.contracts.maps import FEW_CVS, PMF_GRID
from cgbench.contracts.method import FIRST_VERSION, Method, MethodConfig
from cgbench.contracts.system import System, maps_of, traits_of
from cgbench.errors import UserError, choices
from cgbench.running.configuration import config_hash, make_config
from cgbench.running.plugins import construct_system
from cgbench.running.provenance import code_of, is_of_code
from cgbench.running.record import Record
from cgbench.running.registry import load

__all__ = ["Plan", "make_plan", "too_many"]

LARGEST = 2**63 - 1  # what tables can hold
CVS_NEEDED = {PMF_GRID: "one map over at most two CVs", FEW_CVS: "at most three CVs"}


@dataclass(frozen=True)
class Plan:
    """One run: the system, the method with its configuration, and the names of its folder.

    Attributes
    ----------
    preset
        Name of the preset; if overrides change it, followed by a hash of the configuration.
    """

    system: System
    method_class: type[Method]
    config: MethodConfig
    preset: str
    seed: int
    budget: int | None

    def identity(self) -> dict[str, Any]:
        """Return what must match for a run to be resumed."""
        return {
            "system": self.system.name,
            "system_version": self.system.version,
            "method": self.method_class.name,
            "preset": self.preset,
            "seed": self.seed,
            "config_hash": config_hash(self.config),
            "engine": self.system.engine,
        }

    def with_seed(self, seed: int) -> Plan:
        """Return the same run with another seed.

        Raises
        ------
        UserError
            If the seed is invalid.
        """
        return replace(self, seed=_whole("seed", seed, 0))

    def folder(self, out: str | Path) -> Path:
        """Return the folder of the run below `out`."""
        return Path(out) / self.system.name / self.method_class.name / self.preset / f"seed-{self.seed}"

    def code(self) -> str | None:
        """Return the fingerprint of the code of method and system; see `cgbench.running.provenance.code_of`."""
        return code_of(self.method_class, type(self.system))

    def outdated(self, record: Record) -> bool:
        """Whether other or unknown code, another version or other settings made the run with this record."""
        version = str(record.provenance.get("method_version", FIRST_VERSION))
        same = all(getattr(record, name) == value for name, value in self.identity().items())
        return not (same and version == self.method_class.version and is_of_code(record.provenance, self.code()))

    def settled(self, record: Record, folder: Path) -> bool:
        """Whether the run with this record is complete.

        Raises
        ------
        UserError
            If the record belongs to another run.
        """
        for name, value in self.identity().items():
            found = getattr(record, name)
            if found != value:
                raise UserError(
                    f"{folder} holds a run with {name} {found!r}, not {value!r}; choose another --out, or --restart"
                )
        before = str(record.provenance.get("method_version", FIRST_VERSION))
        if before != self.method_class.version:
            raise UserError(
                f"{folder} holds a run of version {before} of method {record.method}, which now has version "
                f"{self.method_class.version}; choose another --out, or --restart"
            )
        ended = record.status in ("finished", "budget")
        if ended and self.budget is not None and record.evaluations.total > self.budget:
            raise UserError(f"the run in {folder} {too_many(record.evaluations.total, self.budget)}")
        enough = self.budget is not None and self.budget <= (record.budget or 0)
        return record.status == "finished" or (record.status == "budget" and enough)


def too_many(made: int, budget: int) -> str:
    """Say that a run has made more evaluations than a budget allows."""
    return (
        f"has made {made:,} evaluations, more than --budget {budget:,}; give a larger one, another --out, or --restart"
    )


def make_plan(
    system: str,
    method: str,
    *,
    preset: str = "default",
    seed: int = 0,
    budget: int | None = None,
    overrides: Sequence[str] = (),
    engine: str | None = None,
    device: str = "cpu",
    built: System | None = None,
) -> Plan:
    """Look up and check everything in a request.

    Parameters
    ----------
    system, method, preset, seed, budget, overrides, engine, device
        As in `cgbench.running.run.run`.
    built
        The system with this engine on this device, if another plan has it. Plans that are not run may share it.

    Raises
    ------
    UserError
        If anything in the request is invalid.
    """
    method_class = load("method", method)
    system_class = load("system", system)
    seed = _whole("seed", seed, 0)
    budget = None if budget is None else _whole("budget", budget, 1)
    if built is None:
        built = construct_system(system_class, system, engine, device)
    traits = traits_of(built)
    config = make_config(method_class, built.name, preset, overrides)
    missing = method_class.required_traits(config) - traits
    if missing:
        about_cvs = " and ".join(CVS_NEEDED[trait] for trait in sorted(missing & CVS_NEEDED.keys()))
        meaning = f" ({about_cvs}; {built.name} has {_maps(built)})" if about_cvs else ""
        if about_cvs and "cvs" in method_class.Config.model_fields:
            chosen = ", ".join(built.cvs.names[:2])
            meaning += f", or the setting cvs with the CVs to bias, such as --set 'cvs=[{chosen}]'"
        raise UserError(
            f"method {method_class.name} needs a system with {choices(missing)}{meaning}; "
            f"{built.name} has {choices(traits)}"
        )
    label = preset
    if overrides and config != _unchanged(method_class, built.name, preset):
        label = f"{preset}-{config_hash(config)[:8]}"
    return Plan(built, method_class, config, label, seed, budget)


def _unchanged(method: type[Method], system: str, preset: str) -> MethodConfig | None:
    """Return the configuration of a preset; None if settings that it requires are not in it."""
    try:
        return make_config(method, system, preset)
    except UserError:
        return None


def _whole(name: str, value: Any, least: int) -> int:
    """Return a number from outside as an int."""
    try:
        whole = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError as error:
        raise UserError(f"--{name} must be a whole number, not {value!r}") from error
    if whole < least:
        raise UserError(f"--{name} must be at least {least}, not {whole}")
    if whole > LARGEST:
        raise UserError(f"--{name} must be at most {LARGEST}, not {whole}")
    return whole


def _maps(system: System) -> str:
    """Describe the collective variables and maps of a system."""
    maps = maps_of(system)
    return f"{len(system.cvs)} CVs and {len(maps)} map{'s' if len(maps) > 1 else ''}"
