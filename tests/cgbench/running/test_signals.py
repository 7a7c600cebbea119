"""SIGINT and SIGTERM: the first waits for the next estimate, the second and the end of patience do not."""

from __future__ import annotations

import os
import signal
import time

import pytest

from cgbench.running.signals import ECHO, Interrupts

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
                f"{sent.name}: ending at the next estimate, or in 20 s from the last one; once more ends at once"
            ]
            os.kill(os.getpid(), signal.SIGTERM)  # the same request, by another way
            time.sleep(2 * ECHO)
            os.kill(os.getpid(), sent)
            time.sleep(5)
            pytest.fail("not interrupted")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_patience_ends() -> None:
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        with Interrupts(grace=0.7):
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(500):
                time.sleep(0.01)
    assert 0.2 < time.monotonic() - begun < 4


def test_one_that_is_answered_in_time_has_no_consequence_later() -> None:
    with Interrupts(grace=0.1) as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert interrupts.requested()
    time.sleep(0.3)
