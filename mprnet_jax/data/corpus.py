"""The corpus: clean photos under free licences, from Debian packages and scikit-image.

`corpus.csv` lists them. Photos are shrunk by averaging squares of pixels, which removes the traces
of JPEG and of demosaicing. Its splits are "train"; "validation", by which the best checkpoint is
chosen; and "held_out", which is for measuring only. No picture is in two of them.
"""

import csv
import hashlib
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from mprnet_jax.data.pairing import shorten
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.imageio.rgb import decode
from mprnet_jax.imageio.sheets import write_png
from mprnet_jax.threads import parallel_map

LIST = resources.files("mprnet_jax") / "data" / "corpus.csv"
INSTALLED = "scikit-image"  # the only source that is not a Debian package


class Photo(NamedTuple):
    """A row of the list."""

    name: str  # of the file in the corpus, without its extension
    split: str  # "train", "validation" or "held_out"
    package: str
    path: str  # in the package
    shrink: int  # side in pixels of the squares that are averaged
    sha256: str  # of the file in the package
    pixels_sha256: str  # of the bytes of the shrunk photo
    licence: str
    author: str


def read_list() -> list[Photo]:
    """Returns the photos of the corpus."""
    with LIST.open(encoding="utf-8") as file:
        photos = [Photo._make(row) for row in csv.reader(file)][1:]  # without the head
    return [photo._replace(shrink=int(photo.shrink)) for photo in photos]


def write_corpus(photos: list[Photo], packages: Path, output: Path) -> dict[str, int]:
    """Writes photos as PNG files into a new folder, OUTPUT/SPLIT/NAME.png, beside their list.

    Args:
        photos: what to write.
        packages: folder that the packages were unpacked into.
        output: the folder, which must not exist.

    Returns:
        The number of photos of each split.

    Raises:
        UserError: if the folder exists or cannot be written, or if photos are missing or not those
            of the list; then nothing is left behind.
    """
    if output.exists():
        raise UserError(f"{output}: exists already; remove it to make the corpus anew")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=output.parent))
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({one_line(error)})") from error
    try:
        _write(photos, packages, temporary)
        temporary.chmod(0o755)
        temporary.rename(output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({one_line(error)})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    splits = [photo.split for photo in photos]
    return {split: splits.count(split) for split in dict.fromkeys(splits)}


def _write(photos: list[Photo], packages: Path, folder: Path) -> None:
    def write(photo: Photo) -> str:
        """Writes a photo; returns what is wrong with it, or ""."""
        try:
            pixels = open_photo(photo, packages)
        except UserError as error:
            return str(error)
        write_png(folder / photo.split / f"{photo.name}.png", pixels)
        return ""

    for split in {photo.split for photo in photos}:
        (folder / split).mkdir()
    shutil.copyfile(str(LIST), folder / LIST.name)
    results = tqdm(parallel_map(write, photos), "corpus", len(photos), unit="photo")
    if wrong := [result for result in results if result]:
        raise UserError(f"{len(wrong)} of {len(photos)} photos are wrong: {shorten(wrong)}")


def open_photo(photo: Photo, packages: Path) -> np.ndarray:
    """Returns the shrunk photo, uint8 [H, W, 3].

    Raises:
        UserError: if it is missing, or not the one of the list.
    """
    if photo.package == INSTALLED:
        path = Path(str(resources.files("skimage") / photo.path))
    else:
        path = packages / photo.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} of {photo.package} cannot be read ({one_line(error)})") from error
    if hashlib.sha256(content).hexdigest() != photo.sha256:
        raise UserError(f"{path}: is another picture than in the {photo.package} of the list")
    pixels = shrink(decode(path), photo.shrink)
    if hashlib.sha256(pixels.tobytes()).hexdigest() != photo.pixels_sha256:
        raise UserError(f"{path}: is decoded to other pixels than those of the list")
    return pixels


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Averages squares of `factor` pixels a side; drops rows and columns that fill no square.

    Args:
        image: uint8 [H, W, 3].
        factor: 1 or more.

    Returns:
        uint8 [H // factor, W // factor, 3].
    """
    height, width = (side // factor * factor for side in image.shape[:2])
    return np.asarray(Image.fromarray(image[:height, :width]).reduce(factor))
