"""Metrics go to the event file and to writers of the user's own."""

import numpy as np
import pytest

from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.training.loop import train
from mprnet_jax.training.summaries import Summaries


class Recorder:
    """Remembers what it is given; every method that another writer needs, and no more."""

    def __init__(self):
        self.calls, self.flushed, self.closed = [], 0, 0

    def write_scalars(self, step, scalars):
        self.calls.append(("scalars", step, dict(scalars)))

    def write_images(self, step, images):
        self.calls.append(("images", step, dict(images)))

    def write_texts(self, step, texts):
        self.calls.append(("texts", step, dict(texts)))

    def flush(self):
        self.flushed += 1

    def close(self):
        self.closed += 1


def test_a_run_tells_all_its_writers(tiny_run, tmp_path):
    tiny_run.model = ModelConfig(
        width=4, unet_growth=0, orsnet_growth=2, cabs_per_orb=1, stages="orsnet"
    )
    tiny_run.total_steps, tiny_run.optim.decay_steps = 3, 0
    writers = [Recorder(), Recorder()]
    train(tiny_run, tmp_path, writers)
    for writer in writers:
        texts, *others = writer.calls
        assert texts[:2] == ("texts", 0)
        assert '"learning_rate": 0.001' in texts[2]["config"]
        curves = {
            (step, name) for kind, step, values in others if kind == "scalars" for name in values
        }
        assert {(1, "loss"), (2, "loss"), (3, "validation_psnr/stage1")} <= curves
        ((step, images),) = (call[1:] for call in others if call[0] == "images")
        assert step == 3
        assert images["validation"].dtype == np.uint8
        assert images["validation"].shape[0] == 1
        assert (writer.flushed, writer.closed) == (len(writer.calls), 1)
    (events,) = tmp_path.glob("events*")
    for name in (b"loss", b"validation_psnr/stage1", b'learning_rate": 0.001'):
        assert name in events.read_bytes()


def test_writers_get_finite_numbers_and_nothing_in_other_processes(tmp_path):
    writer, idle = Recorder(), Recorder()
    summaries = Summaries(tmp_path, 0, True, [writer])
    summaries.write_scalars(1, {"loss": 0.5, "norm": np.inf})
    summaries.close()
    assert writer.calls == [("scalars", 1, {"loss": 0.5})]
    summaries = Summaries(tmp_path, 0, False, [idle])
    summaries.write_scalars(1, {"loss": 0.5})
    summaries.close()
    assert (idle.calls, idle.closed) == ([], 0)


def test_the_error_of_a_writer_is_its_own(tmp_path):
    """And not taken for that of the event file."""

    class Failing(Recorder):
        def flush(self):
            raise ConnectionError("gone")

    summaries = Summaries(tmp_path, 0, True, [Failing()])
    with pytest.raises(ConnectionError, match="gone"):
        summaries.write_scalars(1, {"loss": 0.5})
    summaries.close()
    with pytest.raises(UserError, match="event file for TensorBoard cannot be written"):
        Summaries(tmp_path / "absent", 0, True)
