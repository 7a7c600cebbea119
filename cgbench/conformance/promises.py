"""The promises of a run: the same bits, every evaluation counted, no budget passed, nothing lost by a kill."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cgbench.conformance.pair import Pair
from cgbench.conformance.trace import Failure, Moment, RunFailed, Trace

__all__ = ["budget", "counting", "determinism", "resume"]

FEW = 4  # estimates: up to so many, a run is killed after each of them


def determinism(pair: Pair) -> str:
    """The same seed gives the same bits, another seed another result."""
    whole = pair.whole
    _same(pair.finished("again"), whole, "a second run with the same seed")
    other = pair.finished("other", seed=pair.seed + 1)
    if other.pmf == whole.pmf:
        raise Failure(
            f"seeds {pair.seed} and {pair.seed + 1} give the same bits; all random numbers must come from self.streams"
        )
    return f"seed {pair.seed} twice gives the same bits, seed {pair.seed + 1} others"


def counting(pair: Pair) -> str:
    """The ledger equals a counter in the system's energy functions, at every estimate and at the end."""
    trace = pair.whole
    evaluations = trace.ended.evaluations
    for number, moment in enumerate(trace.moments, 1):
        _check_counted(moment.charged, moment.counted, f"at estimate {number}")
    _check_counted(evaluations.total, trace.counter.count, "at the end")
    if trace.counter.minimised:
        raise Failure("OpenMM minimised an energy, and nobody knows how many evaluations that took; use self.problem")
    if not evaluations.total:
        raise Failure("no energy was evaluated at all; estimates must come from the energy")
    unassigned = evaluations.by_phase.get("unassigned", 0)
    if unassigned:
        raise Failure(f'{unassigned:,} evaluations in no phase; make them within "with self.problem.phase(name):"')
    where = "the energy functions" + (" and OpenMM's steps" if "openmm" in pair.plan.system.traits else "")
    phases = ", ".join(f"{name} {count:,}" for name, count in evaluations.by_phase.items())
    return f"{evaluations.total:,} evaluations ({phases}), as counted in {where}"


def _check_counted(charged: int, counted: int, when: str) -> None:
    if counted > charged:
        raise Failure(
            f"{when} the ledger has {charged:,} evaluations, but {counted:,} were made: "
            f"{counted - charged:,} went around self.problem"
        )
    if counted < charged:
        raise Failure(f"{when} the ledger has {charged:,} evaluations, but only {counted:,} were made")


def budget(pair: Pair) -> str:
    """No budget is passed by one evaluation; the last estimate stands; a larger budget goes on to the same bits."""
    whole = pair.whole
    total = whole.ended.evaluations.total
    middle = whole.moments[(len(whole.moments) - 1) // 2].charged
    budgets = sorted({1, middle - 1, middle, middle + 1} - {0})
    for allowed in budgets:
        _check_budget(pair, pair.trace(f"budget-{allowed}", budget=allowed), allowed)
    extended = pair.finished(f"budget-{budgets[-1]}", budget=2 * total, resume=True)
    _same(extended, whole, f"a run cut short at {budgets[-1]:,} evaluations that went on with a larger budget")
    return f"kept at {', '.join(f'{allowed:,}' for allowed in budgets)} of {total:,}, and a larger one goes on"


def _check_budget(pair: Pair, trace: Trace, allowed: int) -> None:
    whole, record, counted = pair.whole, trace.ended, trace.counter.count
    told = f"with a budget of {allowed:,}"
    if counted > allowed or trace.counter.minimised:
        raise Failure(f"{told}, {counted:,} evaluations were made")
    if record.evaluations.total != counted:
        raise Failure(f"{told}, {counted:,} evaluations were made, but the record says {record.evaluations.total:,}")
    expected = [moment for moment in whole.moments if moment.charged <= allowed]
    status = "finished" if allowed >= whole.ended.evaluations.total else "budget" if expected else "failed"
    if record.status != status:
        raise Failure(
            f"{told}, the run ends as {record.status!r} ({record.reason}), not as {status!r}; "
            f"BudgetExhausted must be let through"
        )
    if status == "failed" and "no estimate within the budget" not in (record.reason or ""):
        raise Failure(f"{told}, the run fails by another reason ({record.reason}); BudgetExhausted must be let through")
    if not _equal(trace.moments, expected):
        raise Failure(f"{told}, the estimates are not those of the run without one; a budget may change nothing else")
    if expected:
        with np.load(trace.folder / "pmf.npz") as arrays:
            if not np.array_equal(arrays["probability"], expected[-1].probability):
                raise Failure(f"{told}, pmf.npz does not hold the last estimate")


def _equal(found: Sequence[Moment], expected: Sequence[Moment]) -> bool:
    return len(found) == len(expected) and all(
        a.charged == b.charged and np.array_equal(a.probability, b.probability)
        for a, b in zip(found, expected, strict=True)
    )


def resume(pair: Pair) -> str:
    """A run that was killed after an estimate ends with the same bits, evaluations and curve."""
    whole = pair.whole
    estimates = len(whole.moments)
    chosen = set(range(1, estimates + 1)) if estimates <= FEW else {1, (estimates + 1) // 2, estimates}
    for number in sorted(chosen):
        folder = f"killed-{number}"
        killed = pair.trace(folder, kill_after=number)
        if killed.record is not None:
            raise Failure(f"a second run makes {len(killed.moments)} estimates, the first made {estimates}")
        told = f"killed after estimate {number} of {estimates} and resumed, a run"
        try:
            resumed = pair.finished(folder, resume=True)
        except RunFailed as failed:
            raise Failure(f"{told} does not end: {failed}", failed.log) from failed
        if resumed.started_at is None:
            raise Failure(f"{told} starts over; the checkpoint was not found")
        _same(resumed, whole, told, "is in state_dict() all that estimates() goes on from?")
        made = whole.ended.evaluations.total - resumed.started_at
        if resumed.counter.count != made:
            raise Failure(f"{told} makes {resumed.counter.count:,} more evaluations, not {made:,}")
    numbers = ", ".join(str(number) for number in sorted(chosen))
    return f"killed after estimate {numbers} of {estimates}, it ends with the same bits, evaluations and curve"


def _same(found: Trace, expected: Trace, told: str, hint: str = "") -> None:
    """Compare evaluations, curve and PMF of two runs that should be the same."""
    hint = f"; {hint}" if hint else ""
    a, b = found.ended.evaluations, expected.ended.evaluations
    if a != b:
        raise Failure(f"{told} has {a.total:,} evaluations {a.by_phase}, not {b.total:,} {b.by_phase}{hint}")
    if found.curve != expected.curve:
        rows = zip(found.curve, expected.curve, strict=False)
        row = next((n for n, (one, two) in enumerate(rows) if one != two), min(len(found.curve), len(expected.curve)))
        raise Failure(f"{told} has another curve from row {row} on{hint}")
    if found.pmf != expected.pmf:
        raise Failure(f"{told} ends with another pmf.npz{hint}")
