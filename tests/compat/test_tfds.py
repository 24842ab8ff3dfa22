"""Sets are prepared with and without the insides of TFDS that `compat.tfds` uses."""

import runpy
import tempfile
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from mprnet_jax import compat
from mprnet_jax.data.opening import open_benchmark
from mprnet_jax.data.prepared import Prepared, write_prepared

miniatures = runpy.run_path(str(Path(__file__).parents[1] / "data" / "miniatures.py"))

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning:tensorflow_datasets", "ignore:.*:DeprecationWarning:etils"
)


@pytest.fixture(autouse=True)
def no_warning_yet(monkeypatch):
    monkeypatch.setattr(compat, "_warned", set())


@pytest.fixture
def source(tmp_path):
    miniatures["write_pairs"](tmp_path / "HIDE/test")
    return open_benchmark("hide", tmp_path)


def test_preparing_asks_no_bucket_and_leaves_no_temporary_folders(tmp_path, source, monkeypatch):
    def ask(*_):
        raise AssertionError("asks a bucket")

    monkeypatch.setattr(tfds.core.DatasetInfo, "initialize_from_bucket", ask)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert len(Prepared(write_prepared(tmp_path, "hide", {"test": source}), "test")) == 3
    assert not list((tmp_path / "temporary").iterdir())


def test_without_the_lookup_to_replace_sets_are_prepared_with_one_warning(
    tmp_path, source, monkeypatch, caplog
):
    def missing(_, name: str):
        if name == "initialize_from_bucket":  # which this version of TFDS still calls
            return lambda: None
        raise AttributeError(name)

    monkeypatch.delattr(tfds.core.DatasetInfo, "initialize_from_bucket")
    monkeypatch.setattr(tfds.core.DatasetInfo, "__getattr__", missing, raising=False)
    with caplog.at_level("WARNING", logger="absl"):
        for name in ("hide", "again"):
            assert len(Prepared(write_prepared(tmp_path, name, {"test": source}), "test")) == 3
    assert sum("tensorflow-datasets has changed" in r.getMessage() for r in caplog.records) == 1
