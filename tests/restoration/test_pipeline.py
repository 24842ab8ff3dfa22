"""From files to files: formats, failures, order, sheets, and what an interrupted run leaves."""

import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from mprnet_jax.devices.mesh import make_mesh
from mprnet_jax.errors import UserError
from mprnet_jax.imageio import photos
from mprnet_jax.imageio.metadata import Metadata
from mprnet_jax.imageio.photos import Photo
from mprnet_jax.restoration.costs import ProgramShape
from mprnet_jax.restoration.folders import list_jobs
from mprnet_jax.restoration.pipeline import Pipeline, Summary
from mprnet_jax.restoration.planning import Plan
from mprnet_jax.restoration.restorer import Restorer

KINDS = [("png", c, t) for c in (1, 2, 3, 4) for t in ("u1", "u2")]
KINDS += [("tif", 3, "u2"), ("jpg", 1, "u1"), ("jpg", 3, "u1"), ("webp", 4, "u1"), ("bmp", 3, "u1")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def test_every_kind_of_photo_comes_out_as_it_went_in(stub, photo, folder: Path, tmp_path: Path):
    for extension, channels, dtype in KINDS:
        pixels = photo(10, 13, dtype, channels)
        photos.write(folder / f"{channels}{dtype}.{extension}", Photo(pixels), quality=100)
    restorer = Restorer(stub)
    jobs = list_jobs([folder], tmp_path / "out")
    assert Pipeline(restorer, quality=100).run(jobs) == Summary(len(KINDS), 0, 0)
    for job in jobs:
        before, after = photos.read(job.source).pixels, photos.read(job.target).pixels
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
        colours = 3 if before.shape[2] > 2 else 1
        rgb = np.repeat(before[..., :colours], 3 // colours, axis=2)
        expected = restorer(rgb).mean(axis=2, keepdims=True) if colours == 1 else restorer(rgb)
        if job.target.suffix != ".jpg":
            np.testing.assert_array_equal(after[..., colours:], before[..., colours:])
            # grey is the mean of three colours, rounded
            assert np.abs(after[..., :colours] - expected).max() <= (0.5 if colours == 1 else 0)


def test_all_pages_of_a_tiff_file_are_restored(stub, photo, folder: Path, tmp_path: Path):
    pages = [Photo(photo(10, 13)), Photo(photo(16, 8, "u2", 1)), Photo(photo(9, 9, np.float32))]
    photos.write(folder / "pages.tif", pages)
    (job,) = list_jobs([folder], tmp_path / "out")
    assert Pipeline(Restorer(stub), compare=True).run([job]) == Summary(1, 0, 0)
    restored = photos.read_pages(job.target)
    alone = Restorer(stub)
    for before, after in zip(pages, restored, strict=True):
        assert after.pixels.dtype == before.pixels.dtype
        rgb = np.repeat(before.pixels, 3 // before.pixels.shape[2], axis=2)
        expected = np.clip(alone(rgb), 0, None).mean(axis=2) if rgb.dtype == "u2" else alone(rgb)
        if rgb.dtype == np.float32:
            expected = np.clip(expected, 0, 1)
        # Grey is rounded; other programs round floats another way.
        difference = np.abs(after.pixels.squeeze() - expected.astype(float)).max()
        assert difference <= (1e-5 if rgb.dtype == np.float32 else 1)
    assert photos.read(tmp_path / "out/pages.tif.compare.jpg").pixels.shape[0] > 10 + 16 + 9
    (job,) = list_jobs([folder], tmp_path / "out", ".png")
    assert Pipeline(Restorer(stub)).run([job]) == Summary(0, 0, 1)


def test_what_is_left_out_is_counted_by_kind_of_file(stub, photo, folder: Path, tmp_path: Path):
    text = Metadata(text=(("Kitchen", "a"),), iptc=b"\x1c\x02\x78\0\x01a")
    for name in ("a.png", "b.png", "c.tif"):
        photos.write(folder / name, Photo(photo(8, 8), text))
    jobs = list_jobs([folder], tmp_path / "out", ".webp")
    summary = Pipeline(Restorer(stub)).run(jobs)
    assert summary.left_out == "IPTC (2 .png, 1 .tif); text (2 .png)"
    assert not Pipeline(Restorer(stub)).run(list_jobs([folder], tmp_path / "same")).left_out


def test_what_the_format_cannot_hold_is_refused_before_the_work(
    photo, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    photos.write(folder / "clear.png", Photo(photo(10, 13, np.uint8, 4)))
    photos.write(folder / "long.png", Photo(photo(1, 16_384)))
    photos.write(folder / "longer.png", Photo(photo(1, 65_501)))

    class Idle:
        batch_size = 1

        def plan(self, sizes):
            return Plan({}, {}, 0)

        def program_for(self, size):
            return ProgramShape(*size, canvas=False)

        def batch(self, *_):
            raise AssertionError("restores what cannot be written")

    for extension, name in ((".jpg", "clear"), (".webp", "long"), (".jpg", "longer")):
        (job,) = list_jobs([folder / f"{name}.png"], tmp_path / "out", extension)
        assert Pipeline(Idle()).run([job]) == Summary(0, 0, 1)
        assert f"{name}{extension}: cannot be written" in capsys.readouterr().err


def test_900_of_1000_photos_are_restored_and_100_reported(
    stub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    rng = np.random.default_rng(0)
    for i in range(1000):
        path = folder / f"{i % 7}" / f"{i:03}.png"
        size = rng.integers(1, 25, 2)
        photos.write(path, Photo(rng.integers(0, 256, (*size, 3), np.uint8)))
        if i % 10 == 0:
            path.write_bytes(path.read_bytes()[: rng.integers(0, 40)])
    restorer = Restorer(stub, mesh=make_mesh(data=4))
    jobs = list_jobs([folder], tmp_path / "out")
    assert Pipeline(restorer).run(jobs) == Summary(900, 0, 100)
    output = capsys.readouterr()
    assert re.search(
        r"^900 images of \d+ sizes to compute: \d+ programs?, ", output.out, re.MULTILINE
    )
    reported = output.err.strip().splitlines()
    assert len(reported) == 100
    assert all(line.startswith(str(folder)) for line in reported)
    alone = Restorer(stub)
    for job in jobs[::50]:
        if job.target.exists():
            after = photos.read(job.target).pixels
            expected = alone(photos.read(job.source).pixels)
            # Another program rounds another way.
            assert np.abs(after.astype(int) - expected).max() <= 1
    assert sum(job.target.exists() for job in jobs) == 900


def test_a_photo_that_fails_costs_no_other_of_its_batch(stub, photo, folder, tmp_path, monkeypatch):
    for name in "abc":
        photos.write(folder / f"{name}.png", Photo(photo(8, 8) if name != "b" else photo(7, 8)))
    restorer = Restorer(stub, batch_size=4)
    restore = restorer.batch

    def refuse(photos, *arguments):
        if any(len(each) == 7 for each in photos):
            raise UserError("too dark")
        return restore(photos, *arguments)

    monkeypatch.setattr(restorer, "batch", refuse)
    assert Pipeline(restorer).run(list_jobs([folder], tmp_path / "out")) == Summary(2, 0, 1)


def test_results_that_exist_are_skipped_unless_overwritten(stub, photo, folder, tmp_path):
    photos.write(folder / "a.png", Photo(photo(8, 8)))
    photos.write(folder / "b.png", Photo(photo(8, 8)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").write_bytes(b"kept")
    jobs = list_jobs([folder], tmp_path / "out")
    assert Pipeline(Restorer(stub)).run(jobs) == Summary(1, 1, 0)
    assert (tmp_path / "out/a.png").read_bytes() == b"kept"
    assert Pipeline(Restorer(stub), overwrite=True).run(jobs) == Summary(2, 0, 0)
    assert (tmp_path / "out/a.png").read_bytes() != b"kept"


def test_a_sheet_shows_before_and_after(stub, photo, folder, tmp_path):
    photos.write(folder / "a.png", Photo(photo(20, 30, "u2", 4)))
    Pipeline(Restorer(stub), compare=True).run(list_jobs([folder], tmp_path / "out"))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "a.png.compare.jpg"]
    sheet = photos.read(tmp_path / "out/a.png.compare.jpg").pixels
    assert sheet.shape[0] > 20
    assert sheet.shape[1] > 60


def test_a_sheet_that_cannot_be_written_is_reported_and_the_photo_counts_as_restored(
    stub, photo, folder, tmp_path, capsys: pytest.CaptureFixture
):
    for name in "ab":
        photos.write(folder / f"{name}.png", Photo(photo(8, 8)))
    (tmp_path / "out/a.png.compare.jpg").mkdir(parents=True)
    jobs = list_jobs([folder], tmp_path / "out")
    summary = Pipeline(Restorer(stub), compare=True).run(jobs)
    assert summary == Summary(2, 0, 0, failed_sheets=1)
    assert "a.png.compare.jpg: cannot be written" in capsys.readouterr().err
    assert all(job.target.is_file() for job in jobs)


def test_tiles_are_printed(stub, photo, folder, tmp_path, capsys: pytest.CaptureFixture):
    photos.write(folder / "a.png", Photo(photo(100, 200)))
    Pipeline(Restorer(stub, tile=128)).run(list_jobs([folder], tmp_path / "out"))
    assert "200x104, 2 tiles of 128x104" in capsys.readouterr().out


def test_a_photo_that_fits_no_memory_fails_alone(
    stub, photo, folder, tmp_path, capsys, monkeypatch
):
    photos.write(folder / "large.png", Photo(photo(300, 300)))
    photos.write(folder / "small.png", Photo(photo(8, 8)))
    restorer = Restorer(stub)
    monkeypatch.setattr(restorer._tiling, "_available_bytes", lambda photo: 100_000)
    assert Pipeline(restorer).run(list_jobs([folder], tmp_path / "out")) == Summary(1, 0, 1)
    assert "large.png: a tile of" in capsys.readouterr().err


ENDLESS = """
import sys
from pathlib import Path
from mprnet_jax.restoration import pipeline
from mprnet_jax.restoration.folders import list_jobs
from mprnet_jax.restoration.costs import ProgramShape
from mprnet_jax.restoration.planning import Plan

class Copier:
    batch_size = 1
    def plan(self, sizes):
        return Plan({}, {}, 0)
    def program_for(self, size):
        return ProgramShape(*size, canvas=False)
    def batch(self, photos, progress):
        return photos
    def grid_of(self, photo):
        from mprnet_jax.restoration.tiles import square
        return square(*photo.shape[:2], 4096, 32)

while True:
    jobs = list_jobs([Path(sys.argv[1])], Path(sys.argv[2]))
    pipeline.Pipeline(Copier(), overwrite=True).run(jobs)
"""


def test_a_killed_run_leaves_whole_files_only(launch, photo, folder: Path, tmp_path: Path):
    for i in range(8):
        photos.write(folder / f"{i}.png", Photo(photo(300, 300)))
    out = tmp_path / "out"
    for _ in range(3):
        with (tmp_path / "printed.txt").open("w") as printed:
            process = launch(
                ["-c", ENDLESS, folder, out], dict(os.environ), stdout=printed, stderr=printed
            )
        deadline = time.monotonic() + 60
        while not (out / "7.png").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
        results = [p for p in out.iterdir() if p.name[0] != "."]
        assert results
        for path in results:
            np.testing.assert_array_equal(photos.read(path).pixels, photo(300, 300))
            path.unlink()
