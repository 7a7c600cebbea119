"""What a run must not depend on, and must not change: the truth, global state, files outside its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from cgbench.conformance.pair import Pair
from cgbench.conformance.trace import Failure, RunFailed, Trace
from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench.scoring.referee import Referee

__all__ = ["blindness", "files", "global_state"]

UNREADABLE = (PermissionError("it is not yours"), UserError("it is gone"))
SECRETS = ("reference", "basin", "truth")


def blindness(pair: Pair) -> str:
    """With another reference, or none that can be read, a run makes the same estimates at the same cost."""
    whole = pair.whole
    _check_problem(pair)
    swapped = _swapped(pair.plan.system)
    told = "with another reference"
    _check_unmoved(_run(pair, "swapped", {"reference": lambda system: swapped}, told), whole, told)
    for number, error in enumerate(UNREADABLE):
        told = f"with a reference that cannot be read ({type(error).__name__})"
        hidden = {name: _raising(error) for name in ("reference", "reference_samples")}
        blind = _run(pair, f"unreadable-{number}", hidden, told)
        _check_unmoved(blind, whole, told)
        scored = [name for name, value in blind.ended.metrics.items() if value is not None]
        if scored or blind.ended.density is not None:
            raise Failure(f"{told}, the run still has scores: {', '.join(scored) or 'density'}")
    return "the same bits with another reference and with none; only the scores change"


def _check_problem(pair: Pair) -> None:
    """Nothing public in a Problem leads to the truth."""
    job = pair.prepare("problem")
    job.folder.release()
    for name in dir(job.problem):
        if name.startswith("_"):
            continue
        if any(secret in name for secret in SECRETS):
            raise Failure(f"Problem offers {name!r} to the method")
        value = None if name == "compile" else getattr(job.problem, name, None)
        if isinstance(value, (Reference, Referee, System, PMF)):
            raise Failure(f"Problem.{name} is a {type(value).__name__}, and so leads the method to the truth")


def _swapped(system: System) -> Reference:
    """Return a reference that is as wrong as can be: the true one turned around, or anything where there is none."""
    true = Referee(system).reference
    if true is None:
        size = int(np.prod(system.cvs.bins))
        return Reference(PMF(system.cvs, np.arange(1.0, size + 1).reshape(system.cvs.bins)), None, 0.0, "made up", "-")
    probability = np.flip(true.pmf.probability) + 1e-6
    return dataclasses.replace(true, pmf=PMF(system.cvs, probability), standard_error=None, noise_floor=0.0)


def _raising(error: Exception) -> Callable[..., Any]:
    def unreadable(system: Any) -> Any:
        raise error

    return unreadable


def _run(pair: Pair, folder: str, attributes: dict[str, Any], told: str) -> Trace:
    try:
        return pair.finished(folder, attributes=attributes)
    except RunFailed as failed:
        raise Failure(f"{told}, {failed}; a method may not ask for the truth", failed.log) from failed


def _check_unmoved(found: Trace, whole: Trace, told: str) -> None:
    if found.ended.evaluations != whole.ended.evaluations:
        raise Failure(
            f"{told}, the run takes {found.ended.evaluations.total:,} evaluations, "
            f"not {whole.ended.evaluations.total:,}; a method may not see the truth"
        )
    if found.pmf != whole.pmf:
        raise Failure(f"{told}, the run ends with another pmf.npz; a method may not see the truth")


def _seen(pair: Pair, kind: Literal["state", "files"]) -> list[str]:
    """What any run so far changed, a whole one at least."""
    _ = pair.whole
    return list(dict.fromkeys(name for around in pair.around for name in getattr(around, kind)))


def global_state(pair: Pair) -> str:
    """Global random generators and settings of torch, numpy and Python are what they were before the run."""
    changed = _seen(pair, "state")
    if changed:
        raise Failure(f"a run changes {', '.join(changed)}; draw from self.streams, and put settings back")
    return "random generators and settings of torch, numpy and Python are left alone"


def files(pair: Pair) -> str:
    """Nothing is written but in the run's folder; temporary files are gone at the end."""
    stray = _seen(pair, "files")
    if stray:
        more = f" and {len(stray) - 3} more" if len(stray) > 3 else ""
        raise Failure(
            f"a run leaves or writes {', '.join(stray[:3])}{more}; it may only write through what it yields and returns"
        )
    return "nothing is written outside the run's folder"
