"""The time left that ``cgbench run`` prints is extrapolated from the progress made in this process."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from cgbench.cli import run as cli


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(cli, "time", clock)
    return clock


def job(evaluations: int, progress: float | None, estimates: int) -> Any:
    return SimpleNamespace(
        ledger=SimpleNamespace(total=evaluations),
        method=SimpleNamespace(status="working", progress=progress),
        curve=[{}] * estimates,
    )


def seconds_left(progress: cli._Progress) -> int | None:
    found = re.search(r"about (\d+) s left", progress._words())
    return int(found[1]) if found else None


def test_of_a_new_run(clock: Clock) -> None:
    given = job(0, None, 0)
    shown = cli._Progress(given)
    clock.now += 10
    given.method.progress = 0.01
    assert seconds_left(shown) is None  # too little to extrapolate
    given.method.progress = 0.25
    assert seconds_left(shown) == 30


@pytest.mark.parametrize("known", [True, False], ids=["progress restored", "progress unknown until the first estimate"])
def test_of_a_resumed_run(clock: Clock, known: bool) -> None:
    """Resumed at 60%; 10% more in 20 s leave 60 s, not the 9 s that the total progress would suggest."""
    given = job(6000, 0.6 if known else None, 3)
    shown = cli._Progress(given)
    if not known:
        assert seconds_left(shown) is None
        clock.now += 5
        given.method.progress = 0.6
        assert seconds_left(shown) is None
    clock.now += 20
    given.method.progress, given.ledger.total = 0.7, 7000
    assert seconds_left(shown) == 60
    assert "7,000 evaluations (" in shown._words()


def test_progress_that_starts_again_is_a_new_origin(clock: Clock) -> None:
    given = job(0, 0.5, 0)
    shown = cli._Progress(given)
    clock.now += 10
    assert seconds_left(shown) == 10
    given.method.progress = None
    assert seconds_left(shown) is None
    shown.origin = (clock.now, 0.5)
    given.method.progress = 0.0
    assert seconds_left(shown) is None
    clock.now += 10
    given.method.progress = 0.5
    assert seconds_left(shown) == 10
