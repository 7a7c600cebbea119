"""Checks of isolation: a run must not depend on the reference, and must not change global state or other files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from cgbench.conformance.failures import Failure, RunFailed
from cgbench.conformance.observed_run import ObservedRun
from cgbench.conformance.pair import Pair
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import MapReference, Reference
from cgbench.contracts.system import System, maps_of
from cgbench.errors import UserError
from cgbench.scoring.referee import Referee

__all__ = ["blindness", "files", "global_state"]

UNREADABLE = (PermissionError("not permitted"), UserError("missing"))
SECRETS = ("reference", "basin", "truth")


def blindness(pair: Pair) -> str:
    """Check that estimates and cost do not change with another reference, or with one that cannot be read."""
    whole = pair.whole
    _check_problem(pair)
    swapped = _swapped(pair.plan.system)
    where = "with another reference"
    _check_unchanged(_run(pair, "swapped", {"reference": lambda system: swapped}, where), whole, where)
    for number, error in enumerate(UNREADABLE):
        where = f"with a reference that cannot be read ({type(error).__name__})"
        hidden = {name: _raising(error) for name in ("reference", "reference_samples")}
        blind = _run(pair, f"unreadable-{number}", hidden, where)
        _check_unchanged(blind, whole, where)
        scored = [name for name, value in blind.ended.metrics.items() if value is not None]
        if scored or blind.ended.density is not None:
            raise Failure(f"{where}, the run still has scores: {', '.join(scored) or 'density'}")
    return "the same bits with another reference and without a reference; only the scores change"


def _check_problem(pair: Pair) -> None:
    """Check that no public attribute of a Problem gives access to the reference."""
    job = pair.prepare("problem")
    job.folder.release()
    for name in dir(job.problem):
        if name.startswith("_"):
            continue
        if any(secret in name for secret in SECRETS):
            raise Failure(f"Problem offers {name!r} to the method")
        value = None if name == "compile" else getattr(job.problem, name, None)
        if isinstance(value, (Reference, Referee, System, PMF)):
            raise Failure(f"Problem.{name} is a {type(value).__name__}, which gives the method access to the reference")


def _swapped(system: System) -> Reference:
    """Return a wrong reference: the true one reversed along its axes, or an arbitrary one if there is no true one."""
    true = Referee(system).reference
    if true is None:
        first, *further = (_ramp(one.cvs) for one in maps_of(system))
        names = () if system.states is None else system.states.names
        populations = {name: (1 / len(names), 0.0) for name in names} or None
        return Reference(first.pmf, None, 0.0, "arbitrary", "-", further=tuple(further), populations=populations)
    first, *further = (MapReference(PMF(one.pmf.cvs, np.flip(one.pmf.probability) + 1e-6), None) for one in true.maps)
    return dataclasses.replace(true, pmf=first.pmf, standard_error=None, noise_floor=0.0, further=tuple(further))


def _ramp(cvs: CollectiveVariables) -> MapReference:
    return MapReference(PMF(cvs, np.arange(1.0, math.prod(cvs.bins) + 1).reshape(cvs.bins)), None)


def _raising(error: Exception) -> Callable[..., Any]:
    def unreadable(system: Any) -> Any:
        raise error

    return unreadable


def _run(pair: Pair, folder: str, attributes: dict[str, Any], where: str) -> ObservedRun:
    try:
        return pair.finished(folder, attributes=attributes)
    except RunFailed as failed:
        raise Failure(f"{where}, {failed}; a method must not read the reference", failed.log) from failed


def _check_unchanged(found: ObservedRun, whole: ObservedRun, where: str) -> None:
    if found.ended.evaluations != whole.ended.evaluations:
        raise Failure(
            f"{where}, the run takes {found.ended.evaluations.total:,} evaluations, "
            f"not {whole.ended.evaluations.total:,}; a method must not use the reference"
        )
    if found.pmf != whole.pmf:
        raise Failure(f"{where}, the run ends with a different pmf.npz; a method must not use the reference")


def _side_effects(pair: Pair, kind: Literal["state", "files"]) -> list[str]:
    """Return what the runs so far changed; there is at least one complete run."""
    _ = pair.whole
    return list(dict.fromkeys(name for effects in pair.side_effects for name in getattr(effects, kind)))


def global_state(pair: Pair) -> str:
    """Check that global random generators and settings of torch, numpy and Python are as before the run."""
    changed = _side_effects(pair, "state")
    if changed:
        raise Failure(f"a run changes {', '.join(changed)}; draw from self.streams, and restore settings")
    return "global random generators and settings of torch, numpy and Python are unchanged"


def files(pair: Pair) -> str:
    """Check that a run writes only to its folder, and removes its temporary files."""
    stray = _side_effects(pair, "files")
    if stray:
        more = f" and {len(stray) - 3} more" if len(stray) > 3 else ""
        raise Failure(
            f"a run leaves or writes {', '.join(stray[:3])}{more}; its only output is what it yields and returns"
        )
    return "nothing is written outside the run's folder"
