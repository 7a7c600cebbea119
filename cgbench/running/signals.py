"""Signal handlers: SIGINT and SIGTERM as requests to save and stop."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = ["Interrupts", "handlers", "raise_interrupt", "stop_event"]

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 20.0  # seconds; batch systems leave 30 between SIGTERM and SIGKILL
ECHO = 0.5  # seconds; Ctrl-C on a sweep reaches a run twice, from the terminal and from the sweep


@contextmanager
def handlers(handle: Callable[[int, Any], None], signals: Iterable[int] = STOP_SIGNALS) -> Iterator[None]:
    """Call `handle` for these signals inside the context, and restore the previous handlers afterwards."""
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_interrupt(signum: int, frame: Any) -> None:
    """Raise KeyboardInterrupt; a signal handler."""
    raise KeyboardInterrupt


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """Return an event that SIGINT and SIGTERM set inside the context, instead of their usual effect."""
    event = threading.Event()
    with handlers(lambda signum, frame: event.set()):
        yield event


class Interrupts:
    """A context in which the first SIGINT or SIGTERM asks the run to stop, and a second one stops it at once.

    The run calls `requested` after it has saved an estimate. If it does not stop within the grace period, or if a
    second signal arrives, it gets a KeyboardInterrupt at its current position. A signal within half a second of the
    first is its echo and is ignored. Outside the main thread, signals are not handled.

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
        self._handlers = ExitStack()
        self._timer: threading.Timer | None = None

    def requested(self) -> bool:
        """Whether a signal has arrived."""
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
            f"{signal.Signals(signum).name}: stopping at the next estimate, or in {self._grace:.0f} s with the last "
            "checkpoint; a second signal stops at once"
        )

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._handlers.enter_context(handlers(self._handle))
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._handlers.close()
