"""The checks by name, and how they are run: every failure, of any kind, becomes one line."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cgbench.conformance import isolation, run_contract
from cgbench.conformance.failures import Failure, RunFailed
from cgbench.conformance.method_contract import method_contract, positive_pmf
from cgbench.conformance.pair import Pair
from cgbench.conformance.system_contract import system_contract
from cgbench.errors import UserError, choices

__all__ = ["CHECKS", "Outcome", "run_checks"]

CHECKS: dict[str, Callable[[Pair], str]] = {
    "system": system_contract,
    "method": method_contract,
    "pmf": positive_pmf,
    "counting": run_contract.counting,
    "determinism": run_contract.determinism,
    "resume": run_contract.resume,
    "state-space": run_contract.state_space,
    "budget": run_contract.budget,
    "blindness": isolation.blindness,
    "global-state": isolation.global_state,
    "files": isolation.files,
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of one check.

    Attributes
    ----------
    detail
        One line: what was verified, or what is wrong and what is required.
    log
        Details of a failure, such as a traceback.
    """

    name: str
    passed: bool
    detail: str
    log: str = ""


def run_checks(pair: Pair, names: Sequence[str] = ()) -> Iterator[Outcome]:
    """Run the named checks on a pair (all by default) in their fixed order, and yield each outcome.

    Raises
    ------
    UserError
        If there is no check of that name.
    """
    for name in names:
        if name not in CHECKS:
            raise UserError(f"unknown check {name!r}: choose from {choices(CHECKS)}")
    return _outcomes(pair, [name for name in CHECKS if name in names or not names])


def _outcomes(pair: Pair, names: Sequence[str]) -> Iterator[Outcome]:
    reported: set[str] = set()
    for name in names:
        try:
            yield Outcome(name, True, CHECKS[name](pair))
        except RunFailed as failed:  # several checks share one run; its reason is given once
            again = str(failed) in reported
            reported.add(str(failed))
            yield Outcome(name, False, "no complete run to examine, see above" if again else str(failed), failed.log)
        except Failure as failure:
            yield Outcome(name, False, str(failure), failure.log or _cause(failure))
        except Exception as error:  # a plugin may fail in any way
            yield Outcome(name, False, pair.explain(error), traceback.format_exc())


def _cause(failure: Failure) -> str:
    return "".join(traceback.format_exception(failure.__cause__)) if failure.__cause__ is not None else ""
