from dataclasses import dataclass

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mprnet_jax.devices import mesh as meshes
from mprnet_jax.errors import UserError


@pytest.mark.parametrize(
    ("data", "height", "shape"),
    [(-1, 1, (8, 1)), (2, -1, (2, 4)), (1, 1, (1, 1)), (-1, 3, (2, 3)), (-1, 8, (1, 8))],
)
def test_minus_one_uses_all_remaining_devices(data, height, shape):
    mesh = meshes.make_mesh(data, height)
    assert (mesh.shape["data"], mesh.shape["height"]) == shape


@pytest.mark.parametrize(
    ("data", "height", "message"),
    [
        (16, 1, "needs 16 devices, but there are 8"),
        (-1, 16, "needs 16 devices"),
        (-1, -1, "both -1"),
        (0, 1, "mesh.data=0"),
    ],
)
def test_impossible_meshes_are_refused(data, height, message):
    with pytest.raises(UserError, match=message):
        meshes.make_mesh(data, height)


def test_a_hosts_devices_follow_each_other(monkeypatch):
    # In whatever order a TPU pod lists them, and on however many machines GPUs are.
    @dataclass(frozen=True)
    class Device:
        id: int
        process_index: int

        @property
        def slice_index(self):
            return self.process_index

    listed = [Device(id=i, process_index=i % 2) for i in range(8)]
    monkeypatch.setattr(jax, "devices", lambda: listed)
    mesh = meshes.make_mesh(4, 2)
    found = [[device.id for device in row] for row in mesh.devices]
    assert found == [[0, 2], [4, 6], [1, 3], [5, 7]]


def test_batches_and_rows_must_divide():
    mesh = meshes.make_mesh(4, 2)
    meshes.check_divides(mesh, batch_size=8, patch_size=64, validation_crop=32)
    with pytest.raises(UserError, match=r"batch_size=6 .* mesh.data=4"):
        meshes.check_divides(mesh, batch_size=6, patch_size=64)
    with pytest.raises(UserError, match=r"patch_size=9 .* mesh.height=2"):
        meshes.check_divides(mesh, batch_size=8, patch_size=9)
    with pytest.raises(UserError, match=r"validation_crop=9 .* mesh.height=2"):
        meshes.check_divides(mesh, batch_size=8, patch_size=64, validation_crop=9)


def test_images_lie_over_data_and_rows_over_height():
    images = np.arange(4 * 8 * 2 * 3, dtype=np.uint8).reshape(4, 8, 2, 3)
    batch = {"target": images, "number": np.arange(4)}
    placed = meshes.put_batch(batch, meshes.make_mesh(4, 2))
    assert placed["target"].sharding.spec == PartitionSpec("data", "height")
    assert placed["target"].addressable_shards[0].data.shape == (1, 4, 2, 3)
    assert placed["number"].sharding.spec == PartitionSpec("data")
    for name, array in batch.items():
        np.testing.assert_array_equal(jax.device_get(placed[name]), array)


def test_one_host_holds_all_images_and_may_give_a_share_of_them():
    mesh = meshes.make_mesh(2, 2)
    assert meshes.local_images(mesh, 6) == range(6)
    assert meshes.local_images(meshes.make_mesh(1, 4), 1) == range(1)
    placed = meshes.put_batch({"number": np.arange(6)}, mesh, size=6, first=0)
    np.testing.assert_array_equal(placed["number"], np.arange(6))
