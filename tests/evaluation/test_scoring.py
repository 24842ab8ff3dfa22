"""Scoring a set: reading, restoring and scoring at the same time."""

import runpy
import threading
from pathlib import Path

import numpy as np

from mprnet_jax.data.opening import open_benchmark
from mprnet_jax.evaluation.protocols import Scores
from mprnet_jax.evaluation.scoring import score_set

mini = runpy.run_path(str(Path(__file__).parents[1] / "data" / "miniatures.py"))


def half_way(example):
    """A restorer that knows the answer and goes half of the way."""
    return np.float32((example["degraded"] / 255 + example["target"] / 255) / 2)


def test_reading_and_scoring_go_on_while_the_device_works(tmp_path):
    mini["write_pairs"](tmp_path / "HIDE" / "test", count=4)
    source = open_benchmark("hide", tmp_path)
    read, scored = threading.Event(), threading.Event()

    class Source(type(source)):
        def __getitem__(self, index):
            if index == 1:
                read.set()
            return super().__getitem__(index)

    source.__class__ = Source
    restored = []

    def restore(example):
        restored.append(example)
        if len(restored) == 1:
            assert read.wait(30), "the second pair was not read while the first was restored"
        if len(restored) == 2:
            assert scored.wait(30), "the first was not scored while the second was restored"
        return half_way(example)

    class Protocol:
        def score(self, prediction, target):
            scored.set()
            return Scores(30.0, 0.9)

    scores = score_set(source, Protocol(), restore, title="HIDE")
    assert len(scores.images) == 4
    assert scores.seconds is not None
