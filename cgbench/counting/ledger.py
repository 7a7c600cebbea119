"""The ledger of energy evaluations. Every evaluation is charged here before it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from cgbench.errors import UserError

__all__ = ["BudgetExhausted", "Ledger"]


class BudgetExhausted(Exception):
    """The next evaluations would exceed the budget. They were neither made nor counted."""


class Ledger:
    """Counts energy evaluations by phase and enforces a budget.

    One evaluation is the potential energy of one configuration, with or without its gradient.

    Parameters
    ----------
    budget
        Largest number of evaluations allowed, or None for no limit.
    on_phase
        Called with the name of the phase whenever the phase changes.

    Raises
    ------
    UserError
        If the budget is not a positive number.
    """

    def __init__(self, budget: int | None = None, on_phase: Callable[[str], None] = lambda name: None) -> None:
        if budget is not None and budget <= 0:
            raise UserError(f"budget must be a positive number of energy evaluations, not {budget}")
        self.budget = budget
        self._by_phase: dict[str, int] = {}
        self._with_gradient: int | None = 0
        self._phase: str = "unassigned"
        self._on_phase = on_phase

    @property
    def total(self) -> int:
        """Evaluations so far, summed over phases."""
        return sum(self._by_phase.values())

    @property
    def with_gradient(self) -> int | None:
        """Evaluations so far whose gradient was asked for; None after a checkpoint that does not say it."""
        return self._with_gradient

    @property
    def by_phase(self) -> Mapping[str, int]:
        """Evaluations so far in each phase (a copy)."""
        return dict(self._by_phase)

    @property
    def remaining(self) -> int | None:
        """Evaluations left in the budget, or None without a budget."""
        return None if self.budget is None else self.budget - self.total

    @property
    def current_phase(self) -> str:
        """Name of the phase that evaluations are currently charged to."""
        return self._phase

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge evaluations inside the context to the phase `name`."""
        before, self._phase = self._phase, name
        self._on_phase(name)
        try:
            yield
        finally:
            self._phase = before
            self._on_phase(before)

    def charge(self, evaluations: int, gradient: bool = True) -> None:
        """Charge evaluations that are about to be made.

        Parameters
        ----------
        evaluations
            Their number.
        gradient
            Whether their gradients are asked for.

        Raises
        ------
        BudgetExhausted
            If they would exceed the budget; nothing is charged then.
        """
        if evaluations < 0:
            raise ValueError(f"cannot charge {evaluations} evaluations")
        if self.budget is not None and self.total + evaluations > self.budget:
            raise BudgetExhausted(
                f"{evaluations} more evaluations would exceed the budget of {self.budget} ({self.total} used)"
            )
        if gradient and self._with_gradient is not None:
            self._with_gradient += evaluations
        if evaluations:
            self._by_phase[self._phase] = self._by_phase.get(self._phase, 0) + evaluations

    def state_dict(self) -> dict[str, int]:
        """Return the counts by phase. The budget is not part of the state."""
        return dict(self._by_phase)

    def load_state_dict(self, state: Mapping[str, int], with_gradient: int | None) -> None:
        """Restore the counts that `state_dict` returned, and `with_gradient`."""
        self._with_gradient = with_gradient
        self._by_phase = {str(phase): int(count) for phase, count in state.items()}
