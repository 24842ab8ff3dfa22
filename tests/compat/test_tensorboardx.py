"""tensorboardX as it is, and as it may become."""

import logging
import subprocess
import sys

import numpy as np
import pytest
from tensorboardX import event_file_writer, summary

from mprnet_jax import compat
from mprnet_jax.compat import tensorboardx
from mprnet_jax.training.loop import train
from mprnet_jax.training.summaries import Summaries


@pytest.fixture(autouse=True)
def _nothing_warned_yet(monkeypatch):
    monkeypatch.setattr(compat, "_warned", set())


def test_events_are_in_the_file_at_once(tmp_path):
    file = tensorboardx.open_event_file(str(tmp_path / "events"), first_step=1)
    file.write_scalars(1, {"loss": 0.5})
    file.write_images(1, {"sheet": np.zeros((1, 4, 4, 3), np.uint8)})
    file.write_images(1, {"pair": np.zeros((2, 4, 4, 3), np.uint8)})
    file.write_texts(1, {"config": "width: 40"})
    file.flush()
    (path,) = tmp_path.iterdir()
    for name in (b"loss", b"sheet", b"pair/0", b"pair/1", b"config", b"width: 40"):
        assert name in path.read_bytes()
    file.close()


def test_pytorch_is_not_imported():
    code = "import sys; from mprnet_jax.compat import tensorboardx as t; t.import_without_torch(); "
    code += "print('tensorboardX' in sys.modules, 'torch' in sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == ["True", "False"]


def drop_writer(monkeypatch):
    monkeypatch.delattr(event_file_writer, "EventsWriter")


def change_summary(monkeypatch):
    monkeypatch.setattr(summary, "image", lambda name, tensor: None)


def change_writer(monkeypatch):
    monkeypatch.setattr(event_file_writer, "EventsWriter", lambda folder: None)


@pytest.mark.parametrize("change", [drop_writer, change_summary, change_writer])
def test_a_library_that_has_changed_costs_the_event_file_and_one_warning(
    change, tmp_path, monkeypatch, caplog
):
    change(monkeypatch)
    with caplog.at_level(logging.WARNING, logger="absl"):
        for _ in range(2):
            summaries = Summaries(tmp_path, 0, enabled=True)
            summaries.write_scalars(1, {"loss": 0.5})
            summaries.close()
    assert caplog.text.count("no event files for TensorBoard are written") == 1
    assert not list(tmp_path.iterdir())


def test_training_goes_on_without(short_run, tmp_path, monkeypatch, caplog):
    drop_writer(monkeypatch)
    short_run.total_steps = 3
    short_run.optim.decay_steps = 0
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert train(short_run, tmp_path) is not None
    assert caplog.text.count("no event files for TensorBoard are written") == 1
    assert not list(tmp_path.glob("events*"))
