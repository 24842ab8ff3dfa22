"""A page to try weights on: drop a photo, compare before and after, download the result.

Needs the extra `demo`. Example:

    python -m mprnet_jax.demo --weights runs/derain-sample

The page is for this machine alone unless --host says otherwise. It loads nothing from elsewhere,
and what people upload is removed after --keep_minutes and when the command ends.
"""

import contextlib
import functools
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags

from mprnet_jax import command
from mprnet_jax.errors import UserError

WEIGHTS = flags.DEFINE_string("weights", None, "A run folder, a .safetensors or a .pth file.")
HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen on; 0.0.0.0 lets other machines in, whoever they are."
)
PORT = flags.DEFINE_integer("port", 7860, "Port to listen on.", 1, 65535)
MAX_UPLOAD = flags.DEFINE_float(
    "max_upload_mb", 50, "Larger files are refused while they arrive.", 1e-3
)
MAX_MEGAPIXELS = flags.DEFINE_float(
    "max_megapixels", 50, "Photos with more are refused unread.", 1e-6
)
KEEP = flags.DEFINE_float(
    "keep_minutes", 10, "What was uploaded and restored is removed after so long.", 0.01
)

TILES = ["auto", "off", 256, 512, 1024]
INTRODUCTION = """# MPRNet
Takes rain, motion blur or noise out of a photo, whichever `{weights}` was trained for. Drop a PNG,
JPEG, WebP, TIFF or BMP file of at most {upload:g} MB and {pixels:g} megapixels. The download is a
lossless PNG with the photo's own depth, transparency and metadata.
"""


def main() -> None:
    """Runs the command: serves the page until it is interrupted."""
    from mprnet_jax import load
    from mprnet_jax.devices import compiling

    gradio = import_gradio()
    compiling.use_compile_cache()
    model = load(WEIGHTS.value)
    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory(prefix="mprnet_jax-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        threading.Thread(
            target=keep_clean, args=(Path(folder), KEEP.value * 60), daemon=True
        ).start()
        page = make_page(gradio, model)
        try:
            page.launch(
                server_name=HOST.value,
                server_port=PORT.value,
                share=False,
                ssr_mode=False,
                max_file_size=int(MAX_UPLOAD.value * 2**20),
                theme=gradio.themes.Base(font="system-ui", font_mono="monospace"),  # none to load
                footer_links=[],
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise UserError(
                f"--host={HOST.value}, --port={PORT.value}: cannot listen there; another program "
                "may do so: choose another port"
            ) from error
        print(f"http://{HOST.value}:{PORT.value} shows the page until Ctrl-C", flush=True)
        page.block_thread()


def stop(*_: Any) -> None:
    """Ends the command on SIGTERM as on Ctrl-C, so that the files go; once is enough."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)


def import_gradio() -> ModuleType:
    """Gradio, told to send nothing home, to record nothing and to fetch nothing; or UserError."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio
        import safehttpx  # through which Gradio would fetch what a request names by address
    except ImportError as error:
        raise UserError("the page needs Gradio: pip install 'mprnet-jax[demo]'") from error
    safehttpx.async_validate_url = refuse_address
    gradio.processing_utils.PUBLIC_HOSTNAME_WHITELIST.clear()
    return gradio


async def refuse_address(*_: Any) -> str:
    """Stands in for the check of which addresses may be fetched: none."""
    raise ValueError("this page fetches nothing from elsewhere")


def keep_clean(folder: Path, seconds: float) -> None:
    """Removes, for ever, the files in a folder that are older than that.

    Gradio's own `delete_cache` would leave what an upload that broke off had brought.
    """
    while True:
        time.sleep(min(seconds / 2, 60))
        for file in [path for path in folder.rglob("*") if path.is_file()]:
            with contextlib.suppress(FileNotFoundError):  # Gradio moves files, too
                if time.time() - file.stat().st_mtime > seconds:
                    file.unlink()


def make_page(gradio: ModuleType, model: Any) -> Any:
    """The page, a `gradio.Blocks`, for one network."""
    restore = make_restore(gradio, model)
    introduction = INTRODUCTION.format(
        weights=Path(WEIGHTS.value).name, upload=MAX_UPLOAD.value, pixels=MAX_MEGAPIXELS.value
    )
    with gradio.Blocks(title="MPRNet") as page:
        gradio.Markdown(introduction)
        with gradio.Row():
            with gradio.Column(scale=1):
                # Not an Image, which would decode and encode the file before we see it.
                photo = gradio.File(label="Photo", file_count="single")
                stages = gradio.Radio([1, 2, 3], value=3, label="Stages", info="Fewer are faster.")
                pooling = gradio.Checkbox(
                    label="Local pooling",
                    info="Attention averages around each pixel (TLC): often better on large "
                    "photos, at times tinted.",
                )
                tile = gradio.Dropdown(
                    TILES,
                    value="auto",
                    label="Tile",
                    info="Side in pixels; auto: whole where memory allows; off: whole.",
                )
                button = gradio.Button("Restore", variant="primary")
            with gradio.Column(scale=2):
                slider = gradio.ImageSlider(
                    label="Before and after",
                    format="png",
                    buttons=["fullscreen"],  # its own download would be 8 bits without metadata
                    interactive=False,
                    max_height=700,
                )
                download = gradio.DownloadButton("Download", interactive=False)
        clearing = photo.change(
            lambda: nothing_restored(gradio),
            outputs=[slider, download],
            api_visibility="private",
        )
        button.click(
            restore,
            [photo, stages, pooling, tile],
            [slider, download],
            concurrency_limit=1,  # one photo at a time has all the memory
            cancels=[clearing],  # which on a busy machine might end last, and take the result away
            show_progress_on=slider,
            api_visibility="private",
        )
    return page


def nothing_restored(gradio: ModuleType) -> tuple:
    """What the slider and the button for the download show before there is a result."""
    return None, gradio.DownloadButton("Download", value=None, interactive=False)


def make_restore(gradio: ModuleType, model: Any) -> Callable[..., Iterator[tuple]]:
    """What the button calls: restores one uploaded file."""
    from PIL import Image

    from mprnet_jax.imageio import photos
    from mprnet_jax.restoration.pipeline import restore_photos, to_rgb8
    from mprnet_jax.restoration.restorer import Restorer

    warnings.filterwarnings("ignore", module="PIL")  # tells of damaged metadata, at length
    Image.MAX_IMAGE_PIXELS = None  # --max_megapixels takes its place

    @functools.lru_cache(maxsize=4)  # each holds compiled programs
    def restorer(stages: int, local_pooling: bool, tile: int | str) -> Restorer:
        return Restorer(model, stages=stages, local_pooling=local_pooling, tile=tile)

    def restore(path, stages, local_pooling, tile, progress=gradio.Progress()):  # noqa: B008
        if path is None or not Path(path).is_file():
            message = f"Drop a photo first; photos are removed after {KEEP.value:g} minutes."
            raise gradio.Error(message, print_exception=False)
        source = Path(path)
        yield nothing_restored(gradio)
        progress(0, desc="Reading")
        try:
            before = photos.read(source, int(MAX_MEGAPIXELS.value * 1e6))
            tool = restorer(stages, local_pooling, tile)
            progress(0, desc="Restoring; a new size of photo may have to compile first")
            (after,) = restore_photos(
                tool, [before], lambda share: progress(share, desc="Restoring")
            )
        except UserError as error:
            message = str(error).replace(path, source.name)
            raise gradio.Error(message, print_exception=False) from error
        # Gradio copies what is yielded before it asks for more, so the file can go at the end.
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{source.stem}-restored.png"
            photos.write(file, after)
            yield (
                (to_rgb8(before), to_rgb8(after)),
                gradio.DownloadButton(f"Download {file.name}", value=file, interactive=True),
            )

    return restore


if __name__ == "__main__":
    command.run(main, needed=(WEIGHTS,))
