"""Defects keep their own error, also in the midst of saving and loading, and change no checkpoint.

Only what a disk or a damaged file causes is a UserError: see test_checkpoints.py, test_faults.py.
"""

import errno

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.weights import checkpoints as module
from mprnet_jax.weights import files as weight_files
from mprnet_jax.weights import names, pth, store
from mprnet_jax.weights.checkpoints import Checkpoint, Checkpoints

PARAMS = {"w": np.arange(8, dtype=np.float32)}
SHAPES = {
    "count": jax.ShapeDtypeStruct(
        (), np.int32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
    )
}
DEFECTS = [TypeError("save() got an unexpected keyword"), AttributeError("no attribute 'x'")]
DEFECTS += [KeyError("array_metadata"), ValueError("tree structures do not match")]
DISK_ERRORS = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    ValueError('RESOURCE_EXHAUSTED: Error opening "zarr" driver: No space left on device'),
]


def save(folder, *steps):
    with Checkpoints(folder) as checkpoints:
        for step in steps:
            checkpoints.save(Checkpoint(step, PARAMS, {"count": np.int32(step)}, {}))


def load(folder):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.load_newest(PARAMS, SHAPES)


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def raising(error):
    def plant(*args, **kwargs):
        raise error

    return plant


# The last one runs in the background, so that its error comes when the save is waited for.
SAVING = [(module, "pack"), (module, "tree_hash"), (store.Manager, "save")]
SAVING += [(ocp.StandardCheckpointHandler, "finalize")]
LOADING = [(module, "unpack"), (module, "tree_hash"), (ocp.JsonCheckpointHandler, "restore")]
LOADING += [(ocp.StandardCheckpointHandler, "restore")]


@pytest.mark.parametrize(("owner", "name"), SAVING, ids=[name for _, name in SAVING])
@pytest.mark.parametrize("error", DEFECTS, ids=[type(error).__name__ for error in DEFECTS])
def test_a_defect_in_saving_keeps_its_error(tmp_path, monkeypatch, owner, name, error):
    save(tmp_path, 1, 2)
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, raising(error))
        with pytest.raises(type(error)) as caught:
            save(tmp_path, 3)
    assert caught.value is error
    assert before.items() <= files(tmp_path).items()
    assert not list(tmp_path.glob("damaged-*"))
    assert load(tmp_path).step == 2


@pytest.mark.parametrize(("owner", "name"), LOADING, ids=[name for _, name in LOADING])
@pytest.mark.parametrize("error", DEFECTS, ids=[type(error).__name__ for error in DEFECTS])
def test_a_defect_in_loading_keeps_its_error(tmp_path, monkeypatch, caplog, owner, name, error):
    save(tmp_path, 1, 2)
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, raising(error))
        with pytest.raises(type(error)) as caught:
            load(tmp_path)
    assert caught.value is error
    assert files(tmp_path) == before
    assert "damaged" not in caplog.text
    assert load(tmp_path).step == 2


@pytest.mark.parametrize("error", DISK_ERRORS)
def test_an_error_of_the_disk_in_saving_is_one_line(tmp_path, monkeypatch, error):
    save(tmp_path, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.StandardCheckpointHandler, "finalize", raising(error))
        with pytest.raises(UserError, match=r"a checkpoint cannot be written \(.*evice|error"):
            save(tmp_path, 3)
    assert load(tmp_path).step == 2


@pytest.mark.parametrize("error", DISK_ERRORS)
def test_an_error_of_the_disk_in_loading_is_one_line(tmp_path, monkeypatch, error):
    save(tmp_path, 1, 2)
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.StandardCheckpointHandler, "restore", raising(error))
        with pytest.raises(UserError, match="all checkpoints are damaged, or cannot be read"):
            load(tmp_path)
    assert files(tmp_path) == before
    assert load(tmp_path).step == 2


def test_an_error_that_orbax_raises_from_one_of_the_disk_counts_as_such():
    def orbax_wraps(cause):
        try:
            raise Exception("Encountered error while reading array index") from cause
        except Exception as error:
            return error

    assert store.is_storage_error(orbax_wraps(OSError(errno.EIO, "Input/output error")))
    assert store.is_storage_error(orbax_wraps(ValueError("DATA_LOSS: Error reading manifest")))
    assert not store.is_storage_error(orbax_wraps(TypeError("a defect")))
    assert not store.is_storage_error(ValueError("INVALID_ARGUMENT: a defect too"))


def test_what_ended_a_run_is_raised_not_what_closing_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(store.Manager, "close", raising(TypeError("while closing")))
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path):
        raise ZeroDivisionError


@pytest.mark.parametrize("error", DEFECTS, ids=[type(error).__name__ for error in DEFECTS])
@pytest.mark.parametrize("extension", ["pth", "safetensors"])
def test_a_defect_in_weight_files_keeps_its_error(tmp_path, monkeypatch, extension, error):
    path = tmp_path / f"model.{extension}"
    config = ModelConfig(8, 4, 4, cabs_per_orb=1)
    params = pure_functions(config)[0](0)
    weight_files.write(path, config, params)
    before = path.read_bytes()
    for name in ("to_official_layout", "to_our_layout", "infer_config"):
        monkeypatch.setattr(names, name, raising(error))
    monkeypatch.setattr(pth, "to_array", raising(error))
    with pytest.raises(type(error)) as caught:
        weight_files.read(path)
    assert caught.value is error
    with pytest.raises(type(error)) as caught:
        weight_files.write(path, config, params)
    assert caught.value is error
    assert files(tmp_path) == {path.relative_to(tmp_path): before}
