import jax
import pytest

from mprnet_jax.devices import hosts
from mprnet_jax.errors import UserError

LOST = (
    "UNAVAILABLE: failed to connect to all addresses",
    "FAILED_PRECONDITION: Gloo all-reduce failed: Connection closed by peer [10.0.0.2]:3817",
    "INTERNAL: NCCL operation ncclGroupEnd() failed: remote process exited",
    "DEADLINE_EXCEEDED: Barrier timed out. Id: sync",
    "INTERNAL: Barrier failed because a task is in error. Barrier_id: sync",
    "INTERNAL: [external/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer",
    "UNKNOWN: Gloo context initialization failed: connectFullMesh failed",
    "INTERNAL: The following tasks are unhealthy (stopped sending heartbeats): task:1",
    "INTERNAL: Polled an error from the coordination service: another task died",
    "INTERNAL: NCCL operation ncclAllReduce() failed: unhandled system error",
)
OWN = (
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3 bytes",
    "FAILED_PRECONDITION: DNN library initialization failed.",
    "INTERNAL: CUDNN_STATUS_EXECUTION_FAILED",
    "INVALID_ARGUMENT: cannot connect operand 2 to its user",
    "INTERNAL: failed to enable peer access from device 0 to device 1",
    "INTERNAL: NCCL operation ncclAllReduce() failed: unhandled cuda error",
    "UNIMPLEMENTED: barrier semaphores are not supported in error handlers",
)


@pytest.mark.parametrize("message", LOST)
def test_the_loss_of_another_process_is_reported(monkeypatch, message):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with (
        pytest.raises(UserError, match="another process of this run is gone"),
        hosts.report_lost_host(),
    ):
        raise jax.errors.JaxRuntimeError(message)


@pytest.mark.parametrize("message", OWN)
def test_other_errors_keep_their_traceback(monkeypatch, message):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(jax.errors.JaxRuntimeError), hosts.report_lost_host():
        raise jax.errors.JaxRuntimeError(message)
