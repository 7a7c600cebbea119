"""The checks by name, and how they are run: what fails is a line, whatever it was."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cgbench.conformance import isolation, promises
from cgbench.conformance.method_contract import method_contract, positive_pmf
from cgbench.conformance.pair import Pair
from cgbench.conformance.system_contract import system_contract
from cgbench.conformance.trace import Failure, RunFailed
from cgbench.errors import UserError, choices

__all__ = ["CHECKS", "Outcome", "run_checks"]

CHECKS: dict[str, Callable[[Pair], str]] = {
    "system": system_contract,
    "method": method_contract,
    "pmf": positive_pmf,
    "counting": promises.counting,
    "determinism": promises.determinism,
    "resume": promises.resume,
    "budget": promises.budget,
    "blindness": isolation.blindness,
    "global-state": isolation.global_state,
    "files": isolation.files,
}


@dataclass(frozen=True)
class Outcome:
    """How a check ended.

    Attributes
    ----------
    detail
        One line: what was seen, or what was found and what would be right.
    log
        More about a failure: a traceback.
    """

    name: str
    passed: bool
    detail: str
    log: str = ""


def run_checks(pair: Pair, names: Sequence[str] = ()) -> Iterator[Outcome]:
    """Put a pair through checks, all by default, in their order, and yield how each ended.

    Raises
    ------
    UserError
        For the name of a check that does not exist.
    """
    for name in names:
        if name not in CHECKS:
            raise UserError(f"unknown check {name!r}: choose from {choices(CHECKS)}")
    return _outcomes(pair, [name for name in CHECKS if name in names or not names])


def _outcomes(pair: Pair, names: Sequence[str]) -> Iterator[Outcome]:
    told: set[str] = set()
    for name in names:
        try:
            yield Outcome(name, True, CHECKS[name](pair))
        except RunFailed as failed:  # the same run for many checks; its reason is told once
            again = str(failed) in told
            told.add(str(failed))
            detail = "there is no whole run to look at, as above" if again else str(failed)
            yield Outcome(name, False, detail, failed.log)
        except Failure as failure:
            yield Outcome(name, False, str(failure), failure.log or _cause(failure))
        except Exception as error:  # a plugin may fail in any way
            yield Outcome(name, False, pair.explain(error), traceback.format_exc())


def _cause(failure: Failure) -> str:
    return "".join(traceback.format_exception(failure.__cause__)) if failure.__cause__ is not None else ""
