"""Scoring a set: reading, restoring and scoring at the same time."""

import runpy
import threading
from pathlib import Path

import numpy as np
import pytest

from mprnet_jax.data.opening import open_benchmark, open_folder
from mprnet_jax.evaluation.protocols import PROTOCOLS, Scores
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


def test_a_defect_in_a_metric_is_not_taken_for_a_bad_image(tmp_path):
    class Protocol:
        def score(self, prediction, target):
            raise ValueError("a defect")

    mini["write_pairs"](tmp_path / "HIDE" / "test")
    with pytest.raises(ValueError, match="a defect"):
        score_set(open_benchmark("hide", tmp_path), Protocol(), half_way, title="HIDE")


def fails(image, target):
    raise RuntimeError("input is too small")


@pytest.mark.parametrize(
    ("key", "size", "restore", "lpips", "message"),
    [
        ("rain100l", (10, 20), half_way, None, "the image is 20x10: its SSIM needs"),
        ("realblurj", (20, 10), half_way, None, "the image is 10x20: its SSIM needs"),
        ("hide", (20, 24), lambda e: half_way(e)[1:], None, "is 24x19, its target 24x20"),
        ("hide", (20, 24), half_way, fails, "LPIPS fails (input is too small)"),
    ],
)
def test_images_that_cannot_be_scored_are_named(tmp_path, key, size, restore, lpips, message):
    mini["write_pairs"](tmp_path / "set", size=size)
    source = open_folder(tmp_path / "set")
    scores = score_set(source, PROTOCOLS[key], restore, title="set", lpips_fn=lpips)
    assert not scores.images
    assert len(scores.left_out) == len(source) == 3
    assert all(message in line for line in scores.left_out)
