"""The command that restores photos and videos: what users type, and what it prints."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mprnet_jax.imageio import photos
from mprnet_jax.imageio.photos import Photo
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.weights import files

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(tmp_path: Path, tiny_model, run_python):
    """Runs the command in a folder with `tiny.safetensors` in it, a network of two stages."""
    tiny_model.stages = "orsnet+orsnet"
    files.write(tmp_path / "tiny.safetensors", tiny_model, pure_functions(tiny_model)[0](0))
    command = ("-m", "mprnet_jax.restore")
    cache = str(tmp_path / "cache")
    return functools.partial(run_python, *command, cwd=tmp_path, XDG_CACHE_HOME=cache)


def test_a_folder_with_a_bad_file(run, tmp_path: Path):
    rng = np.random.default_rng(0)
    deep = Photo(rng.integers(0, 65536, (16, 24, 4), np.uint16))
    photos.write(tmp_path / "photos/deep.png", deep)
    photos.write(tmp_path / "photos/more/grey.jpg", Photo(np.zeros((9, 17, 1), np.uint8)))
    (tmp_path / "photos/bad.png").write_text("no picture")
    arguments = ["--weights=tiny.safetensors", "--input=photos", "--output=out"]
    result = run(*arguments, "--compare", "--engine=jax")
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines() == [
        "photos/bad.png: is not a PNG, JPEG, WebP, AVIF, TIFF, BMP or HEIC picture",
        "mprnet_jax.restore: 1 of 3 photos failed, see above",
    ]
    assert "2 restored, 0 skipped because they exist, 1 failed" in result.stdout
    found = sorted(p.relative_to(tmp_path).as_posix() for p in (tmp_path / "out").rglob("*.*"))
    names = ["deep.png", "deep.png.compare.jpg", "more/grey.jpg", "more/grey.jpg.compare.jpg"]
    assert found == [f"out/{name}" for name in names]
    restored = photos.read(tmp_path / "out/deep.png").pixels
    np.testing.assert_array_equal(restored[..., 3], deep.pixels[..., 3])
    assert (restored[..., :3] != deep.pixels[..., :3]).any()
    result = run(*arguments, "--engine=jax")
    assert "0 restored, 2 skipped because they exist, 1 failed" in result.stdout
    assert any((tmp_path / "cache/mprnet_jax").iterdir())  # compiled programs


def test_without_weights_it_removes_noise_and_says_so(run, tmp_path: Path):
    for name in ("photo", "another"):
        photos.write(tmp_path / f"{name}.png", Photo(np.full((48, 64, 3), 128, np.uint8)))
    # As shells write --input *.png, with a flag behind.
    result = run("--input", "photo.png", "another.png", "--stages=3")
    assert result.returncode == 0, result.stderr
    assert "2 restored, 0 skipped" in result.stdout
    assert "Removing noise with the network `denoise` that comes with the package" in result.stdout
    restored = photos.read(tmp_path / "restored/photo.png").pixels
    # A network that removes noise leaves a grey wall as it is; 3 of 255 is hard to see.
    np.testing.assert_allclose(restored.astype(int), 128, atol=3)
    assert "--weights: required, see --help" in run("--input=photo.png", "--weights=").stderr


def test_all_switches_together(run, tmp_path: Path):
    photo = Photo(np.zeros((136, 168, 3), np.uint8))
    for name in ("photo.png", "写真.png", "-c,d.png"):
        photos.write(tmp_path / name, photo)
    switches = "--local_pooling --ensemble --stages=1 --dtype=bfloat16 --tile=128 --format=webp"
    # As a shell gives `--input *.png`: what is no value of a flag is an input too.
    arguments = ["--weights=tiny.safetensors", "--input", "photo.png", "写真.png"]
    arguments += ["--output=~/出力", *switches.split(), "--input=./-c,d.png"]
    result = run(*arguments, HOME=str(tmp_path / "home"), PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "168x136, 4 tiles of 128x128" in result.stdout
    assert "3 restored, 0 skipped because they exist, 0 failed" in result.stdout
    assert result.stdout.endswith("s: ~/\\u51fa\\u529b\n")
    for name in ("photo.webp", "写真.webp", "-c,d.webp"):
        assert photos.read(tmp_path / "home/出力" / name).pixels.shape == (136, 168, 3)
    assert not (tmp_path / "~").exists()


def test_an_engine_that_compiles_nothing(run, tmp_path: Path):
    for width in (24, 32):
        photos.write(tmp_path / f"photos/{width}.png", Photo(np.zeros((16, width, 3), np.uint8)))
    arguments = ["--weights=tiny.safetensors", "--input=photos", "--engine=onnxruntime"]
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    assert "2 restored, 0 skipped" in result.stdout
    assert "2 images of 2 sizes to compute; about" in result.stderr + result.stdout
    assert "ompiling" not in result.stderr + result.stdout


def test_a_video(run, tmp_path: Path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "12:30.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (tmp_path / "bad.mp4").write_text("no video")
    arguments = ["--weights=tiny.safetensors", "--input=12:30.mp4", "--output=out"]
    result = run(*arguments, "./bad.mp4")
    assert result.returncode == 2
    assert "3 frames restored: out/12:30.mp4\n1 restored, 0 skipped" in result.stdout
    message, summary = result.stderr.splitlines()
    assert message.startswith("bad.mp4: cannot be restored as a video")
    assert summary == "mprnet_jax.restore: 1 of 2 files failed, see above"
    assert "0 restored, 1 skipped because they exist, 0 failed" in run(*arguments).stdout


INFINITE = ["--max_megapixels=inf"]
LOCAL = ["--engine=openvino", "--local_pooling"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights=none.safetensors", "--input=photo.png", "--output=out"], "none.safetensors"),
        (["--weights=tiny.safetensors", "--output="], "--input, --output: required"),
        (
            ["--weights=tiny.safetensors", "--input=photo.png", "--output=out", "--tile=100"],
            "tile=100: must be auto, off or a multiple of 8 above 64",
        ),
        (
            ["--weights=tiny.safetensors", "--input=photo.png", "--output=out", *LOCAL],
            "local_pooling=True: is not for engine=openvino; use engine=jax",
        ),
        (
            ["--weights=tiny.safetensors", f"--input={'x' * 300}.png", "--output=out"],
            "xxx.png: ",
        ),
        (
            ["--weights=tiny.safetensors", "--input=photo.png", "--output=out", *INFINITE],
            "--max_megapixels=inf: must be a finite number",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(run, tmp_path: Path, arguments, message):
    photos.write(tmp_path / "photo.png", Photo(np.zeros((8, 8, 3), np.uint8)))
    result = run(*arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert not (tmp_path / "out").exists()


def test_help_shows_an_example():
    command = [sys.executable, "-m", "mprnet_jax.restore", "--help"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0
    assert "python -m mprnet_jax.restore --weights runs/derain" in result.stdout
    assert "--[no]local_pooling" in result.stdout
