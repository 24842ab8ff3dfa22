import runpy
from pathlib import Path

import numpy as np
import pytest

from mprnet_jax.data.opening import open_benchmark, open_splits
from mprnet_jax.data.prepared import Prepared, write_prepared
from mprnet_jax.errors import UserError

mini = runpy.run_path(str(Path(__file__).parent / "miniatures.py"))

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning:tensorflow_datasets", "ignore:.*:DeprecationWarning:etils"
)


@pytest.mark.parametrize("data", [b"", b"{", b'{"name": 5, "unknown": []}', b"\xff"])
def test_a_damaged_description_of_a_prepared_set_is_named(tmp_path, data):
    mini["write_pairs"](tmp_path / "HIDE/test")
    folder = write_prepared(tmp_path, "hide", open_splits("hide", tmp_path))
    (folder / "1.0.0/dataset_info.json").write_bytes(data)
    with pytest.raises(UserError, match=r"hide/1\.0\.0: its description is damaged"):
        Prepared(folder, "test")


def test_a_split_that_was_not_prepared_is_named(tmp_path):
    mini["write_pairs"](tmp_path / "GoPro/train")
    folder = write_prepared(tmp_path, "gopro", open_splits("gopro", tmp_path))
    with pytest.raises(UserError, match="no split test, only train"):
        Prepared(folder, "test")


def test_incomplete_folders_are_removed_and_a_folder_that_cannot_be_written_is_named(tmp_path):
    mini["write_pairs"](tmp_path / "HIDE/test")
    source = open_benchmark("hide", tmp_path)
    left = tmp_path / "mprnet_pairs/hide/incomplete.ABCDEF_1.0.0"
    left.mkdir(parents=True)
    write_prepared(tmp_path, "hide", {"test": source})
    assert not left.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/.*: cannot be prepared"):
        write_prepared(tmp_path / "file", "hide", {"test": source})


def test_names_take_no_second_reading_of_a_record(tmp_path, monkeypatch):
    mini["write_pairs"](tmp_path / "HIDE/test")
    source = open_benchmark("hide", tmp_path)
    prepared = Prepared(write_prepared(tmp_path / "out", "hide", {"test": source}), "test")
    reads, record = [], prepared.record
    monkeypatch.setattr(prepared, "record", lambda index: reads.append(index) or record(index))
    for index in range(3):
        assert len(prepared[index]) == 2
    assert sorted(prepared.names[index] for index in range(3)) == ["1", "2", "3"]
    assert reads == [0, 1, 2]


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(("deep", "white"), [(np.uint16, 65535), (np.float32, 1)])
def test_splits_of_different_types_get_the_deepest(tmp_path: Path, raw: bool, deep, white):
    class White:
        names = ("1",)

        def __init__(self, dtype, value):
            self.dtype, self._image = np.dtype(dtype), np.full((16, 24, 3), value, dtype)

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {"degraded": self._image, "target": self._image}

    splits = {"train": White(np.uint8, 255), "test": White(deep, white)}
    folder = write_prepared(tmp_path, "white", splits, raw=raw)
    for split in splits:
        image = Prepared(folder, split)[0]["degraded"]
        assert (image.dtype, image.min(), image.max()) == (deep, white, white)
