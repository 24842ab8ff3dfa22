import jax
import pytest

from mprnet_jax.devices import hosts
from mprnet_jax.errors import UserError

LOST = (
    "UNAVAILABLE: failed to connect to all addresses",
    "FAILED_PRECONDITION: Gloo all-reduce failed: Connection closed by peer [10.0.0.2]:3817",
    "INTERNAL: NCCL operation ncclGroupEnd() failed: remote process exited",
    "DEADLINE_EXCEEDED: Barrier timed out. Id: sync",
)
OWN = (
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3 bytes",
    "FAILED_PRECONDITION: DNN library initialization failed.",
    "INTERNAL: CUDNN_STATUS_EXECUTION_FAILED",
)


@pytest.mark.parametrize("message", LOST)
def test_the_loss_of_another_process_is_told(monkeypatch, message):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with (
        pytest.raises(UserError, match="another process of this run is gone"),
        hosts.report_lost_host(),
    ):
        raise jax.errors.JaxRuntimeError(message)


@pytest.mark.parametrize("message", OWN)
def test_faults_of_this_process_are_not_told_as_another_ones(monkeypatch, message):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(jax.errors.JaxRuntimeError), hosts.report_lost_host():
        raise jax.errors.JaxRuntimeError(message)
