"""Prepared sets in a bucket."""

import os

import numpy as np
import pytest

from mprnet_jax import paths
from mprnet_jax.compat import gcsfs
from mprnet_jax.config import DataConfig
from mprnet_jax.data.batches import training_source
from mprnet_jax.data.opening import open_benchmark
from mprnet_jax.data.prepared import NotPrepared, Prepared, write_prepared
from mprnet_jax.errors import UserError


class Pairs:
    """So many pairs of noise."""

    def __init__(self, count, seed):
        images = np.random.default_rng(seed).integers(0, 256, (count, 2, 16, 16, 3), np.uint8)
        self.examples = [{"degraded": a, "target": b} for a, b in images]
        self.names = [str(index) for index in range(count)]

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]


@pytest.fixture
def prepared(bucket, tmp_path, monkeypatch):
    """prepared(seed) writes a set on a disk and copies it into the bucket, as users do."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(seed):
        folder = tmp_path / str(seed)
        splits = {"train": Pairs(4, seed), "test": Pairs(2, seed + 1)}
        write_prepared(folder, "gopro", splits, raw=True)
        for file in (folder / "mprnet_pairs").rglob("*.*"):
            if file.is_file():
                name = str(file.relative_to(folder))
                (paths.anywhere(bucket) / name).write_bytes(file.read_bytes())
        return folder

    return write


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for index in range(len(found)):
        for role, image in expected[index].items():
            np.testing.assert_array_equal(found[index][role], image)


def test_a_set_is_read_from_a_copy_that_follows_it(bucket, prepared, emulator, tmp_path):
    folder = prepared(0)
    config = DataConfig(source="prepared", root=bucket, train="gopro", validation="gopro")
    training, _ = training_source(config)
    assert_equal(training, Prepared(folder / "mprnet_pairs/gopro", "train"))
    (copy,) = (path for path in (tmp_path / "cache/mprnet_jax/sets").iterdir() if path.is_dir())
    assert not any("-test." in name for name in os.listdir(copy))
    assert_equal(open_benchmark("GoPro", bucket), Prepared(folder / "mprnet_pairs/gopro", "test"))
    emulator.requests.clear()
    training_source(config)
    assert not any("alt=media" in request for request in emulator.requests)
    anew = prepared(7)
    training, _ = training_source(config)
    assert_equal(training, Prepared(anew / "mprnet_pairs/gopro", "train"))


def test_a_copy_is_whole_or_not_there(bucket, prepared, emulator, tmp_path, monkeypatch):
    prepared(0)
    folder = f"{bucket}/mprnet_pairs/gopro"

    def half(source, target):
        target.write_bytes(b"half")
        raise OSError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(gcsfs, "download", half)
        with pytest.raises(UserError, match=f"{bucket}.*(gone)"):
            Prepared(folder, "train")
    sets = tmp_path / "cache/mprnet_jax/sets"
    assert [path.suffix for path in sets.iterdir()] == [".lock"]
    assert len(Prepared(folder, "train")) == 4

    # What arrives is not what lies in the bucket.
    objects = emulator.storage.objects["bucket"]
    (shard,) = (key for key in objects if bucket.endswith(key[:32]) and "-test.array_rec" in key)
    objects[shard]["crc32c"] = "AAAAAA=="
    with pytest.raises(UserError, match="its hash is not that"):
        Prepared(folder, "test")


def test_a_set_that_is_not_there_is_named(bucket, emulator):
    with pytest.raises(NotPrepared, match=f"{bucket}/mprnet_pairs/gopro/1.0.0: holds no prepared"):
        open_benchmark("GoPro", bucket)
    with pytest.raises(UserError, match=f"{bucket}/a: is an address, and must be a path"):
        training_source(DataConfig(source="folders", root=f"{bucket}/a"))
    emulator.fault = lambda *_: "403"
    with pytest.raises(UserError, match=f"{bucket}.* cannot be looked up .*Forbidden"):
        open_benchmark("GoPro", bucket)
