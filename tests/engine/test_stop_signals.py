import os
import signal

import pytest

from eql_seesaw.engine import stop_signals
from eql_seesaw.engine.stop_signals import (
    SIGNALS,
    STOPPED,
    StopSignals,
    TrainingStopped,
    end_on_signals,
)


@pytest.fixture(autouse=True)
def handlers_are_restored():
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def send(signum):
    """Python handles it before the next line."""
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", SIGNALS)
def test_signal_is_noted(signum, capfd):
    with StopSignals() as signals:
        assert signals.requested == ""
        send(signum)
        assert signals.requested == signum.name
    assert f"{signum.name}: stops after this step" in capfd.readouterr().err


def test_handlers_are_restored():
    before = [signal.getsignal(s) for s in SIGNALS]
    with StopSignals():
        assert [signal.getsignal(s) for s in SIGNALS] != before
    assert [signal.getsignal(s) for s in SIGNALS] == before


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGINT])
def test_signals_ignored_at_the_start_stay_so(signum):
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        end_on_signals()
        send(signum)
        with StopSignals() as signals:
            send(signum)
            assert signals.requested == ""
    finally:
        signal.signal(signum, before)


def test_first_signal_counts():
    with StopSignals() as signals:
        send(signal.SIGUSR1)
        send(signal.SIGTERM)
        assert signals.requested == "SIGUSR1"


def test_second_interrupt_is_at_once():
    with StopSignals() as signals:
        send(signal.SIGTERM)
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert signals.requested == "SIGTERM"


def test_second_interrupt_of_several_processes_is_for_their_launcher(monkeypatch):
    monkeypatch.setattr(stop_signals.comm, "get_world_size", lambda: 2)
    with StopSignals() as signals:
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert signals.requested == "SIGINT"


@pytest.mark.parametrize("signum", SIGNALS)
def test_at_once(signum):
    with StopSignals() as signals:
        with pytest.raises(TrainingStopped) as stopped, signals.at_once():
            send(signum)
            pytest.fail("the evaluation went on")
        assert stopped.value.code == STOPPED == 75
        send(signum if signum != signal.SIGINT else signal.SIGTERM)  # no longer at once


def test_signal_before_at_once():
    with StopSignals() as signals:
        send(signal.SIGTERM)
        with pytest.raises(TrainingStopped), signals.at_once():
            pytest.fail("the evaluation began")
