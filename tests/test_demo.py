"""The page, in a real browser: Chromium from the system, driven by Playwright."""

import contextlib
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from mprnet_jax import Restorer, load
from mprnet_jax.config import ModelConfig
from mprnet_jax.data.sample import photo
from mprnet_jax.imageio import photos
from mprnet_jax.imageio.photos import Photo
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.weights import files

ROOT = Path(__file__).parents[1]
PATIENCE = 120  # seconds; CI's machines may be busy


@contextlib.contextmanager
def serving(launch, weights: Path, scratch: Path, *arguments: str) -> Iterator[str]:
    """The page's address while the command runs; its files lie in `scratch`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scratch.mkdir()
    variables = {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "TMPDIR": str(scratch),
    }
    command = ["-m", "mprnet_jax.demo", f"--weights={weights}", f"--port={port}", *arguments]
    printed = scratch.parent / "printed.txt"
    with printed.open("w") as output:
        server = launch(command, os.environ | variables, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + PATIENCE
        while f"http://127.0.0.1:{port} shows the page" not in printed.read_text():
            assert server.poll() is None, printed.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        returncode = server.wait(timeout=PATIENCE)
    assert returncode == 0, printed.read_text()
    assert not list(scratch.glob("mprnet_jax-*")), "files were left behind"


def drop(tab, file: Path) -> None:
    """Chooses a file, in place of one that was chosen."""
    if tab.get_by_label("Clear").count():
        tab.get_by_label("Clear").first.click()
    tab.locator("input[type=file]").set_input_files(file)
    tab.get_by_text("⇣").wait_for()  # beside the size of what has arrived


def restore(tab) -> None:
    tab.get_by_role("button", name="Restore", exact=True).click()


def test_a_photo_is_restored_and_a_bad_file_is_refused(launch, tiny_model, tab, tmp_path: Path):
    weights = tmp_path / "tiny.safetensors"
    tiny_model.stages = "orsnet+orsnet"
    write_weights(weights, tiny_model)
    pixels = photo("chelsea.png")[:90, :130]
    photos.write(tmp_path / "cat.jpg", Photo(pixels))
    deep = np.random.default_rng(0).integers(0, 65536, (136, 200, 4), np.uint16)
    photos.write(tmp_path / "deep.png", Photo(deep))
    (tmp_path / "bad.png").write_text("no picture")
    with serving(launch, weights, tmp_path / "scratch") as address:
        tab.goto(address)

        drop(tab, tmp_path / "cat.jpg")
        restore(tab)
        with tab.expect_download() as download:
            tab.get_by_role("button", name="Download cat-restored.png").click()
        download.value.save_as(tmp_path / "restored.png")
        sides = tab.locator("img[src*='/gradio_api/file=']")  # of the slider
        sides.first.wait_for()
        assert sides.count() == 2

        drop(tab, tmp_path / "bad.png")
        assert tab.get_by_role("button", name="Download", exact=True).is_disabled()
        restore(tab)
        message = "bad.png: is not a PNG, JPEG, WebP, AVIF, TIFF, BMP or HEIC picture"
        tab.get_by_text(message).wait_for()

        drop(tab, tmp_path / "deep.png")
        tab.get_by_label("1", exact=True).check()
        tab.get_by_label("Local pooling").check()
        restore(tab)
        with tab.expect_download() as download:
            tab.get_by_role("button", name="Download deep-restored.png").click()
        download.value.save_as(tmp_path / "deep-restored.png")

    model = load(weights)
    expected = Restorer(model)(photos.read(tmp_path / "cat.jpg").pixels)
    np.testing.assert_array_equal(photos.read(tmp_path / "restored.png").pixels, expected)
    expected = Restorer(model, stages=1, local_pooling=True)(deep[..., :3])
    found = photos.read(tmp_path / "deep-restored.png").pixels
    np.testing.assert_array_equal(found[..., 3:], deep[..., 3:])
    # Sums of another program may differ in float32's last digit: by one step of 16 bits.
    difference = found[..., :3].astype(int) - expected
    assert abs(difference).max() <= 1
    elsewhere = [url for url in tab.asked if not url.startswith((address, "blob:", "data:"))]
    assert elsewhere == []


def test_files_are_removed_kept_to_themselves_and_limited(launch, make_short_model, tmp_path: Path):
    weights, scratch = tmp_path / "tiny.safetensors", tmp_path / "scratch"
    write_weights(weights, make_short_model())
    limits = ["--keep_minutes=0.05", "--max_upload_mb=0.5"]
    with serving(launch, weights, scratch, *limits) as address:
        (place,) = scratch.glob("mprnet_jax-*")
        assert upload(address, b"x" * 1000) == 200
        assert upload(address, b"x" * 2**20) == 413
        secret = tmp_path / "secret.txt"
        secret.write_text("secret")
        assert status(f"{address}/gradio_api/file={secret}") == 403
        assert status(f"{address}/gradio_api/file=https://example.com/photo.png") == 403
        deadline = time.monotonic() + PATIENCE
        while any(path.is_file() for path in place.rglob("*")):
            assert time.monotonic() < deadline
            time.sleep(0.2)


def write_weights(path: Path, config: ModelConfig) -> None:
    files.write(path, config, pure_functions(config)[0](0))


def upload(address: str, data: bytes) -> int:
    """The status that the server answers an upload with."""
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="photo.png"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    return status(f"{address}/gradio_api/upload", body + data + b"\r\n--b--\r\n", kind)


def status(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> int:
    request = urllib.request.Request(url, body, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("none.pth", "none.pth: there is no such file or folder; give a path"),
        ("tiny.safetensors", "cannot listen there; another program may do so"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    run_python, make_short_model, tmp_path: Path, weights, message
):
    write_weights(tmp_path / "tiny.safetensors", make_short_model())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        flags = (f"--weights={weights}", f"--port={taken.getsockname()[1]}")
        cache = str(tmp_path / "cache")
        result = run_python("-m", "mprnet_jax.demo", *flags, cwd=tmp_path, XDG_CACHE_HOME=cache)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr


DELETING = """
import pathlib, sys, time
from mprnet_jax import demo

unlink, passes = pathlib.Path.unlink, iter((None,))

def refuse(path):
    if path.name == "kept":
        raise PermissionError(13, "Permission denied")
    unlink(path)

pathlib.Path.unlink = refuse
demo.time.sleep = lambda _: next(passes)
try:
    demo.delete_old_files(pathlib.Path(sys.argv[1]), 60)
except StopIteration:
    print("went on")
"""


def test_an_old_file_that_cannot_be_removed_is_reported_and_the_next_is_removed(
    run_python, tmp_path
):
    for name in ("kept", "removed"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (0, 0))
    # In a process of its own: commands define flags of the same names.
    result = run_python("-c", DELETING, tmp_path)
    assert result.stdout == "went on\n"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert "kept: cannot be removed" in result.stderr
