"""By hand: the page that restores photos in the browser, docs/browser/index.html, in Chromium."""

import functools
import http.server
import re
import shutil
import threading

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from mprnet_jax import Restorer, load
from mprnet_jax.data import sample
from mprnet_jax.export import formats
from mprnet_jax.weights import files

CDNS = ("https://cdn.jsdelivr.net/npm/", "https://unpkg.com/")


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def page(onnxruntime_web, tab, tmp_path, pytestconfig):
    """The page; its files are in `page.folder`, and both CDNs hand out what npm does."""
    folder = tmp_path / "page"
    shutil.copytree(pytestconfig.rootpath / "docs/browser", folder)
    (folder / "denoise.onnx").write_bytes(formats.encode(".onnx", files.read("denoise")))

    def hand_out(route):
        name = re.sub(r".*/onnxruntime-web@[\d.]+/", "", route.request.url)
        headers = {"Access-Control-Allow-Origin": "*"}
        route.fulfill(path=onnxruntime_web / name, headers=headers)

    for cdn in CDNS:
        tab.route(f"{cdn}**", hand_out)
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab.folder, tab.address = folder, f"http://127.0.0.1:{server.server_port}/"
        tab.set_default_timeout(600_000)
        tab.goto(tab.address)
        yield tab
        server.shutdown()


def restore(page, path) -> np.ndarray:
    """Chooses a photo, and returns the one that is downloaded."""
    page.locator("input").set_input_files(path)
    with page.expect_download() as download:
        page.get_by_text(f"Download {path.stem}-restored.png").click()
    restored = path.with_name("restored.png")
    download.value.save_as(restored)
    return np.asarray(Image.open(restored))


def noisy_photo() -> np.ndarray:
    photo = sample.photo("chelsea.png")
    photo = np.pad(photo, [(0, 0), (0, 420 - photo.shape[1]), (0, 0)], "reflect")[:300]
    noise = np.random.default_rng(0).normal(scale=25, size=photo.shape)
    return (photo + noise).clip(0, 255).astype(np.uint8)


def test_photos_come_back_as_restore_makes_them_and_go_nowhere(page, tmp_path):
    photo = noisy_photo()
    Image.fromarray(photo).save(tmp_path / "noisy.png")
    found = restore(page, tmp_path / "noisy.png")
    expected = Restorer(load("denoise"), tile=256, overlap=32)(photo)
    assert found.shape == (300, 420, 4)
    assert (found[..., 3] == 255).all()
    difference = np.abs(found[..., :3].astype(int) - expected)
    assert np.abs(photo.astype(int) - expected).max() > 50
    assert difference.max() <= 1  # where float32 rounding crosses the border of a level
    assert (difference > 0).mean() < 1e-3
    files = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
    cdn = f"{CDNS[0]}onnxruntime-web@"
    elsewhere = [url for url in page.asked if not url.startswith(("blob:", "data:"))]
    assert len(elsewhere) == len(set(elsewhere)) == 4
    for url in elsewhere:
        here = url in (page.address, f"{page.address}denoise.onnx")
        assert here or (url.startswith(cdn) and url.endswith(files)), url


def test_alpha_and_orientation_are_kept(page, tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (9, 33, 4), np.uint8)
    Image.fromarray(photo).save(tmp_path / "alpha.png")
    found = restore(page, tmp_path / "alpha.png")
    np.testing.assert_array_equal(found[..., 3], photo[..., 3])

    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    photo = np.zeros((16, 40, 3), np.uint8)
    photo[:, 30:] = 255
    Image.fromarray(photo).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    found = restore(page, tmp_path / "turned.jpg")
    assert found.shape == (40, 16, 4)
    assert found[:25, :, :3].max() < 50
    assert found[35:, :, :3].min() > 200


def test_a_script_that_was_changed_is_refused_and_comes_from_the_other_cdn(page, tmp_path):
    headers = {"Access-Control-Allow-Origin": "*"}
    page.route(f"{CDNS[0]}**", lambda route: route.fulfill(body="changed", headers=headers))
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    assert restore(page, tmp_path / "black.png").shape == (8, 8, 4)
    assert sum(url.startswith(CDNS[1]) for url in page.asked) == 2


def test_mistakes_are_one_line_and_can_be_made_good(page, tmp_path):
    status = page.get_by_role("status")
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    (tmp_path / "bad.png").write_text("no picture")
    page.locator("input").set_input_files(tmp_path / "bad.png")
    expect(status).to_have_text("bad.png: is no picture that this browser can read")

    Image.new("L", (70_000, 1)).save(tmp_path / "wide.png")
    page.locator("input").set_input_files(tmp_path / "wide.png")
    expect(status).to_have_text(
        "wide.png: 70000x1 pixels are more than this browser can hold; shrink it"
    )

    network = page.folder / "denoise.onnx"
    network.rename(tmp_path / "denoise.onnx")
    page.locator("input").set_input_files(tmp_path / "black.png")
    expect(status).to_contain_text("denoise.onnx: not found beside this page; make it with")
    network.write_text("no network")
    page.locator("input").set_input_files(tmp_path / "black.png")
    expect(status).to_contain_text("black.png: cannot be restored: ", timeout=600_000)
    (tmp_path / "denoise.onnx").rename(network)
    page.reload()

    for cdn in CDNS:
        page.route(f"{cdn}**", lambda route: route.abort())
    page.locator("input").set_input_files(tmp_path / "black.png")
    expect(status).to_contain_text("cannot be loaded from cdn.jsdelivr.net or unpkg.com")
    for cdn in CDNS:
        page.unroute(f"{cdn}**")
