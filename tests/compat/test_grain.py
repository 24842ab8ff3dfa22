"""Reading with worker processes works with and without the insides that `compat.grain` uses."""

from multiprocessing import resource_tracker

import numpy as np
import pytest
from absl import flags

from mprnet_jax import compat
from mprnet_jax.data import sample
from mprnet_jax.data.batches import TrainingBatches
from mprnet_jax.data.degradations import add_noise


@pytest.fixture(autouse=True)
def no_warning_yet(monkeypatch):
    monkeypatch.setattr(compat, "_warned", set())


def first_batch(num_workers: int) -> np.ndarray:
    source = sample.Photos(sample.TRAINING_PHOTOS[:2])
    sizes = {"batch_size": 2, "patch_size": 8, "seed": 0, "num_workers": num_workers}
    batches = TrainingBatches(source, add_noise, **sizes)
    try:
        return next(batches)["degraded"]
    finally:
        batches.close()


def test_workers_read_without_absl_app():
    flags.FLAGS.unparse_flags()
    np.testing.assert_array_equal(first_batch(1), first_batch(0))
    assert flags.FLAGS.is_parsed()


def test_without_a_tracker_to_start_workers_read_with_one_warning(monkeypatch, caplog):
    monkeypatch.delattr(resource_tracker, "ensure_running")
    with caplog.at_level("WARNING", logger="absl"):
        for _ in range(2):
            np.testing.assert_array_equal(first_batch(1), first_batch(0))
    assert len(caplog.records) == 1
    assert "multiprocessing has changed" in caplog.text
