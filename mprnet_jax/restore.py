"""Restores photos and videos with trained weights.

Without --weights it removes noise, with a network that comes with the package.

Examples:
    python -m mprnet_jax.restore --input noisy.jpg
    python -m mprnet_jax.restore --weights runs/derain --input rainy.jpg --output restored
    python -m mprnet_jax.restore --weights runs/derain --input photos/*.jpg clip.mp4
    python -m mprnet_jax.restore --weights deblur.safetensors --input photos --output restored \\
        --local_pooling --ensemble --compare
"""

import sys
import time
import warnings

from absl import flags
from PIL import Image

from mprnet_jax import command, paths
from mprnet_jax.atomic import make_folder
from mprnet_jax.errors import UserError
from mprnet_jax.export import runtimes
from mprnet_jax.imageio import photos
from mprnet_jax.restoration import folders
from mprnet_jax.restoration.pipeline import Pipeline, Summary
from mprnet_jax.restoration.restorer import ENGINES, Restorer
from mprnet_jax.restoration.video import VIDEOS, restore_video
from mprnet_jax.weights import pretrained

WEIGHTS = flags.DEFINE_string(
    "weights",
    pretrained.DEFAULT,
    f"{pretrained.NAMES}, which come with the package, a run folder, .safetensors, .pth or "
    "hf://OWNER/NAME.",
)
INPUT = flags.DEFINE_multi_string(
    "input",
    [],
    "A photo, a folder of photos (with its subfolders) or a video; may be given several times, and "
    "more of them may follow.",
)
OUTPUT = flags.DEFINE_string("output", "restored", "The folder for restored photos.")
FORMAT = flags.DEFINE_enum(
    "format",
    None,
    list(photos.EXTENSIONS),
    "Format of results; by default that of each photo.",
)
QUALITY = flags.DEFINE_integer(
    "quality",
    photos.QUALITY,
    "Quality of JPEG, WebP, AVIF and HEIC; 100 makes WebP lossless.",
    1,
    100,
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Restores again what is in --output already.")
COMPARE = flags.DEFINE_bool(
    "compare", False, "Writes a sheet beside each restored photo that shows it before and after."
)
STAGES = flags.DEFINE_integer("stages", None, "Number of stages, by default all.", 1)
LOCAL_POOLING = flags.DEFINE_bool(
    "local_pooling",
    False,
    "Lets channel attention average around each pixel, as on patches in training (TLC): often "
    "better on large photos, sometimes tinted.",
)
ENSEMBLE = flags.DEFINE_bool(
    "ensemble", False, "Averages over the 8 symmetries of the square: better, 8 times slower."
)
DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Type of feature maps; bfloat16 for accelerators."
)
ENGINE = flags.DEFINE_enum(
    "engine",
    "auto",
    list(ENGINES),
    "What computes the network; all but jax use the CPU. auto: openvino, the fastest on one CPU, "
    "where it is installed and has the options; else jax.",
)
TILE = flags.DEFINE_string(
    "tile",
    "auto",
    "Side in pixels of the tiles that photos are restored in; off: whole; auto: whole where memory "
    "allows, else in the largest tiles that fit.",
)
MEMORY_LIMIT = flags.DEFINE_float(
    "memory_limit_gb",
    None,
    "For --tile=auto: the most memory, in GiB, that the process may have in use on each device, or "
    "on all CPUs together.",
    0.1,
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 1, "Photos, tiles or frames that a device restores at once.", 1
)
SHARD_HEIGHT = flags.DEFINE_integer(
    "shard_height", 1, "Devices that share the rows of one photo; exact. The rest share photos.", 1
)
MAX_MEGAPIXELS = flags.DEFINE_float(
    "max_megapixels", photos.MAX_PIXELS / 1e6, "Larger photos are refused unread.", 1e-6
)


def main() -> None:
    """Runs the command."""
    warnings.filterwarnings("ignore", module="PIL")  # of damaged metadata
    Image.MAX_IMAGE_PIXELS = None  # --max_megapixels takes its place
    extension = photos.EXTENSIONS[FORMAT.value] if FORMAT.value else None
    try:
        jobs = folders.list_jobs(INPUT.value, OUTPUT.value, extension, VIDEOS)
        sources = [paths.absolute(source) for source in INPUT.value]
        others = folders.describe_left_out(sources, paths.anywhere(OUTPUT.value))
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    videos = [job for job in jobs if job.source.suffix.lower() in VIDEOS]
    pictures = [job for job in jobs if job.source.suffix.lower() not in VIDEOS]
    if videos and (FORMAT.value or COMPARE.value):
        raise UserError("--format and --compare are for photos; leave them out for a video")
    restorer = make_restorer()
    make_folder(paths.anywhere(OUTPUT.value))  # now, as restoring may take hours
    start = time.monotonic()
    summary = restore_photos(restorer, pictures) if pictures else Summary(0, 0, 0)
    skipped, failed = summary.skipped, summary.failed
    for job in videos:
        if paths.exists(job.target) and not OVERWRITE.value:
            skipped += 1
            continue
        try:
            restored = restore_video(job.source, job.target, restorer, max_pixels())
            print(paths.shown(f"{restored.frames} frames restored: {job.target}"))
            if restored.left_out:
                print(f"left out of the video: {', '.join(restored.left_out)}")
        except UserError as error:
            print(paths.shown(error), file=sys.stderr)
            failed += 1
    print(
        f"{len(jobs) - skipped - failed} restored, {skipped} skipped because they exist, "
        f"{failed} failed, in {time.monotonic() - start:.1f} s: {OUTPUT.value}"
    )
    if others:
        print(f"not restored, as they are no photos: {others}")
    if summary.left_out:
        print(f"left out of restored photos: {summary.left_out}")
    if failed:
        files = "files" if videos else "photos"
        raise UserError(f"{failed} of {len(jobs)} {files} failed, see above")
    if summary.failed_sheets:
        raise UserError(f"{summary.failed_sheets} sheets failed, see above")


def restore_photos(restorer: Restorer, jobs: list[folders.Job]) -> Summary:
    """Restores photos and prints why others failed."""
    pipeline = Pipeline(
        restorer,
        quality=QUALITY.value,
        max_pixels=max_pixels(),
        overwrite=OVERWRITE.value,
        compare=COMPARE.value,
    )
    return pipeline.run(jobs)


def max_pixels() -> int:
    """Returns the most pixels that a photo or a frame may have."""
    return int(MAX_MEGAPIXELS.value * 1e6)


def make_restorer() -> Restorer:
    """Makes a restorer from the flags."""
    from mprnet_jax import load
    from mprnet_jax.devices import compiling
    from mprnet_jax.devices.mesh import make_mesh

    if not flags.FLAGS["weights"].present:
        print(pretrained.describe_default())
    compiling.use_compile_cache()
    on_devices = ENGINE.value in ("auto", "jax") or SHARD_HEIGHT.value > 1
    restorer = Restorer(
        load(WEIGHTS.value, dtype=DTYPE.value),
        tile=int(TILE.value) if TILE.value.isdigit() else TILE.value,
        local_pooling=LOCAL_POOLING.value,
        ensemble=ENSEMBLE.value,
        stages=STAGES.value,
        batch_size=BATCH_SIZE.value,
        mesh=make_mesh(height=SHARD_HEIGHT.value) if on_devices else None,
        engine=ENGINE.value,
        memory_limit=int(MEMORY_LIMIT.value * 2**30) if MEMORY_LIMIT.value else None,
    )
    if restorer.engine != "jax" and ENGINE.value == "auto":
        print(
            f"Computing with {runtimes.describe(restorer.engine)}; --engine jax computes with JAX"
        )
    return restorer


if __name__ == "__main__":
    command.run(main, required=(WEIGHTS, INPUT, OUTPUT), rest=INPUT)
