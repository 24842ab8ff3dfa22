import signal
import threading

import pytest

from mprnet_jax.training.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_requests_a_stop(number):
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert not interrupts.should_stop()
        signal.raise_signal(number)
        assert interrupts.should_stop()
        assert interrupts.should_stop()
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts_at_once():
    with Interrupts():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_signals_of_other_threads_stay_as_they_are():
    def use():
        with Interrupts() as interrupts:
            assert not interrupts.should_stop()
        done.append(True)

    done = []
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert done
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_that_python_does_not_know_becomes_the_default(monkeypatch):
    set_to, real = [], signal.signal
    monkeypatch.setattr(signal, "signal", lambda number, handler: set_to.append((number, handler)))
    with Interrupts():
        set_to.clear()
    monkeypatch.setattr(signal, "signal", real)
    assert set_to == [(signal.SIGINT, signal.SIG_DFL), (signal.SIGTERM, signal.SIG_DFL)]
