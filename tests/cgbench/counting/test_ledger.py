"""The ledger: counts by phase, and a budget that is never exceeded."""

from __future__ import annotations

import pytest

from cgbench.counting.ledger import BudgetExhausted, Ledger
from cgbench.errors import UserError


def test_counts_by_phase() -> None:
    changes: list[str] = []
    ledger = Ledger(on_phase=changes.append)
    with ledger.phase("train"):
        ledger.charge(3)
        with ledger.phase("label"):
            ledger.charge(4)
        ledger.charge(5)
    ledger.charge(0)
    assert ledger.by_phase == {"train": 8, "label": 4} and ledger.total == 12
    assert changes == ["train", "label", "train", "unassigned"]


def test_budget_is_enforced_before_it_is_exceeded() -> None:
    ledger = Ledger(10)
    ledger.charge(7)
    with pytest.raises(BudgetExhausted, match="4 more evaluations would exceed the budget of 10"):
        ledger.charge(4)
    assert ledger.total == 7 and ledger.remaining == 3
    ledger.charge(3)
    assert ledger.remaining == 0


@pytest.mark.parametrize("budget", [0, -5])
def test_budget_must_be_positive(budget: int) -> None:
    with pytest.raises(UserError, match="budget must be a positive number"):
        Ledger(budget)


def test_phase_is_left_when_something_fails() -> None:
    ledger = Ledger()
    with pytest.raises(RuntimeError), ledger.phase("train"):
        raise RuntimeError
    assert ledger.current_phase == "unassigned"


def test_negative_charges_are_bugs() -> None:
    with pytest.raises(ValueError, match="-1"):
        Ledger().charge(-1)


def test_state() -> None:
    first, second = Ledger(), Ledger(100)
    with first.phase("train"):
        first.charge(9)
    second.load_state_dict(first.state_dict(), first.with_gradient)
    assert second.by_phase == first.by_phase and second.remaining == 91
