"""SIGINT and SIGTERM: the first waits for the next estimate; the second, or the end of the grace, does not."""

from __future__ import annotations

import os
import signal
import time

import pytest

from cgbench.running.signals import ECHO, Interrupts, handlers, raise_interrupt, stop_event

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("sent", SIGNALS)
def test_the_first_is_a_request_and_the_second_an_order(sent: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        with Interrupts(said.append) as interrupts:
            assert not interrupts.requested()
            os.kill(os.getpid(), sent)
            time.sleep(0.05)
            assert interrupts.requested()
            assert said == [
                f"{sent.name}: stopping at the next estimate, or in 20 s with the last checkpoint; "
                "a second signal stops at once"
            ]
            os.kill(os.getpid(), signal.SIGTERM)  # an echo of the first
            time.sleep(2 * ECHO)
            os.kill(os.getpid(), sent)
            time.sleep(5)
            pytest.fail("not interrupted")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_grace_ends() -> None:
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        with Interrupts(grace=0.7):
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(500):
                time.sleep(0.01)
    assert 0.2 < time.monotonic() - begun < 4


def test_a_signal_handled_in_time_has_no_later_effect() -> None:
    with Interrupts(grace=0.1) as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert interrupts.requested()
    time.sleep(0.3)


def test_handlers_are_restored_even_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyboardInterrupt), handlers(raise_interrupt, (signal.SIGTERM,)):
        assert signal.getsignal(signal.SIGINT) is before[0]
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("sent", SIGNALS)
def test_a_stop_event(sent: signal.Signals) -> None:
    with stop_event() as event:
        assert not event.is_set()
        os.kill(os.getpid(), sent)
        assert event.wait(5)
