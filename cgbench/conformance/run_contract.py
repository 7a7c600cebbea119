"""Checks of a run: reproducible, every evaluation counted, budget kept, nothing lost by a kill, state space kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cgbench.conformance.failures import Failure, RunFailed
from cgbench.conformance.observed_run import ObservedEstimate, ObservedRun
from cgbench.conformance.pair import Pair

__all__ = ["budget", "counting", "determinism", "resume", "state_space"]

FEW = 4  # estimates; a run with at most this many is killed after each of them


def determinism(pair: Pair) -> str:
    """Check that the same seed gives the same bits, and another seed a different result."""
    whole = pair.whole
    _check_same(pair.finished("again"), whole, "a second run with the same seed")
    other = pair.finished("other", seed=pair.seed + 1)
    if other.pmf == whole.pmf:
        raise Failure(
            f"seeds {pair.seed} and {pair.seed + 1} give the same bits; all random numbers must come from self.streams"
        )
    return f"seed {pair.seed} is reproducible to the bit, seed {pair.seed + 1} differs"


def counting(pair: Pair) -> str:
    """Check that the ledger agrees with an independent counter, at every estimate and at the end."""
    run = pair.whole
    evaluations = run.ended.evaluations
    if run.counter.minimised:
        raise Failure("OpenMM minimised an energy, which takes an unknown number of evaluations; use self.problem")
    for number, estimate in enumerate(run.estimates, 1):
        _check_counted(estimate.charged, estimate.counted, f"at estimate {number}", run.counter.approximate)
    _check_counted(evaluations.total, run.counter.count, "at the end", run.counter.approximate)
    if not evaluations.total:
        raise Failure("no energy was evaluated at all; estimates must come from the energy")
    unassigned = evaluations.by_phase.get("unassigned", 0)
    if unassigned:
        raise Failure(f'{unassigned:,} evaluations in no phase; make them within "with self.problem.phase(name):"')
    where = "the energy functions" + (" and by OpenMM" if "openmm" in pair.plan.system.traits else "")
    if run.counter.approximate and run.counter.count < evaluations.total:
        where += f" ({run.counter.count:,}; a custom integrator is charged an upper bound)"
    phases = ", ".join(f"{name} {count:,}" for name, count in evaluations.by_phase.items())
    return f"{evaluations.total:,} evaluations ({phases}), as counted in {where}"


def state_space(pair: Pair) -> str:
    """Say whether the method reports samples outside the state space, and how many there are."""
    record = pair.whole.ended
    found = record.state_space
    if found is None:
        return "the system has no coordinates, and so no state space that samples could leave"
    if found.samples == found.proposed == 0:
        return (
            "the method never reports whether its samples are in the state space, and samples outside would go "
            "unnoticed; a simulation needs self.problem.report_state_space(x) after every block of steps"
        )
    words = f"{found.outside:,} of {found.samples:,} samples outside"
    if found.proposed:
        words += f", {found.rejected:,} of {found.proposed:,} proposals rejected"
    return words + ("; the result is not reliable" if record.diagnostics.get("reliable") is False else "")


def _check_counted(charged: int, counted: int, when: str, upper_bound: bool) -> None:
    if counted > charged:
        raise Failure(
            f"{when} the ledger has {charged:,} evaluations, but {counted:,} were made: "
            f"{counted - charged:,} bypassed self.problem"
        )
    if counted < charged and not upper_bound:
        raise Failure(f"{when} the ledger has {charged:,} evaluations, but only {counted:,} were made")


def budget(pair: Pair) -> str:
    """Check that no budget is exceeded, that the last estimate is kept, and that a larger budget resumes the run."""
    whole = pair.whole
    total = whole.ended.evaluations.total
    middle = whole.estimates[(len(whole.estimates) - 1) // 2].charged
    budgets = sorted({1, middle - 1, middle, middle + 1} - {0})
    for allowed in budgets:
        _check_budget(pair, pair.observe(f"budget-{allowed}", budget=allowed), allowed)
    extended = pair.finished(f"budget-{budgets[-1]}", budget=2 * total, resume=True)
    _check_same(extended, whole, f"a run stopped at {budgets[-1]:,} evaluations and resumed with a larger budget")
    return f"kept at {', '.join(f'{allowed:,}' for allowed in budgets)} of {total:,}; a larger budget resumes the run"


def _check_budget(pair: Pair, run: ObservedRun, allowed: int) -> None:
    whole, record, counted = pair.whole, run.ended, run.counter.count
    where = f"with a budget of {allowed:,}"
    if counted > allowed or run.counter.minimised:
        raise Failure(f"{where}, {counted:,} evaluations were made")
    if record.evaluations.total != counted and not (run.counter.approximate and counted < record.evaluations.total):
        raise Failure(f"{where}, {counted:,} evaluations were made, but the record says {record.evaluations.total:,}")
    expected = [estimate for estimate in whole.estimates if estimate.charged <= allowed]
    status = "finished" if allowed >= whole.ended.evaluations.total else "budget" if expected else "failed"
    if record.status != status:
        raise Failure(
            f"{where}, the run ends as {record.status!r} ({record.reason}), not as {status!r}; "
            f"the method must not catch BudgetExhausted"
        )
    if status == "failed" and "no estimate within the budget" not in (record.reason or ""):
        raise Failure(
            f"{where}, the run fails for another reason ({record.reason}); the method must not catch BudgetExhausted"
        )
    if not _equal(run.estimates, expected):
        raise Failure(
            f"{where}, the estimates differ from those without a budget; a budget may only end the run earlier"
        )
    if expected:
        with np.load(run.folder / "pmf.npz") as arrays:
            first = arrays["probability"].ravel()
            if not np.array_equal(first, expected[-1].probability[: first.size]):
                raise Failure(f"{where}, pmf.npz does not hold the last estimate")


def _equal(found: Sequence[ObservedEstimate], expected: Sequence[ObservedEstimate]) -> bool:
    return len(found) == len(expected) and all(
        a.charged == b.charged and np.array_equal(a.probability, b.probability)
        for a, b in zip(found, expected, strict=True)
    )


def resume(pair: Pair) -> str:
    """Check that a run killed after an estimate and resumed ends with the same bits, evaluations and curve."""
    whole = pair.whole
    estimates = len(whole.estimates)
    chosen = set(range(1, estimates + 1)) if estimates <= FEW else {1, (estimates + 1) // 2, estimates}
    for number in sorted(chosen):
        folder = f"killed-{number}"
        killed = pair.observe(folder, kill_after=number)
        if killed.record is not None:
            raise Failure(f"a second run makes {len(killed.estimates)} estimates, the first made {estimates}")
        subject = f"killed after estimate {number} of {estimates} and resumed, a run"
        try:
            resumed = pair.finished(folder, resume=True)
        except RunFailed as failed:
            raise Failure(f"{subject} does not finish: {failed}", failed.log) from failed
        if resumed.resumed_at is None:
            raise Failure(f"{subject} starts over; the checkpoint was not found")
        if resumed.resumed_at != killed.estimates[-1].charged:
            raise Failure(
                f"{subject} continues from {resumed.resumed_at:,} evaluations, not {killed.estimates[-1].charged:,}"
            )
        _check_same(resumed, whole, subject, "does state_dict() hold everything that estimates() needs to continue?")
        made = whole.ended.evaluations.total - resumed.resumed_at
        if resumed.counter.count != made:
            raise Failure(f"{subject} makes {resumed.counter.count:,} more evaluations, not {made:,}")
    numbers = ", ".join(str(number) for number in sorted(chosen))
    return f"killed after estimate {numbers} of {estimates}, it ends with the same bits, evaluations and curve"


def _check_same(found: ObservedRun, expected: ObservedRun, subject: str, hint: str = "") -> None:
    """Check that two runs have the same evaluations, curve and PMF."""
    hint = f"; {hint}" if hint else ""
    a, b = found.ended.evaluations, expected.ended.evaluations
    if a != b:
        raise Failure(f"{subject} has {a.total:,} evaluations {a.by_phase}, not {b.total:,} {b.by_phase}{hint}")
    if found.curve != expected.curve:
        rows = zip(found.curve, expected.curve, strict=False)
        row = next((n for n, (one, two) in enumerate(rows) if one != two), min(len(found.curve), len(expected.curve)))
        raise Failure(f"{subject} has a different curve from row {row} on{hint}")
    if found.pmf != expected.pmf:
        raise Failure(f"{subject} ends with a different pmf.npz{hint}")
