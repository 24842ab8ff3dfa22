"""A page to try weights on: drop a photo, compare before and after, download the result.

Needs the extra `demo`. Example:

    python -m mprnet_jax.demo

It removes noise, with a network that comes with the package, unless --weights names another.
The page is for this machine alone unless --host says otherwise. It loads nothing from other
servers. Uploads are removed after --keep_minutes and when the command ends.
"""

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

from absl import flags, logging
from PIL import Image

from mprnet_jax import Restorer, command, load
from mprnet_jax.compat.gradio import refuse_urls
from mprnet_jax.devices import compiling
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.imageio import photos
from mprnet_jax.restoration.pipeline import restore_photos, to_rgb8
from mprnet_jax.weights import pretrained

WEIGHTS = flags.DEFINE_string(
    "weights",
    pretrained.DEFAULT,
    f"{pretrained.NAMES}, which come with the package, a run folder, .safetensors, .pth or "
    "hf://OWNER/NAME.",
)
HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen on; with 0.0.0.0 any other machine can use the page."
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
JPEG, WebP, AVIF, TIFF or BMP file of at most {upload:g} MB and {pixels:g} megapixels. The download
is a lossless PNG with the photo's transparency and metadata, of 8 or 16 bits; what PNG cannot hold
is named.
"""


def main() -> None:
    """Runs the command: serves the page until it is interrupted."""
    compiling.use_compile_cache()
    model = load(WEIGHTS.value)  # before the Hub is closed to all
    gradio = import_gradio()
    if not flags.FLAGS["weights"].present:
        print(pretrained.describe_default())
    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory(prefix="mprnet_jax-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        threading.Thread(
            target=delete_old_files, args=(Path(folder), KEEP.value * 60), daemon=True
        ).start()
        page = make_page(gradio, model)
        try:
            page.launch(
                server_name=HOST.value,
                server_port=PORT.value,
                share=False,
                ssr_mode=False,
                max_file_size=int(MAX_UPLOAD.value * 2**20),
                theme=gradio.themes.Base(font="system-ui", font_mono="monospace"),  # no web fonts
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
        threading.Event().wait()  # Gradio's own wait would print more lines for Ctrl-C


def stop(*_: Any) -> None:
    """Handles SIGTERM as Ctrl-C, so that uploads are removed; further signals are ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)


def import_gradio() -> ModuleType:
    """Imports Gradio, with its statistics, its history and its fetching of addresses turned off.

    Raises:
        UserError: if Gradio is missing, or has changed so that fetching cannot be turned off.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise UserError("the page needs Gradio: pip install 'mprnet-jax[demo]'") from error
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True  # --weights may have imported it already
    refuse_urls(gradio)
    return gradio


def delete_old_files(folder: Path, seconds: float) -> None:
    """Removes files in a folder once they are older than so many seconds; never returns.

    A file that cannot be removed is logged and tried again.

    Gradio's own `delete_cache` would leave the parts of uploads that were broken off.
    """
    while True:
        time.sleep(min(seconds / 2, 60))
        files = [Path(parent) / name for parent, _, names in os.walk(folder) for name in names]
        for file in files:
            try:
                if time.time() - file.stat().st_mtime > seconds:
                    file.unlink()
            except FileNotFoundError:
                pass  # Gradio moves files meanwhile
            except OSError as error:
                logging.warning("%s: cannot be removed (%s)", file, one_line(error))


def make_page(gradio: ModuleType, model: Any) -> Any:
    """Makes the page, a `gradio.Blocks`, for one network."""
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
                count = len(model.config.subnets)
                stages = gradio.Radio(
                    [*range(1, count + 1)], value=count, label="Stages", info="Fewer are faster."
                )
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
            cancels=[clearing],  # or on a busy machine it might clear the result
            show_progress_on=slider,
            api_visibility="private",
        )
    return page


def nothing_restored(gradio: ModuleType) -> tuple:
    """Returns the empty slider and the disabled download button."""
    return None, gradio.DownloadButton("Download", value=None, interactive=False)


def make_restore(gradio: ModuleType, model: Any) -> Callable[..., Iterator[tuple]]:
    """Returns the function that the button calls, which restores one uploaded file."""
    warnings.filterwarnings("ignore", module="PIL")  # of damaged metadata
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
            chosen = restorer(stages, local_pooling, tile)
            progress(0, desc="Restoring; a new size of photo may have to compile first")
            (after,) = restore_photos(
                chosen, [before], lambda share: progress(share, desc="Restoring")
            )
        except UserError as error:
            message = str(error).replace(path, source.name)
            raise gradio.Error(message, print_exception=False) from error
        # Gradio copies the file before it resumes this generator, which then removes it.
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{source.stem}-restored.png"
            if left_out := photos.write(file, after):
                gradio.Info(f"Left out: {', '.join(left_out)}")
            yield (
                (to_rgb8(before), to_rgb8(after)),
                gradio.DownloadButton(f"Download {file.name}", value=file, interactive=True),
            )

    return restore


if __name__ == "__main__":
    command.run(main, required=(WEIGHTS,))
