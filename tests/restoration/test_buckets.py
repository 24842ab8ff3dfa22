"""Restored photos whose folder is in a bucket."""

import numpy as np
from PIL import Image

from mprnet_jax import atomic, paths
from mprnet_jax.imageio import photos
from mprnet_jax.imageio.photos import Photo
from mprnet_jax.imageio.sheets import write_png
from mprnet_jax.restoration.folders import list_jobs


def test_a_photo_becomes_an_object(bucket, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (job,) = list_jobs([tmp_path], f"{bucket}/restored")
    assert str(job.target) == f"{bucket}/restored/a.png"
    assert not paths.exists(job.target)
    atomic.make_folder(job.target.parent)
    photos.write(job.target, Photo(pixels))
    (tmp_path / "copy.png").write_bytes(job.target.read_bytes())
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "copy.png")), pixels)
    (again,) = list_jobs([tmp_path / "a.png"], f"{bucket}/restored")
    assert paths.exists(again.target)
    write_png(paths.anywhere(bucket) / "sheet.png", pixels)
    names = sorted(path.name for path in paths.anywhere(bucket).iterdir())
    assert names == ["restored", "sheet.png"]
