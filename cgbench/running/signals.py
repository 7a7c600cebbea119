"""SIGINT and SIGTERM: save first, then end."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Interrupts"]

GRACE = 20.0  # seconds; batch systems leave 30 between SIGTERM and SIGKILL
ECHO = 0.5  # seconds; Ctrl-C on a sweep reaches a run twice, from the terminal and from the sweep


class Interrupts:
    """A context in which the first SIGINT or SIGTERM is a request, and the next an order, unless it is its echo.

    The request is answered by `requested`, which the run asks when it has saved. What takes longer than the grace, and
    what is interrupted again, gets a KeyboardInterrupt where it stands.

    Parameters
    ----------
    announce
        Called with a line for the user at the first signal.
    grace
        Seconds to wait for the next estimate.
    """

    def __init__(self, announce: Callable[[str], None] = lambda line: None, grace: float = GRACE) -> None:
        self._announce, self._grace = announce, grace
        self._asked = threading.Event()
        self._first = 0.0
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._asked.is_set()

    def _handle(self, signum: int, frame: Any) -> None:
        if self._asked.is_set():
            if time.monotonic() - self._first > ECHO:
                raise KeyboardInterrupt
            return
        self._first = time.monotonic()
        self._asked.set()
        self._timer = threading.Timer(self._grace, _thread.interrupt_main)
        self._timer.daemon = True
        self._timer.start()
        self._announce(
            f"{signal.Signals(signum).name}: ending at the next estimate, or in {self._grace:.0f} s from the last one; "
            "once more ends at once"
        )

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)
