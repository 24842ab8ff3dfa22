"""Nothing asks the network unless an address of something on it is given."""

import socket

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import mprnet_jax
from mprnet_jax import convert
from mprnet_jax.config import ModelConfig
from mprnet_jax.training.loop import train


@pytest.fixture
def _no_sockets(monkeypatch):
    def refuse(*arguments, **_):
        raise AssertionError(f"asks the network: {arguments[1:]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("_no_sockets")
def test_training_restoring_and_converting_ask_nothing(tiny_run, tmp_path):
    with pytest.raises(AssertionError, match="asks the network"):
        socket.create_connection(("127.0.0.1", 9))
    tiny_run.model = ModelConfig(
        width=4, unet_growth=0, orsnet_growth=2, cabs_per_orb=1, stages="orsnet"
    )
    tiny_run.total_steps, tiny_run.optim.decay_steps = 3, 0
    assert train(tiny_run, tmp_path / "run") is not None
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["convert"])
    output = str(tmp_path / "w.safetensors")
    with flagsaver.flagsaver(input=str(tmp_path / "run"), output=output):
        convert.main()
    restorer = mprnet_jax.Restorer(mprnet_jax.load(output))
    assert restorer(np.zeros((16, 16, 3), np.uint8)).shape == (16, 16, 3)
