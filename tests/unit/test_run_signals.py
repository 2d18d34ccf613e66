"""When a signal raises, when it is only noted, and that handlers are given back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from llmforge.run.signals import StopNow, StopSignals


def send(number: int) -> None:
    """Send a signal to this process; its handler has run when this returns."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_raises_where_it_arrives(number: int) -> None:
    with StopSignals() as signals:
        with pytest.raises(StopNow, match=signal.Signals(number).name):
            send(number)
        assert signals.requested == signal.Signals(number).name


def test_a_deferred_signal_is_noted_and_found_by_the_next_check() -> None:
    with StopSignals() as signals:
        with signals.deferred():
            send(signal.SIGTERM)
            assert signals.requested == "SIGTERM"
        with pytest.raises(StopNow):
            signals.check()


def test_nothing_is_requested_without_a_signal() -> None:
    with StopSignals() as signals:
        signals.check()
        assert signals.requested is None


def test_a_second_ctrl_c_raises_even_while_deferred() -> None:
    with StopSignals() as signals, signals.deferred():
        send(signal.SIGINT)
        with pytest.raises(StopNow):
            send(signal.SIGINT)


def test_a_second_sigterm_does_not_break_off_what_the_first_began_to_save() -> None:
    with StopSignals() as signals:
        with pytest.raises(StopNow):
            send(signal.SIGTERM)
        send(signal.SIGTERM)
        with signals.deferred():
            send(signal.SIGTERM)


def test_deferring_nests() -> None:
    with StopSignals() as signals, signals.deferred():
        with signals.deferred():
            pass
        send(signal.SIGTERM)
        assert signals.requested == "SIGTERM"


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_another_thread_than_the_main_one_handles_no_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def enter() -> None:
        with StopSignals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


def test_no_except_exception_swallows_a_stop() -> None:
    assert not issubclass(StopNow, Exception)
